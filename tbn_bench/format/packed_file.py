"""The packed file: a safetensors file whose binary weights are bits. numpy alone.

convert/saved.py makes it of a network. Its tensors are called uint8, float32, ...: all values of
that type, one tensor of the network after another. The metadata (strings, as safetensors asks) says
which they are:

    tbn_format_version   "3"
    sha256               of the whole file with 64 zeros in this place
    tbn_layers           the description of the tensors (description.py)
    tbn_aliases          JSON {name: name of the tensor it shares}
    tbn_inputs           JSON {layer: kind of its input binarizer}
    tbn_config           JSON of the run's config, as far as it differs from the defaults
    producer, commit

Empty entries are left out. Versions 1 and 2 (description_v2.py) are read too; in them only the
tiles have hashes.

A small file (small.py) has version "4" and one entry more:

    tbn_small            JSON {side, kept}: the types that stand for float32

or, with a short header, sha256 and

    tbn_short            all other entries: JSON, compressed by zlib, in base85
"""

import base64
import hashlib
import json
import os
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbn_bench import __version__
from tbn_bench.atomic import replace_file
from tbn_bench.format import description, description_v2, safetensors_file, small, strict_json
from tbn_bench.format.description import CONSTANTS, Damaged, Stored, Weight
from tbn_bench.format.small import Encoded, Small

VERSION = 3
SMALL_VERSION = 4
READABLE = ("1", "2", "3", "4")
HEADER_BYTES = 1 << 19  # the largest header; the largest of a network of ours is 43 KB
DENSE_BYTES = 4 << 20  # dense weights that any file may ask for,
DENSE_RATIO = 2048  # and how many times the file's own bytes: 64 copies of a sign as float32
MOST_LETTERS = 500  # of the name of a tensor or layer
_SHOWN_LETTERS = 300  # of what a file says, in a message
_NO_HASH = "0" * 64


Tensors = dict[str, NDArray[Any]]


class ArtifactError(ValueError):
    """A packed file that must not be used: damaged, of another version, or of another kind."""


@dataclass
class Artifact:
    """A packed file in memory.

    tensors: each tensor once. aliases: name -> name of the tensor that it shares. inputs: layer ->
    kind of the binarizer that its input passes. small: how a small file stores them, or None; the
    tensors have the values that a reader gets.
    """

    tensors: dict[str, NDArray[Any]]
    weights: dict[str, Weight]
    aliases: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    commit: str | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    small: Small | None = None

    @property
    def payload_bytes(self) -> int:
        """Bytes of all tensors in the file. The rest of it is a header."""
        return sum(self.stored_bytes().values())

    @property
    def plain_bytes(self) -> int:
        """Bytes of all tensors as cost.stored_bytes predicts; a small file has fewer."""
        arrays = self.tensors.values()
        return sum(array.nbytes for array in arrays)

    def stored_bytes(self) -> dict[str, int]:
        """Name of each tensor -> its bytes in the file, scales of int8 rows included."""
        if self.small is None:
            return {name: array.nbytes for name, array in self.tensors.items()}
        _, order = _described(self)
        found = {}
        for stored in order:
            pieces = self.small.pieces(stored)
            found[stored.name] = sum(piece.nbytes for piece in pieces)
        return found

    @property
    def header_bytes(self) -> int:
        """Bytes of the file before its tensors; they depend on no value in a tensor."""
        return len(_header(self)[0])

    @property
    def file_bytes(self) -> int:
        return self.header_bytes + self.payload_bytes

    def of(self, weight: Weight) -> dict[str, NDArray[Any]]:
        """The tensors of a binary weight, by the names of its form."""
        tensors = {}
        for part, name in weight.names.items():
            tensors[part] = self.tensors[name]
        return tensors

    def check(self) -> None:
        """Raises Damaged for a content that no method stores.

        Tensors are missing, a binary weight has a scale that is NaN, or a name cannot be shown in
        one line.
        """
        for name in (*self.tensors, *self.weights, *self.aliases, *self.inputs):
            if len(name) > MOST_LETTERS or not name.isprintable():
                raise Damaged(
                    f"a name must be at most {MOST_LETTERS} printable letters, got {name[:40]!r}"
                )
        for name, target in self.aliases.items():
            if target not in self.tensors:
                raise Damaged(f"{name} shares the tensor {target!r}, which is missing")
            if name in self.tensors:
                raise Damaged(f"{name} is a tensor and shares another")
        for name, weight in self.weights.items():
            fault = self._fault(weight)
            if fault:
                raise Damaged(f"weight {name}: {fault}")

    def _fault(self, weight: Weight) -> str:
        for name in weight.names.values():
            if name not in self.tensors:
                return "its tensors are missing"
        form = weight.form
        tensors = self.of(weight)
        return form.check(tensors) or form.check_values(tensors)

    def dense(self, most_bytes: float | None = None) -> dict[str, NDArray[np.float32]]:
        """Every binary weight as the float32 array it stands for, by name.

        A small file can name huge weights. Raises ArtifactError where they take more than
        most_bytes (default: the larger of DENSE_BYTES and DENSE_RATIO times the tensors of the
        file), and where one of them is not finite.
        """
        allowed = most_bytes
        if allowed is None:
            allowed = max(DENSE_BYTES, DENSE_RATIO * self.payload_bytes)
        asked = sum(weight.form.dense_bytes for weight in self.weights.values())
        if asked > allowed:
            raise ArtifactError(
                f"the dense weights take {asked:,} bytes, "
                f"{allowed:,} are allowed for a file of this size; "
                "if you trust it, call dense(most_bytes=...)"
            )
        found = {}
        for name, weight in self.weights.items():
            found[name] = self._finite(name, weight, weight.form.dense)
        return found

    def unmoved(self) -> dict[str, NDArray[np.float32]]:
        """As dense, in the shape of the latent weight: shifted copies before they are moved.

        It has no limit: for callers who know from the network that these shapes are right.
        """
        found = {}
        for name, weight in self.weights.items():
            found[name] = self._finite(name, weight, weight.form.unmoved)

        return found

    def _finite(
        self, name: str, weight: Weight, make: Callable[[Tensors], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        with np.errstate(over="ignore", invalid="ignore"):
            dense = make(self.of(weight))
        if not np.isfinite(dense).all():
            raise ArtifactError(
                f"weight {name} is not finite: "
                "its scales are too large for float32; export it again"
            )
        return dense


def _metadata(artifact: Artifact, layers: str) -> dict[str, str]:
    options = artifact.small
    version = VERSION if options is None else SMALL_VERSION
    types = None if options is None else {"side": options.side, "kept": options.kept}
    found = {
        "tbn_format_version": str(version),
        "sha256": _NO_HASH,
        "tbn_layers": layers,
        "tbn_aliases": _json(artifact.aliases or None),
        "tbn_inputs": _json(artifact.inputs or None),
        "tbn_config": _json(artifact.config),
        "tbn_small": _json(types),
        "producer": f"tbn_bench {__version__}",
        "commit": artifact.commit or "",
    }
    said = {key: value for key, value in found.items() if value}
    if options is not None and options.short_header:
        return _shortened(said)
    return said


_LONG = ("tbn_format_version", "sha256")  # what a short header says in words


def _shortened(metadata: dict[str, str]) -> dict[str, str]:
    """The same entries, all but two of them compressed."""
    found = {key: metadata.pop(key) for key in _LONG}
    text = _json(metadata)
    compressed = zlib.compress(text.encode("ascii"), 9)
    found["tbn_short"] = base64.b85encode(compressed).decode("ascii")
    return found


def _lengthened(metadata: dict[str, str]) -> dict[str, str]:
    """The entries of a short header. Raises Damaged where it cannot be read."""
    short = _text(metadata, "tbn_short")
    reader = zlib.decompressobj()
    try:
        compressed = base64.b85decode(short)
        text = reader.decompress(compressed, HEADER_BYTES)
    except (ValueError, zlib.error) as error:
        raise Damaged(f"damaged metadata: tbn_short: {error}") from error
    if not reader.eof or reader.unused_data:
        raise Damaged(f"damaged metadata: tbn_short must be at most {HEADER_BYTES} bytes, whole")
    found = _loads(text, "tbn_short")
    if not all(isinstance(value, str) for value in found.values()):
        raise Damaged("damaged metadata: tbn_short must hold strings")
    return found | {key: metadata[key] for key in _LONG if key in metadata}


def _json(value: dict[str, Any] | None) -> str:
    """Compact JSON; '' of None. An empty config is not None: its run has the defaults."""
    if value is None:
        return ""
    return json.dumps(value, separators=(",", ":"))


def _described(artifact: Artifact) -> tuple[str, list[Stored]]:
    """The description of the tensors, and the tensors in its order."""
    constants = {}
    if artifact.small is not None:
        owned: set[str] = set()
        for weight in artifact.weights.values():
            owned.update(weight.names.values())
        others = {name: a for name, a in artifact.tensors.items() if name not in owned}
        constants = small.constants_of(others)
    return description.describe(artifact.tensors, artifact.weights, artifact.aliases, constants)


def _encoded(artifact: Artifact, order: list[Stored]) -> list[Encoded]:
    """The tensors of the file with their values, in order."""
    found = []
    for stored in order:
        values = artifact.tensors[stored.name]
        if artifact.small is None:
            found.append(Encoded(stored, values))
            continue
        pieces = artifact.small.pieces(stored)
        arrays = artifact.small.encode(stored, values)
        found += [Encoded(piece, array) for piece, array in zip(pieces, arrays, strict=True)]
    return found


def rounded(artifact: Artifact, options: Small) -> Artifact:
    """The artifact that a reader gets of a small file. Raises ArtifactError as `write` does."""
    made = replace(artifact, small=options)
    _, order = _described(made)
    tensors = {}
    try:
        for stored in order:
            values = artifact.tensors[stored.name]
            arrays = options.encode(stored, values)
            tensors[stored.name] = options.decode(stored, arrays)
    except ValueError as error:
        raise ArtifactError(f"it cannot be a small file: {error}") from error
    return replace(made, tensors={name: tensors[name] for name in artifact.tensors})


def _pieces(artifact: Artifact, order: list[Stored]) -> list[Stored]:
    if artifact.small is None:
        return order
    found = []
    for stored in order:
        found += artifact.small.pieces(stored)
    return found


def _header(artifact: Artifact) -> tuple[bytes, list[Stored]]:
    """(the first bytes of the file, with zeros for the hash; the network's tensors in order).

    Raises ValueError for what a packed file cannot hold.
    """
    layers, order = _described(artifact)
    entries: dict[str, Any] = {"__metadata__": _metadata(artifact, layers)}
    start = 0
    pieces = _pieces(artifact, order)
    for dtype, count in description.blobs(pieces).items():
        end = start + count * np.dtype(dtype).itemsize
        entries[dtype] = {
            "dtype": description.TYPES[dtype],
            "shape": [count],
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries, separators=(",", ":"))
    padding = -len(text) % 8  # tensors begin at a multiple of 8
    text += " " * padding
    length = len(text)
    if length > HEADER_BYTES:
        raise ValueError(
            f"the header is {length} bytes, the most is {HEADER_BYTES}; it has too many layers"
        )
    prefix = length.to_bytes(8, "little")
    return prefix + text.encode("ascii"), order


def _by_type(encoded: list[Encoded]) -> dict[str, list[NDArray[Any]]]:
    """numpy type -> the arrays of it that have values, widest type first, as the file has them."""
    found: dict[str, list[NDArray[Any]]] = {dtype: [] for dtype in description.TYPES}
    for stored, values in encoded:
        if values.size:
            found[stored.dtype].append(values)
    return {dtype: arrays for dtype, arrays in found.items() if arrays}


def _hash(header: bytes, data: bytes | memoryview) -> str:
    """Of a header with zeros for the hash, and the data."""
    made = hashlib.sha256(header)
    made.update(data)
    return made.hexdigest()


def _hash_field(value: str) -> bytes:
    """The hash in a header; escaped quotes keep it apart from what other fields say."""
    return f'"sha256":"{value}"'.encode()


def write(path: Path, artifact: Artifact) -> int:
    """Writes the file, whole or not at all. Returns its size in bytes. Raises ArtifactError."""
    try:
        artifact.check()
        header, order = _header(artifact)
        encoded = _encoded(artifact, order)
    except ValueError as error:
        raise ArtifactError(f"cannot write {path}: {error}") from error
    parts: list[bytes] = []
    for arrays in _by_type(encoded).values():
        parts += [array.tobytes() for array in arrays]
    data = b"".join(parts)
    digest = _hash(header, data)
    header = header.replace(_hash_field(_NO_HASH), _hash_field(digest))
    try:
        replace_file(path, header + data)
    except OSError as error:
        raise ArtifactError(
            f"cannot write {path}: {error.strerror}; free space or choose another --out"
        ) from error

    return len(header) + len(data)


def read(path: Path) -> Artifact:
    """Reads and checks a packed file, in memory in proportion to its size.

    Nothing in it is executed. Raises ArtifactError with one line about the file and its fault.
    """
    try:
        data = _bytes(path)
        metadata, arrays = safetensors_file.parse(data)
        version = metadata.get("tbn_format_version")
        if version not in READABLE:
            raise _refusal(path, version)
        if version in ("1", "2"):
            artifact = _read_2(metadata, arrays)
        else:
            artifact = _read_3(data, metadata, arrays, is_small=version == "4")
        artifact.check()
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    except Damaged as error:
        raise ArtifactError(f"{path}: {one_line(str(error))}; export it again") from error
    except MemoryError as error:
        raise ArtifactError(
            f"cannot read {path}: it does not fit in memory; use a larger machine"
        ) from error
    return artifact


def _refusal(path: Path, version: str | None) -> ArtifactError:
    if version is None:
        return ArtifactError(
            f"{path} is a safetensors file but not a packed network (no tbn_format_version)"
        )
    known = ", ".join(READABLE)
    return ArtifactError(
        f"{path} has format version {one_line(version)[:40]!r}, "
        f"this tbn_bench reads {known}; use the version that wrote it"
    )


def one_line(text: str) -> str:
    """What a file says, as one line of at most 300 letters that a terminal shows as they are."""
    beginning = text[: 4 * _SHOWN_LETTERS]
    words = " ".join(beginning.split())
    letters = [letter if letter.isprintable() else "?" for letter in words]
    shown = "".join(letters)
    if len(shown) <= _SHOWN_LETTERS:
        return shown
    return f"{shown[:_SHOWN_LETTERS]}..."


def _bytes(path: Path) -> bytes:
    """The file's bytes. Raises OSError, and Damaged for a huge header.

    Raises Damaged also for a pipe, since reading one would wait for ever.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Damaged("not a regular file")
        start = file.read(8)
        if int.from_bytes(start, "little") > HEADER_BYTES:
            raise Damaged(
                "not a whole safetensors file: "
                f"its header is said to be larger than {HEADER_BYTES} bytes"
            )
        return start + file.read()


def _without_waiting(path: str, flags: int) -> int:
    without_waiting = getattr(os, "O_NONBLOCK", 0)  # Windows has none
    return os.open(path, flags | without_waiting)


def _loads(text: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object. Raises Damaged where it is none, or not strictly JSON."""
    try:
        found = strict_json.loads(text)
    except ValueError as error:
        raise Damaged(f"damaged metadata: {what}: {error}") from error
    if not isinstance(found, dict):
        raise Damaged(f"damaged metadata: {what} must be a JSON object")
    return found


def _text(metadata: dict[str, str], key: str) -> str:
    if key not in metadata:
        raise Damaged(f"damaged metadata: no {key}")
    return metadata[key]


def _names(metadata: dict[str, str], key: str) -> dict[str, str]:
    """A JSON object that names one thing by another, empty where there is none."""
    text = metadata.get(key, "{}")
    found = _loads(text, key)
    for value in found.values():
        if not isinstance(value, str):
            raise Damaged(f"damaged metadata: {key} must hold strings")
    return found


def _config(metadata: dict[str, str]) -> dict[str, Any] | None:
    key = "tbn_config"
    text = metadata.get(key, "null")
    if text == "null":
        return None
    return _loads(text, key)


def _read_3(
    data: bytes, metadata: dict[str, str], arrays: dict[str, NDArray[Any]], is_small: bool
) -> Artifact:
    """Of versions 3 and 4."""
    _check_hash(data, metadata)
    options = None
    if is_small:
        has_short_header = "tbn_short" in metadata
        if has_short_header:
            metadata = _lengthened(metadata)
        options = _small(metadata, has_short_header)
    aliases = _names(metadata, "tbn_aliases")
    stored, weights = description.parse(_text(metadata, "tbn_layers"), aliases)
    for name, array in arrays.items():
        if array.dtype.name != name or array.ndim != 1:
            raise Damaged(
                f"{name} must hold all values of that type, got {array.dtype} {array.shape}"
            )
    return Artifact(
        _tensors(stored, arrays, options),
        weights,
        aliases,
        _config(metadata),
        metadata.get("commit"),
        _names(metadata, "tbn_inputs"),
        options,
    )


def _small(metadata: dict[str, str], has_short_header: bool) -> Small:
    said = _loads(_text(metadata, "tbn_small"), "tbn_small")
    if set(said) != {"side", "kept"}:
        raise Damaged("damaged metadata: tbn_small must have side and kept")
    try:
        return Small(said["side"], said["kept"], has_short_header)
    except ValueError as error:
        raise Damaged(f"damaged metadata: tbn_small: {error}") from error


def _tensors(
    stored: list[Stored], arrays: dict[str, NDArray[Any]], options: Small | None
) -> dict[str, NDArray[Any]]:
    """The tensors of the network, from the values of each type. Raises Damaged."""
    if options is None:
        if any(tensor.dtype in CONSTANTS for tensor in stored):
            raise Damaged("a constant tensor belongs to a small file, of version 4")
        return description.cut(stored, arrays)
    small.check_constants(stored)
    pieces = []
    for tensor in stored:
        pieces += options.pieces(tensor)
    held = description.cut(pieces, arrays)
    tensors = {}
    for tensor in stored:
        own = [held[piece.name] for piece in options.pieces(tensor)]
        tensors[tensor.name] = options.decode(tensor, own)
    return tensors


def _check_hash(data: bytes, metadata: dict[str, str]) -> None:
    start = safetensors_file.data_start(data)
    digest = _text(metadata, "sha256")
    said = _hash_field(digest)
    no_hash = _hash_field(_NO_HASH)
    header = data[:start]
    if len(said) != len(no_hash) or header.count(said) != 1:
        raise Damaged("damaged metadata: sha256 must be there once, of 64 digits")
    counted = header.replace(said, no_hash)
    tensors = memoryview(data)[start:]
    found = _hash(counted, tensors)
    if said != _hash_field(found):
        raise Damaged("the hash of its content is wrong: the file is damaged")


def _read_2(metadata: dict[str, str], arrays: dict[str, NDArray[Any]]) -> Artifact:
    layers = _loads(_text(metadata, "tbn_layers"), "tbn_layers")
    weights = description_v2.weights(layers, arrays)
    aliases = _names(metadata, "tbn_aliases")
    config = _config(metadata)
    commit = metadata.get("commit") or None
    inputs = _names(metadata, "tbn_inputs")
    return Artifact(arrays, weights, aliases, config, commit, inputs)
