"""The metadata of packed files of format versions 1 and 2: read, never written.

Every tensor was a tensor of the safetensors file. tbn_layers = JSON {weight name: {tile, alphas, shape, p, q, bit_order,
sha256 of the tile's bytes; where they differ from signs, float32 scales and aligned copies also code, index_bits,
codebook, exponents, offsets, copies, shifts, rank}}. Version 1 had none of the optional fields. numpy only.
"""

import hashlib
from collections.abc import Mapping
from math import prod
from typing import Any

from numpy.typing import NDArray

from tbn_bench.format.description import Damaged, Weight, copies_of
from tbn_bench.format.form import Form

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

Tensors = Mapping[str, NDArray[Any]]


def weight(name: str, entry: Any, tensors: Tensors) -> Weight:
    """A weight from its description. Raises Damaged."""
    try:
        return _weight(entry, tensors)
    except ValueError as error:
        raise Damaged(f"weight {name}: {error}") from error


def _weight(entry: Any, tensors: Tensors) -> Weight:
    if not isinstance(entry, dict) or any(
        type(entry.get(k)) is not kind for k, kind in _FIELDS.items()
    ):
        raise ValueError(f"its description must have {', '.join(_FIELDS)}")
    shape, p, q = entry["shape"], entry["p"], entry["q"]
    if not shape or not all(type(n) is int and 0 < n < 2**31 for n in shape) or p < 1:
        raise ValueError(f"impossible shape {shape!r:.60} or p = {p}")
    numel = prod(shape)
    if numel % p or q != numel // p:
        raise ValueError(f"p = {p} and q = {q} do not make {numel} weights")
    if wrong := [k for k, kind in _OPTIONAL.items() if type(entry.get(k, kind())) is not kind]:
        raise ValueError(f"its {', '.join(wrong)} cannot be read")
    names = {k: entry[k] for k in ("tile", "alphas", "codebook", "offsets") if k in entry}
    if not all(tensor in tensors for tensor in names.values()):
        raise ValueError("its tensors are missing")
    if entry["bit_order"] != BIT_ORDER:
        raise ValueError(f"unknown bit order {entry['bit_order']!r}")
    form = _form(entry, tensors[names["alphas"]])
    if fault := form.check({part: tensors[tensor] for part, tensor in names.items()}):
        raise ValueError(fault)
    if hashlib.sha256(tensors[names["tile"]].tobytes()).hexdigest() != entry["sha256"]:
        raise ValueError("the hash of its tile is wrong: the file is damaged")
    return Weight(form, names)


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
