"""The safetensors container, read strictly by numpy alone.

Eight bytes of length (little endian), a JSON header of that length, then the values. The header
says of each tensor its type, its shape and where its bytes are, and may have metadata of strings:
https://github.com/huggingface/safetensors#format. As that library does, this refuses tensors that
overlap, bytes that no tensor has, and a shape that does not fit its bytes.
"""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbn_bench.format import strict_json
from tbn_bench.format.description import TYPES, Damaged

PREFIX_BYTES = 8
_MOST_AXES = 64  # of an array of numpy
_BY_CODE = {code: dtype for dtype, code in TYPES.items()}
_KEYS = {"dtype", "shape", "data_offsets"}


def data_start(data: bytes) -> int:
    """Where the values begin: behind the length and the header."""
    prefix = data[:PREFIX_BYTES]
    return PREFIX_BYTES + int.from_bytes(prefix, "little")


def parse(data: bytes) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """(metadata, tensors) of a file's bytes, the tensors in the order of their bytes.

    The tensors are copies. Raises Damaged for anything but a whole file.
    """
    header = _header(data)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _not_whole("its metadata must be strings")
    entries = [(_place(name, entry), name, entry) for name, entry in header.items()]
    entries.sort(key=lambda found: found[0])
    start = data_start(data)
    at = 0
    arrays = {}
    for (begin, end), name, entry in entries:
        if begin != at:
            raise _not_whole(f"tensor {name!r} begins at byte {begin}, expected {at}")
        values = data[start + begin : start + end]
        arrays[name] = _array(name, entry, values)
        at = end
    if start + at != len(data):
        raise _not_whole(f"its tensors take {at} bytes, it has {len(data) - start}")
    return metadata, arrays


def _not_whole(why: str) -> Damaged:
    return Damaged(f"not a whole safetensors file: {why}")


def _header(data: bytes) -> dict[str, Any]:
    start = data_start(data)
    if len(data) < PREFIX_BYTES or len(data) < start:
        raise _not_whole(f"its header ends at byte {start}, it has {len(data)}")
    try:
        header = strict_json.loads(data[PREFIX_BYTES:start])
    except ValueError as error:
        raise _not_whole(f"its header: {error}") from error
    if not isinstance(header, dict):
        raise _not_whole("its header must be a JSON object")
    return header


def _place(name: str, entry: Any) -> tuple[int, int]:
    """(first byte, byte behind the last) of a tensor among the values."""
    if not isinstance(entry, dict) or set(entry) != _KEYS:
        raise _not_whole(f"tensor {name!r} must have dtype, shape and data_offsets")
    offsets = entry["data_offsets"]
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _not_whole(f"tensor {name!r} has data_offsets {strict_json.brief(offsets)}")
    begin, end = offsets
    return begin, end


def _are_counts(values: Any) -> bool:
    """Whether this is a list of whole numbers of at least 0."""
    if not isinstance(values, list):
        return False
    return all(type(value) is int and value >= 0 for value in values)


def _array(name: str, entry: dict[str, Any], values: bytes) -> NDArray[Any]:
    """values: the bytes of the tensor, fewer where the file ends too early."""
    code = entry["dtype"]
    if not isinstance(code, str) or code not in _BY_CODE:
        known = ", ".join(_BY_CODE)
        said = str(code)[:40]
        raise Damaged(f"the tensor {name} has type {said}; a packed file holds {known}")
    dtype = np.dtype(_BY_CODE[code])
    shape = entry["shape"]
    fits = _are_counts(shape) and len(shape) <= _MOST_AXES
    if not fits or prod(shape) * dtype.itemsize != len(values):
        said = strict_json.brief(shape)
        raise _not_whole(f"tensor {name!r} of shape {said} has {len(values)} bytes")
    try:
        return np.frombuffer(bytearray(values), dtype).reshape(shape)
    except ValueError as error:
        raise Damaged(f"the tensor {name} has a shape that numpy cannot hold: {error}") from error
