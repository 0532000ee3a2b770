"""The metadata of packed files of format versions 1 and 2: read, never written.

Every tensor was a tensor of the safetensors file. tbn_layers = JSON {weight name: {tile, alphas,
shape, p, q, bit_order, sha256 of the tile's bytes, and options}}. The options state all that
differs from signs, float32 scales and aligned copies: code, index_bits, codebook, exponents,
offsets, copies, shifts, rank. Version 1 had none of them. numpy alone.
"""

import hashlib
from collections.abc import Mapping
from math import prod
from typing import Any

from numpy.typing import NDArray

from tbn_bench.format import strict_json
from tbn_bench.format.description import BUFFERS, Damaged, Weight, copies_of
from tbn_bench.format.form import MOST_AXES, Form

BIT_ORDER = "lsb first, set = +1"
_FIELDS = {
    "tile": str,
    "alphas": str,
    "shape": list,
    "p": int,
    "q": int,
    "bit_order": str,
    "sha256": str,
}
_OPTIONAL = {
    "code": str,
    "index_bits": int,
    "codebook": str,
    "exponents": bool,
    "offsets": str,
    "copies": str,
    "shifts": list,
    "rank": int,
}

_LARGEST = 2**31  # axes are shorter

Tensors = Mapping[str, NDArray[Any]]


def weights(layers: Mapping[str, Any], tensors: Tensors) -> dict[str, Weight]:
    """The weights from their descriptions, by name. Raises Damaged."""
    hashes: dict[str, str] = {}  # of tiles, which many weights may share
    found = {}
    for name, entry in layers.items():
        found[name] = _named(name, entry, tensors, hashes)
    return found


def _named(name: str, entry: Any, tensors: Tensors, hashes: dict[str, str]) -> Weight:
    try:
        found = _weight(entry, tensors)
    except ValueError as error:
        raise Damaged(f"weight {name}: {error}") from error
    tile = found.tile
    if tile not in hashes:
        data = tensors[tile].tobytes()
        hashes[tile] = hashlib.sha256(data).hexdigest()
    if hashes[tile] != entry["sha256"]:
        raise Damaged(f"weight {name}: the hash of its tile is wrong: the file is damaged")
    return found


def _weight(entry: Any, tensors: Tensors) -> Weight:
    _check_fields(entry)
    _check_sizes(entry["shape"], entry["p"], entry["q"])
    _check_options(entry)
    names = {part: entry[part] for part in BUFFERS if part in entry}
    if "codebook" in names and entry.get("code") != "codebook":
        raise ValueError("its codebook belongs to code codebook alone")
    if not all(tensor in tensors for tensor in names.values()):
        raise ValueError("its tensors are missing")
    if entry["bit_order"] != BIT_ORDER:
        raise ValueError(f"unknown bit order {entry['bit_order']!r}")
    own = {part: tensors[name] for part, name in names.items()}
    form = _form(entry, own["alphas"])
    fault = form.check(own)
    if fault:
        raise ValueError(fault)
    return Weight(form, names)


def _check_fields(entry: Any) -> None:
    """Raises ValueError unless the description has every field, each of its type."""
    known = isinstance(entry, dict)
    for field, kind in _FIELDS.items():
        known = known and type(entry.get(field)) is kind
    if not known:
        listed = ", ".join(_FIELDS)
        raise ValueError(f"its description must have {listed}")


def _check_options(entry: dict[str, Any]) -> None:
    """Raises ValueError where an option is of another type."""
    wrong = []
    for option, kind in _OPTIONAL.items():
        if option in entry and type(entry[option]) is not kind:
            wrong.append(option)
    if wrong:
        listed = ", ".join(wrong)
        raise ValueError(f"its {listed} cannot be read")


def _check_sizes(shape: list[Any], p: int, q: int) -> None:
    """Raises ValueError unless p tiles of q values fill the shape."""
    has_axes = 0 < len(shape) <= MOST_AXES
    if not has_axes or not all(map(_is_size, shape)) or p < 1:
        got = strict_json.brief(shape)
        raise ValueError(f"impossible shape {got} or p = {p}")
    numel = prod(shape)
    if numel % p or q != numel // p:
        raise ValueError(f"p = {p} and q = {q} do not make {numel} weights")


def _is_size(value: Any) -> bool:
    if type(value) is not int:
        return False
    return 0 < value < _LARGEST


def _form(entry: dict[str, Any], alphas: NDArray[Any]) -> Form:
    """The stored form that a description names. Raises ValueError where it does not make sense."""
    if alphas.ndim != 1:
        raise ValueError("its alphas must have one dimension")
    shape = tuple(entry["shape"])
    return Form(
        shape,
        entry["p"],
        len(alphas),
        entry.get("code", "sign"),
        entry.get("exponents", False),
        "offsets" in entry,
        entry.get("index_bits", 0),
        copies_of(shape, entry["p"], entry),
        entry.get("rank", 0),
    )
