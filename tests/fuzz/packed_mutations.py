"""Damage and lies for packed files: bytes changed at random, and metadata changed under hashes that are right."""

import hashlib
import json
import random
from collections.abc import Iterator
from typing import Any

from . import made_packed_files

# What JSON cannot be written from: a text in the description that stands for another text.
TOKENS = {
    "@nan@": "NaN",
    "@inf@": "Infinity",
    "@-inf@": "-Infinity",
    "@huge float@": "1e999",
    "@huge int@": "1" + "0" * 4000,
    "@too huge int@": "1" + "0" * 5000,
    "@deep list@": "[" * 900 + "]" * 900,
    "@deeper list@": "[" * 50_000 + "]" * 50_000,
    "@deep object@": '{"a":' * 900 + "1" + "}" * 900,
    "@surrogate@": '"\\ud800"',
    "@twice@": '{"a":1,"a":2}',
}
LARGE = {  # rare: each takes milliseconds
    "@many axes@": "[" + ",".join(["1"] * 100_000) + "]",
    "@many large axes@": "[" + ",".join(["1099511627776"] * 30_000) + "]",
    "@many shifts@": "[" + ",".join(["[0,0]"] * 80_000) + "]",
    "@many names@": "[" + ",".join(f'"{n}"' for n in range(50_000)) + "]",
    "@many lists@": "[" + ",".join(["[]"] * 160_000) + "]",
    "@long text@": '"' + "x" * 500_000 + '"',
}
INTERESTING = [
    None, True, False, -1, 0, 1, 2, 3, 7, 64, 255, 256, 1500, 5000, 2**20, 2**31, 2**40, 2**62, 2**64, 10**30,
    0.5, -0.0, 1e300, "", "x", ".", "a\nb", "\x1b[31m", "\u202e", "é" * 40, [], {}, [[]], [[1]], {"a": []}, {"float32": [1]},
]  # fmt: skip
WORDS = [
    "aligned", "rotated", "permuted", "hadamard", "shifted", "columns", "sign", "ternary", "codebook", "low_rank", "code",
    "copies", "shifts", "rank", "index_bits", "exponents", "offsets", "stem", "weight", "bias", "tile_bits", "alphas",
    "int64", "float32", "F8_E4M3", "F8_E5M2", "BF16", "F64", "F4", "C64", "U8", "BOOL", "forward", "in_proj_weight",
    "zeros", "ones", "float16", "bfloat16", "int8", "side", "kept",
]  # fmt: skip
DTYPES = [
    "F8_E4M3",
    "F8_E5M2",
    "F8_E8M0",
    "F4",
    "F6_E2M3",
    "BF16",
    "C64",
    "F16",
    "F64",
    "I64",
    "U8",
    "I8",
    "BOOL",
]
JSON_FIELDS = ("tbn_layers", "tbn_aliases", "tbn_inputs", "tbn_config", "tbn_small")
Json = Any


def mutated(content: bytes, other: bytes, random_: random.Random) -> tuple[str, bytes]:
    """(what was done, the bytes of a changed file). other: another file, to take parts from."""
    kinds = {"bytes": 2, "header": 2, "metadata": 3, "lies": 3, "values": 1}
    (kind,) = random_.choices(list(kinds), list(kinds.values()))
    if kind == "bytes":
        return kind, _changed_bytes(content, other, random_)
    header, data = made_packed_files.opened(content)
    if kind == "header":
        _change(header, random_)
        return kind, assembled(header, data, random_)
    if kind == "metadata":
        _change_metadata(header["__metadata__"], random_)
    if kind == "lies":
        _lie(header["__metadata__"], random_)
    if kind == "values" or random_.random() < 0.1:
        data = _changed_values(data, random_)
    return kind, assembled(header, data, random_)


# Bytes.


def _changed_bytes(content: bytes, other: bytes, random_: random.Random) -> bytes:
    changed = bytearray(content)
    at = random_.randrange(len(changed))
    end = min(len(changed), at + random_.choice([1, 2, 8, 64, 512]))
    way = random_.choice(["flip", "cut", "drop", "repeat", "other", "length", "noise"])
    if way == "flip":
        for _ in range(random_.randint(1, 4)):
            changed[random_.randrange(len(changed))] ^= 1 << random_.randrange(8)
    elif way == "cut":
        del changed[at:]
    elif way == "drop":
        del changed[at:end]
    elif way == "repeat":
        changed[at:at] = changed[at:end] * random_.randint(1, 3)
    elif way == "other":
        changed[at:] = other[at:]
    elif way == "length":
        length = random_.choice(
            [0, 1, 2**20, 2**20 + 1, 2**31, 2**63, 2**64 - 1, random_.randrange(2**12)]
        )
        changed[:8] = length.to_bytes(8, "little")
    else:
        changed[at:end] = random_.randbytes(end - at)
    return bytes(changed)


def _changed_values(data: bytes, random_: random.Random) -> bytes:
    """Tensors with other values: not finite, the largest, at random."""
    patterns = [
        b"\0\0\xc0\x7f",
        b"\0\0\x80\x7f",
        b"\0\0\x80\xff",
        b"\xff\xff\x7f\x7f",
        b"\xff" * 4,
        b"\0" * 4,
    ]
    changed = bytearray(data)
    for _ in range(random_.randint(1, 8)):
        at = random_.randrange(0, max(1, len(changed) - 3), 4)
        changed[at : at + 4] = random_.choice([*patterns, random_.randbytes(4)])
    return bytes(changed)


# JSON.


def _places(value: Json) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything inside a JSON value."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _strange(value: Json, random_: random.Random) -> Json:
    """Something to put in the place of a value."""
    way = random_.randrange(8)
    if way < 2 and type(value) is int:
        return random_.choice([value + 1, value - 1, -value, value << random_.randrange(1, 45)])
    if way < 4:
        return random_.choice(INTERESTING)
    if way < 5:
        return random_.choice(WORDS)
    if way < 6:
        return [value] if random_.random() < 0.5 else {"a": value}
    if random_.random() < 0.01:
        return random_.choice(list(LARGE))
    return random_.choice(list(TOKENS))


def _change(value: Json, random_: random.Random) -> None:
    """Changes one place inside a JSON value."""
    places = list(_places(value))
    if not places:
        return
    (container, key), (source, source_key) = random_.choice(places), random_.choice(places)
    way = random_.randrange(6)
    if way == 0:
        del container[key]
    elif way == 1:
        container[key] = json.loads(json.dumps(source[source_key]))
    elif way == 2 and isinstance(container, list):
        container.insert(key, json.loads(json.dumps(source[source_key])))
    elif way == 2:
        names = [str(source_key), *WORDS, "@surrogate@", "a\nb", ""]
        container[random_.choice(names)] = container.pop(key)
    elif way == 3 and "dtype" in container:
        container["dtype"] = random_.choice(DTYPES)
    else:
        container[key] = _strange(container[key], random_)


def _change_metadata(metadata: dict[str, str], random_: random.Random) -> None:
    """Changes one to three times what the JSON texts say, or a text."""
    said = {key: json.loads(metadata.get(key) or "{}") for key in JSON_FIELDS}
    names = _names(said["tbn_layers"])
    for _ in range(random_.randint(1, 3)):
        key = random_.choice([*JSON_FIELDS, "tbn_layers", "tbn_layers"])
        if key == "tbn_aliases" and isinstance(said[key], dict) and random_.random() < 0.5:
            said[key][random_.choice(names)] = random_.choice(
                [*names, ["x"], None, 3, "@deep list@"]
            )
        elif said[key]:
            _change(said[key], random_)
        else:
            said[key] = random_.choice(
                [{"a": "b"}, {"a": ["b"]}, {"": ""}, [], "x", {"x": "@nan@"}]
            )
        metadata[key] = text_of(said[key])
    if random_.random() < 0.1:
        broken = ["", "{", "[]", "{}", "null", "NaN", "[NaN]", "\ufeff{}", *TOKENS.values()]
        metadata[random_.choice(JSON_FIELDS)] = random_.choice(broken)


def _names(layers: Json) -> list[str]:
    """Names of tensors, as far as a description tells them easily."""
    if isinstance(layers, dict):
        return [entry[part] for entry in layers.values() for part in ("tile", "alphas")] or ["x"]
    parts = ("tile_bits", "alphas", "weight", "bias")
    modules = [module for group in layers for module in group[0]]
    return [f"{module}.{part}" for module in modules for part in parts] or ["x"]


# Lies that fit one another: sizes that no arithmetic refutes.


def _lie(metadata: dict[str, str], random_: random.Random) -> None:
    layers = json.loads(metadata["tbn_layers"])
    weights = list(_weights(layers))
    if not weights:
        return
    for _ in range(random_.randint(1, 2)):
        weight = random_.choice(weights)
        random_.choice([_grow, _move, _recode, _reshape])(weight, random_)
    metadata["tbn_layers"] = text_of(layers)


class _Entry:
    """What a file says about a weight, in either version's words."""

    def __init__(self, said: Json):
        self.said = said

    @property
    def options(self) -> dict[str, Any]:
        if isinstance(self.said, dict):
            return self.said
        if len(self.said) == 3:
            self.said.append({})
        return self.said[3]

    @property
    def shape(self) -> list[int]:
        return self.said["shape"] if isinstance(self.said, dict) else self.said[0]

    @property
    def p(self) -> int:
        return self.said["p"] if isinstance(self.said, dict) else self.said[1]

    @p.setter
    def p(self, value: int) -> None:
        self.said["p" if isinstance(self.said, dict) else 1] = value


def _weights(layers: Json) -> Iterator[_Entry]:
    if isinstance(layers, dict):
        yield from map(_Entry, layers.values())
        return
    for _, content in layers:
        for said in content.values():
            if isinstance(said, list) and said and isinstance(said[0], list):
                yield _Entry(said)


def _grow(weight: _Entry, random_: random.Random) -> None:
    """The same tile more often."""
    factor = random_.choice([2, 3, 4, 16, 256, 2**10, 2**14, 2**20, 2**24, 2**30])
    axis = random_.randrange(len(weight.shape))
    weight.shape[axis] *= factor
    weight.p *= factor
    _give_shifts(weight, random_)


def _move(weight: _Entry, random_: random.Random) -> None:
    weight.options["copies"] = "shifted"
    weight.options["shifts"] = []
    _give_shifts(weight, random_)


def _give_shifts(weight: _Entry, random_: random.Random) -> None:
    """As many shifts as copies, some of them far."""
    if weight.options.get("copies") != "shifted":
        return
    far = random_.choice([0, 1, 2, 5, 9, 40, 255, 256, 1500, 5000, 10**9, 10**4000])
    count = min(weight.p, 2**14 if random_.random() < 0.02 else 64)
    axes = max(0, len(weight.shape) - 2)
    weight.options["shifts"] = [
        [random_.choice([0, far, -far]) for _ in range(axes)] for _ in range(count)
    ]


def _recode(weight: _Entry, random_: random.Random) -> None:
    changes = [
        {"copies": random_.choice(WORDS[:6])},
        {"code": random_.choice(WORDS[6:10])},
        {"code": "low_rank", "rank": random_.choice([1, 2, 3, 8, 10**6, 2**40])},
        {"code": "codebook", "index_bits": random_.randrange(-1, 12)},
        {"exponents": True},
        {"offsets": True},
    ]
    weight.options.update(random_.choice(changes))


def _reshape(weight: _Entry, random_: random.Random) -> None:
    """The same number of weights in other axes."""
    way = random_.randrange(4)
    shape = weight.shape
    if way == 0:
        random_.shuffle(shape)
    elif way == 1:
        shape.insert(random_.randrange(len(shape) + 1), 1)
    elif way == 2:
        shape += [1] * random_.choice([1, 4, 30, 61, 70, 300])
    else:
        shape.append(shape.pop(0) * shape.pop(0) if len(shape) > 1 else 1)


# Texts and files.


def text_of(value: Json) -> str:
    """JSON, in which tokens are what they stand for."""
    text = json.dumps(value, separators=(",", ":"))
    for token, meaning in {**TOKENS, **LARGE}.items():
        if token in text:
            text = text.replace(f'"{token}"', meaning)
    return text


def assembled(header: Json, data: bytes, random_: random.Random) -> bytes:
    """A file of this header and these tensors; its hashes are right."""
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict) and "sha256" in metadata:
        metadata["sha256"] = "0" * 64
        return made_packed_files.sealed_text(text_of(header), data)
    if isinstance(metadata, dict) and random_.random() < 0.9:
        _hash_tiles(header, data)
    text = text_of(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _hash_tiles(header: Json, data: bytes) -> None:
    """The hashes of version 2, where they can be made."""
    metadata = header["__metadata__"]
    try:
        layers = json.loads(metadata["tbn_layers"])
        for entry in layers.values():
            start, end = header[entry["tile"]]["data_offsets"]
            entry["sha256"] = hashlib.sha256(data[start:end]).hexdigest()
    except (ValueError, RecursionError, TypeError, LookupError, AttributeError):
        return
    metadata["tbn_layers"] = json.dumps(layers)
