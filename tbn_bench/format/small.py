"""Small packed files: how the tensors that are not bits are stored in fewer bytes. numpy alone.

    side      float16 or bfloat16 instead of float32 for scales, offsets and vectors (biases,
              normalisation). A bfloat16 is the upper half of a float32, rounded to nearest, and
              stored as uint16.
    kept      int8 instead of float32 for weights that were kept in float, with a bfloat16 scale for
              each row: max |w| / 127. The leading axes up to the first one longer than 1 are rows.
    constant  a vector of zeros or of ones takes no bytes

A reader makes float32 tensors of all of them. Encoding those again gives the same bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tbn_bench.format.description import CONSTANTS, Damaged, Stored

SIDES = ("float32", "float16", "bfloat16")
KEPT = ("float32", "int8")
MOST_CONSTANTS = 2**20  # elements of all constant tensors of a file: 4 MB once they are read
_STEPS = 127
_SMALLEST = 1e-30  # rows of smaller weights are zeros: their scale would have too few digits
_STORED_AS = {"float32": "float32", "float16": "float16", "bfloat16": "uint16"}

Array = NDArray[Any]


@dataclass(frozen=True)
class Small:
    """The options of a small file. short_header: its metadata is compressed.

    Raises ValueError for a choice that does not exist.
    """

    side: str = "float32"
    kept: str = "float32"
    short_header: bool = False

    def __post_init__(self) -> None:
        for name, known in (("side", SIDES), ("kept", KEPT)):
            value = getattr(self, name)
            if value not in known:
                choices = ", ".join(known)
                raise ValueError(f"{name} must be one of {choices}, got {value!r}")

    def pieces(self, stored: Stored) -> list[Stored]:
        """The tensors of the file that hold one tensor of the network."""
        if stored.dtype in CONSTANTS:
            return []
        if stored.dtype != "float32" or not stored.numel:
            return [stored]
        if len(stored.shape) < 2:
            return [stored._replace(dtype=_STORED_AS[self.side])]
        if self.kept == "float32":
            return [stored]
        scales = Stored(f"{stored.name} scales", "uint16", (_rows(stored.shape),))
        return [stored._replace(dtype="int8"), scales]

    def encode(self, stored: Stored, values: Array) -> list[Array]:
        """The arrays of `pieces`. Raises ValueError for a value that the type cannot hold."""
        pieces = self.pieces(stored)
        if not pieces or pieces == [stored]:
            return [values] * len(pieces)
        if len(pieces) == 1:
            return [self._narrowed(stored.name, values)]
        rows = values.reshape(_rows(stored.shape), -1)
        largest = np.abs(rows).max(1, initial=0)
        if not np.isfinite(largest).all():
            raise ValueError(f"{stored.name} is not finite; int8 holds finite weights")
        largest[largest < _SMALLEST] = 0
        # 127 steps are again the largest weight, exactly: 8 digits times 7 are fewer than 24
        scales = _bfloat16(largest / np.float32(_STEPS))
        steps = _widened(scales)[:, None]
        quotients = np.divide(rows, steps, out=np.zeros_like(rows), where=steps > 0)
        whole = np.clip(np.round(quotients), -_STEPS, _STEPS)
        return [whole.astype(np.int8).reshape(stored.shape), scales]

    def decode(self, stored: Stored, arrays: list[Array]) -> Array:
        """The tensor of the network that the arrays of `pieces` stand for."""
        if stored.dtype in CONSTANTS:
            value = CONSTANTS[stored.dtype]
            return np.full(stored.shape, value, np.float32)
        if self.pieces(stored) == [stored]:
            return arrays[0]
        if len(arrays) == 1:
            return _widened(arrays[0])
        whole, scales = arrays
        rows = whole.reshape(len(scales), -1).astype(np.float32)
        scaled = rows * _widened(scales)[:, None]
        return scaled.reshape(stored.shape)

    def _narrowed(self, name: str, values: Array) -> Array:
        if self.side == "float32":
            return values
        with np.errstate(over="ignore"):
            found = values.astype(np.float16) if self.side == "float16" else _bfloat16(values)
        wide = _widened(found)
        if not np.isfinite(wide).all():
            largest = float(np.abs(values).max())
            raise ValueError(
                f"{name} has a value of {largest:.3g}, which {self.side} cannot hold; "
                "use another type for the side data"
            )

        return found


def _widened(values: Array) -> Array:
    """float32 values of float16 ones, or of the upper halves of float32 ones."""
    if values.dtype == np.uint16:
        upper = values.astype(np.uint32) << 16
        found: Array = upper.view(np.float32)
        return found

    wide: Array = values.astype(np.float32)
    return wide


def _rows(shape: tuple[int, ...]) -> int:
    """Rows of a kept weight: output channels of a layer, positions of an embedding."""
    for axis, length in enumerate(shape):
        if length > 1:
            return prod(shape[: axis + 1])
    return 1


def _bfloat16(values: Array) -> Array:
    """The upper halves, rounded to nearest, of two equally near ones the even one."""
    whole = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    odd = (whole >> 16) & 1
    rounded = (whole + 0x7FFF + odd) >> 16
    upper: Array = rounded.astype(np.uint16)
    return upper


class Encoded(NamedTuple):
    """A tensor of the file with its values."""

    stored: Stored
    values: Array


def constants_of(tensors: Mapping[str, Array]) -> dict[str, str]:
    """Name -> zeros or ones, of the vectors that take no bytes."""
    found = {}
    left = MOST_CONSTANTS
    for name, values in tensors.items():
        if values.dtype != np.float32 or values.ndim != 1 or not 0 < values.size <= left:
            continue
        for word, value in CONSTANTS.items():
            if (values == value).all() and not np.signbit(values).any():
                found[name] = word
                left -= values.size
    return found


def check_constants(stored: list[Stored]) -> None:
    """Raises Damaged where constant tensors would take more memory than any writer's."""
    constants = [tensor for tensor in stored if tensor.dtype in CONSTANTS]
    asked = sum(tensor.numel for tensor in constants)
    has_other_axes = any(len(tensor.shape) != 1 for tensor in constants)
    if has_other_axes or asked > MOST_CONSTANTS:
        raise Damaged(f"its constants must be vectors of at most {MOST_CONSTANTS} elements in all")
