"""+-1 values to bytes and back.

This file alone states the layout of files and kernels; exported C pads segments by mcu/layout.py.

Polarity: a set bit means +1, a clear bit means -1.
Order: values are taken in row-major order; value k is bit (k mod 8) of byte (k div 8), least
    significant bit first. In little-endian words of any width w, it is bit (k mod w) of word
    (k div w).
Padding: the last byte is filled with clear bits.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def packed_bytes(n: int) -> int:
    """Bytes that n values take: ceil(n / 8)."""
    return (n + 7) // 8


def pack(values: NDArray[Any]) -> NDArray[np.uint8]:
    """values: (any shape) of +1 and -1 -> (ceil(n / 8),) uint8.

    Raises ValueError for any other value.
    """
    flat = np.asarray(values).reshape(-1)
    is_sign = np.abs(flat) == 1
    if not np.all(is_sign):
        bad = flat[~is_sign][0]
        raise ValueError(
            f"only +1 and -1 can be packed, got {bad!r}; "
            "map zeros first (each method states its sign(0))"
        )
    return np.packbits(flat > 0, bitorder="little")


def unpack(data: NDArray[np.uint8], n: int) -> NDArray[np.int8]:
    """data: (ceil(n / 8),) uint8 -> (n,) int8 of +-1.

    Raises ValueError for a wrong length and for set padding bits.
    """
    length = packed_bytes(n)
    if data.dtype != np.uint8 or data.shape != (length,):
        raise ValueError(
            f"expected uint8 of shape ({length},) for {n} values, got {data.dtype} {data.shape}"
        )
    bits = np.unpackbits(data, bitorder="little")
    if bits[n:].any():
        raise ValueError(
            f"padding bits after value {n} must be clear; "
            "the data is not packed by this suite's rule"
        )
    wide = bits[:n].astype(np.int8)
    signs = wide * 2 - 1
    return signs.astype(np.int8)
