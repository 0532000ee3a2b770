"""How ternary values, codebook indices and power-of-two scales become bytes. numpy alone.

Ternary: -1, 0, +1 are digits 0, 1, 2, five to a byte; the first value is the lowest digit base 3,
and padding digits are 0.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

KERNEL = 9  # values of a codebook entry: one 3 x 3 kernel
TRITS = 5  # base-3 digits in a byte: 3^5 = 243
_POWERS = 3 ** np.arange(TRITS)


def exponents(alphas: NDArray[np.float32]) -> NDArray[np.int8]:
    """Scales 2^e -> e: (k,). Raises ValueError for others."""
    mantissa, exponent = np.frexp(alphas)
    if not np.all(mantissa == 0.5) or not np.all(np.abs(exponent - 1) < 128):
        raise ValueError("only scales 2^e with -128 < e < 128 can be stored as exponents")
    return (exponent - 1).astype(np.int8)


def pack_trits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """(n,) of -1, 0, +1 -> (ceil(n / 5),). Raises ValueError for other values."""
    flat = np.asarray(values).reshape(-1)
    if not np.isin(flat, (-1, 0, 1)).all():
        raise ValueError("only -1, 0 and +1 can be stored as ternary values")
    digits = np.zeros(-(-len(flat) // TRITS) * TRITS, np.int64)
    digits[: len(flat)] = flat + 1
    return (digits.reshape(-1, TRITS) @ _POWERS).astype(np.uint8)


def trit_fault(data: NDArray[np.uint8], n: int) -> str:
    """The reason why bytes are not those of n ternary values, or ''."""
    if (data >= 3**TRITS).any():
        return f"a byte of five ternary digits is below {3**TRITS}; the data is damaged"
    if data.size and data[-1] >= 3 ** (n - TRITS * (data.size - 1)):
        return (
            f"padding digits after value {n} must be 0; the data is not packed by this suite's rule"
        )
    return ""


def unpack_trits(data: NDArray[np.uint8], n: int) -> NDArray[np.int8]:
    """(ceil(n / 5),) -> (n,) of -1, 0, +1. Raises ValueError for other bytes."""
    if fault := trit_fault(data, n):
        raise ValueError(fault)
    digits = (data[:, None] // _POWERS.astype(np.uint8) % 3).reshape(-1)
    return (digits[:n] - 1).astype(np.int8)


def _numbers(kernels: NDArray[Any]) -> NDArray[np.int64]:
    """(n, 9) of +-1 -> (n,): the number whose bits the signs are."""
    return (np.asarray(kernels) > 0).astype(np.int64) @ (1 << np.arange(KERNEL))


def find_indices(kernels: NDArray[Any], codebook: NDArray[Any]) -> NDArray[np.int64]:
    """The place of each kernel in the codebook: (n,). Raises ValueError where it is missing.

    kernels: (n, 9), codebook: (2^index_bits, 9), of +-1.
    """
    where = np.full(1 << KERNEL, -1)
    where[_numbers(codebook)[::-1]] = np.arange(len(codebook))[::-1]  # of equal entries the first
    found: NDArray[np.int64] = where[_numbers(kernels)]
    if (found < 0).any():
        raise ValueError("a kernel is not in the codebook")
    return found


def pack_indices(indices: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """(n,) -> bytes of n * width bits, in the order of bits.py."""
    planes = (indices[:, None] >> np.arange(width)) & 1
    return np.packbits(planes.astype(np.uint8).reshape(-1), bitorder="little")


def unpack_indices(data: NDArray[np.uint8], n: int, width: int) -> NDArray[np.int64]:
    """The inverse of pack_indices. Raises ValueError for set padding bits."""
    planes = np.unpackbits(data, bitorder="little")
    if planes[n * width :].any():
        raise ValueError(
            f"padding bits after index {n} must be clear; "
            "the data is not packed by this suite's rule"
        )
    return planes[: n * width].reshape(n, width).astype(np.int64) @ (1 << np.arange(width))
