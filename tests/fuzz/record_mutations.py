"""Damages to a record file: of its values, of its text, and of the file itself."""

import copy
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

Change = Callable[[random.Random, Any], Any]
Place = tuple[Any, Any]  # (object or list, key or index)

DEEP = 100_000
SCALARS = [
    None, True, False, 0, -1, 1, 7, 0.5, -0.5, 1e-320, 1e39, 1e300, 2**31, 2**63, -(2**63), 10**400, float("nan"), float("inf"),
    "", " ", "x", "NaN", "Infinity", "-Infinity", "1", "null", "top1", "mse", "finished", "running", "diverged", "W1A1", "W9A9",
]  # fmt: skip
TEXTS = [
    "$x^{$", r"\frac{1}{$", "a\x1b[2Jb", "\ud800", "\u202ea\u2028b\x00", "../../x", "a/b", "=1+1", "<script>", "|a|b|", "é" * 50,
    "x" * 20_000, "tbn(p=4", "tbn(p=0)", "tbn(p=-1)", "tbn(p=[4, 'a'])", "tbn(per_layer=[])", "tbn(per_layer=[[4]])", "bwn(a=1)",
    "tbn(p=1e400)", "full_precision", "digits(size=-1)", "mlp(hidden=[])", "-" * 5_000 + "1", "[" * 500, "2026-13-40T99:00", "0",
]  # fmt: skip
ODD_TEXT = [
    "1e400",
    "-1e999",
    "NaN",
    "-Infinity",
    "9" * 5_000,
    "0.1e",
    "01",
    "'a'",
    '"\\ud800"',
    '"\\u0000"',
    "[" * DEEP,
    "",
]


def places(value: Any) -> list[Place]:
    """Every value inside an object or a list, however deep."""
    found: list[Place] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys = holder if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])
    return found


def odd_value(rng: random.Random) -> Any:
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(SCALARS)
    if kind < 5:
        return rng.choice(TEXTS)
    inner = rng.choice([*SCALARS, *TEXTS])
    return rng.choice(
        [
            [],
            {},
            [inner],
            [inner, 1],
            {"a": inner},
            {str(inner)[:40]: 1},
            _nested(rng.choice([3, 60, 250])),
        ]
    )


def _nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def replace(rng: random.Random, value: Any) -> Any:
    holder, key = rng.choice(places(value))
    holder[key] = odd_value(rng)
    return value


def delete(rng: random.Random, value: Any) -> Any:
    holder, key = rng.choice(places(value))
    del holder[key]
    return value


def swap(rng: random.Random, value: Any) -> Any:
    """Two values change their places, mostly of other types."""
    found = places(value)
    (one, a), (other, b) = rng.choice(found), rng.choice(found)
    one[a], other[b] = copy.deepcopy(other[b]), copy.deepcopy(one[a])
    return value


def convert(rng: random.Random, value: Any) -> Any:
    """The same in another type: 4 as "4", [4], 4.0 or true."""
    holder, key = rng.choice(places(value))
    old = holder[key]
    holder[key] = rng.choice(
        [
            str(old),
            [old],
            {"value": old},
            bool(old),
            None,
            -old if isinstance(old, int | float) else [old],
        ]
    )
    return value


def rename(rng: random.Random, value: Any) -> Any:
    named = [place for place in places(value) if isinstance(place[0], dict)]
    holder, key = rng.choice(named)
    holder[
        rng.choice(
            [*TEXTS, key.upper(), "schema_version", "run_id", "class", "self", "model_config"]
        )
    ] = holder.pop(key)
    return value


def add(rng: random.Random, value: Any) -> Any:
    """A field that no version has."""
    objects = [holder[key] for holder, key in places(value) if isinstance(holder[key], dict)]
    rng.choice([value, *objects])[rng.choice(["extra", "test/f1", "val/x", *TEXTS])] = odd_value(
        rng
    )
    return value


def scale(rng: random.Random, value: Any) -> Any:
    """A number of the right type, far away."""
    numbers = [place for place in places(value) if type(place[0][place[1]]) in (int, float)]
    holder, key = rng.choice(numbers)
    holder[key] = type(holder[key])(holder[key] * rng.choice([-1, 0, 1e-9, 1e3, 1e9, 1e18, 1e36]))
    return value


VALUES: list[Change] = [
    replace,
    replace,
    replace,
    delete,
    delete,
    swap,
    convert,
    convert,
    rename,
    add,
    scale,
    scale,
]


def of_values(rng: random.Random, content: bytes) -> bytes:
    """One to three changes of a record, or of a row of a file of rows."""
    rows = content.count(b"\n}") == 0
    lines = content.splitlines() if rows else [content]
    number = rng.randrange(len(lines))
    value = json.loads(lines[number])
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        value = (
            rng.choice(VALUES)(rng, value)
            if isinstance(value, dict) and places(value)
            else odd_value(rng)
        )
    if rng.random() < 0.02:
        value = odd_value(rng)
    lines[number] = json.dumps(value).encode()
    return b"\n".join(lines) + b"\n"


def of_text(rng: random.Random, content: bytes) -> bytes:
    """What no JSON writer gives: cut, doubled, with bytes or words put in."""
    at = rng.randrange(len(content))
    to = min(len(content), at + rng.randrange(40))
    word = rng.choice(ODD_TEXT).encode(errors="surrogatepass")
    return rng.choice(
        [
            content[:at],
            content[:at] + content[to:],
            content[:to] + content[at:],
            content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :],
            content[:at] + word + content[to:],
            _number_replaced(rng, content, word),
            word,
            content * 2,
            b"[" * DEEP + b"]" * DEEP,
            b'{"a":' * DEEP,
            b"\xef\xbb\xbf" + content,
            content.decode().encode("utf-16"),
        ]
    )


def _number_replaced(rng: random.Random, content: bytes, word: bytes) -> bytes:
    starts = [
        i
        for i in range(1, len(content))
        if content[i : i + 1].isdigit() and content[i - 1 : i] in b" :["
    ]
    at = rng.choice(starts or [0])
    end = at
    while end < len(content) and content[end : end + 1] not in b",]}\n":
        end += 1
    return content[:at] + word + content[end:]


def of_file(rng: random.Random, path: Path) -> str:
    """Puts something else in place of the file; says what."""
    path.unlink()
    kind = rng.choice(["nothing", "pipe", "device", "loop", "folder", "dangling", "empty"])
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind != "nothing":
        path.symlink_to({"device": "/dev/zero", "loop": path.name, "dangling": "nowhere"}[kind])
    return kind
