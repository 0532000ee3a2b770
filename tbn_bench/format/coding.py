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
    # frexp: alpha = mantissa 2^exponent with a mantissa from 0.5 on
    mantissa, exponent = np.frexp(alphas)
    e = exponent - 1
    are_powers = mantissa == 0.5
    fit = np.abs(e) < 128
    if not are_powers.all() or not fit.all():
        raise ValueError("only scales 2^e with -128 < e < 128 can be stored as exponents")
    return e.astype(np.int8)


def pack_trits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """(n,) of -1, 0, +1 -> (ceil(n / 5),). Raises ValueError for other values."""
    flat = np.asarray(values).reshape(-1)
    is_ternary = np.isin(flat, (-1, 0, 1))
    if not is_ternary.all():
        raise ValueError("only -1, 0 and +1 can be stored as ternary values")
    n = len(flat)
    num_bytes = -(-n // TRITS)
    digits = np.zeros(num_bytes * TRITS, np.int64)
    digits[:n] = flat + 1
    by_byte = digits.reshape(num_bytes, TRITS)
    numbers = by_byte @ _POWERS
    return numbers.astype(np.uint8)


def trit_fault(data: NDArray[np.uint8], n: int) -> str:
    """The reason why bytes are not those of n ternary values, or ''."""
    above = 3**TRITS
    if (data >= above).any():
        return f"a byte of five ternary digits is below {above}; the data is damaged"
    if not data.size:
        return ""
    digits_before = TRITS * (data.size - 1)
    digits_of_last = n - digits_before
    if data[-1] >= 3**digits_of_last:
        return (
            f"padding digits after value {n} must be 0; the data is not packed by this suite's rule"
        )
    return ""


def unpack_trits(data: NDArray[np.uint8], n: int) -> NDArray[np.int8]:
    """(ceil(n / 5),) -> (n,) of -1, 0, +1. Raises ValueError for other bytes."""
    if fault := trit_fault(data, n):
        raise ValueError(fault)
    powers = _POWERS.astype(np.uint8)
    by_byte = data[:, None] // powers % 3
    digits = by_byte.reshape(-1)[:n]
    values = digits - 1
    return values.astype(np.int8)


def _numbers(kernels: NDArray[Any]) -> NDArray[np.int64]:
    """(n, 9) of +-1 -> (n,): the number whose bits the signs are."""
    signs = np.asarray(kernels)
    bits = (signs > 0).astype(np.int64)
    places = np.arange(KERNEL)
    worth = 1 << places
    return bits @ worth


def find_indices(kernels: NDArray[Any], codebook: NDArray[Any]) -> NDArray[np.int64]:
    """The place of each kernel in the codebook: (n,). Raises ValueError where it is missing.

    kernels: (n, 9), codebook: (2^index_bits, 9), of +-1.
    """
    where = np.full(1 << KERNEL, -1)
    entries = _numbers(codebook)
    places = np.arange(len(codebook))
    where[entries[::-1]] = places[::-1]  # backwards: of equal entries the first stays
    wanted = _numbers(kernels)
    found: NDArray[np.int64] = where[wanted]
    if (found < 0).any():
        raise ValueError("a kernel is not in the codebook")
    return found


def pack_indices(indices: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """(n,) -> bytes of n * width bits, in the order of bits.py."""
    places = np.arange(width)
    shifted = indices[:, None] >> places
    planes = (shifted & 1).astype(np.uint8)
    bits = planes.reshape(-1)
    return np.packbits(bits, bitorder="little")


def unpack_indices(data: NDArray[np.uint8], n: int, width: int) -> NDArray[np.int64]:
    """The inverse of pack_indices. Raises ValueError for set padding bits."""
    bits = np.unpackbits(data, bitorder="little")
    size = n * width
    if bits[size:].any():
        raise ValueError(
            f"padding bits after index {n} must be clear; "
            "the data is not packed by this suite's rule"
        )
    planes = bits[:size].reshape(n, width).astype(np.int64)
    places = np.arange(width)
    worth = 1 << places
    return planes @ worth
