"""Weight bits as 32-bit words, version 1: how an exported C library stores a tile.

tbn_rt.c reads these words. This file needs numpy only.

A tile of q signs is q / g segments of g = gcd(inputs of a row, q) signs. A set bit is +1. Each
segment begins a new word and is filled with clear bits to whole words. Words are little-endian
where bytes matter. Within a word:

    nat     bit l is the weight of input l; segments one after another
    lane4   bit 8 b + 7 - t is the weight of input 4 t + b: doubling the four byte lanes of a word
            carries out the weights of four consecutive inputs. The words of four segments are
            interleaved (word 0 of each, word 1 of each, ...); remaining segments, fewer than
            four, follow one after another

Clear padding bits add nothing to the sum under the set bits, whatever the memory behind the inputs
holds.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 1
LAYOUTS = {"nat": 1, "lane4": 2}  # name -> TBN_LAYOUT_* of tbn_rt.h
WORD = 32
_NAT = np.arange(WORD)  # input of a word -> its bit
_LANE4 = np.array([8 * (i % 4) + 7 - i // 4 for i in range(WORD)])


def words(segment: int) -> int:
    """Words of one segment."""
    return -(-segment // WORD)


def _bit_places(bit_order: str) -> NDArray[Any]:
    """Input of a word -> its bit: (32,)."""
    return _NAT if bit_order == "nat" else _LANE4


def _order(segments: int, per_segment: int, bit_order: str) -> NDArray[np.int64]:
    """Position in the table -> (segment, word) as segment * per_segment + word."""
    plain = np.arange(segments * per_segment).reshape(segments, per_segment)
    blocks = segments // 4 if bit_order == "lane4" else 0
    interleaved = plain[: 4 * blocks]
    rest = plain[4 * blocks :]
    mixed = interleaved.reshape(blocks, 4, per_segment).transpose(0, 2, 1)
    return np.concatenate([mixed.reshape(-1), rest.reshape(-1)])


def _check(n: int, segment: int, bit_order: str) -> None:
    if bit_order not in LAYOUTS:
        known = ", ".join(LAYOUTS)
        raise ValueError(f"layout must be one of {known}, got {bit_order!r}")
    if segment < 1 or n % segment:
        raise ValueError(f"segments of {segment} do not divide a tile of {n}")


def pack(signs: NDArray[Any], segment: int, bit_order: str) -> NDArray[np.uint32]:
    """signs: (q,) of +-1 -> (q / segment * words(segment),).

    Raises ValueError for other values, a segment that does not divide q, an unknown layout.
    """
    signs = np.asarray(signs).reshape(-1)
    _check(len(signs), segment, bit_order)
    wrong = signs[np.abs(signs) != 1]
    if len(wrong):
        raise ValueError(f"only +1 and -1 can be packed, got {wrong[0]!r}")

    segments = len(signs) // segment
    each = words(segment)
    bits = np.zeros((segments, each * WORD), np.uint64)
    bits[:, :segment] = signs.reshape(-1, segment) > 0
    places = _bit_places(bit_order).astype(np.uint64)
    shifted = bits.reshape(-1, WORD) << places
    flat = shifted.sum(1).astype(np.uint32)
    found: NDArray[np.uint32] = flat[_order(segments, each, bit_order)]
    return found


def unpack(
    table: NDArray[np.uint32],
    n: int,
    segment: int,
    bit_order: str,
) -> NDArray[np.int8]:
    """The inverse of pack: (n,) of +-1.

    Raises ValueError for a table of another length, or with set padding bits.
    """
    _check(n, segment, bit_order)
    segments = n // segment
    each = words(segment)
    shape = (segments * each,)
    if table.dtype != np.uint32 or table.shape != shape:
        raise ValueError(
            f"expected uint32 of shape {shape} for {n} signs in segments of {segment}, "
            f"got {table.dtype} {table.shape}"
        )
    flat = np.empty_like(table)
    flat[_order(segments, each, bit_order)] = table
    places = _bit_places(bit_order).astype(np.uint32)
    bits = (flat[:, None] >> places) & np.uint32(1)
    bits = bits.reshape(segments, each * WORD)
    if bits[:, segment:].any():
        raise ValueError(
            "padding bits of a segment must be clear; the table is damaged or of another layout"
        )
    values = bits[:, :segment].reshape(-1).astype(np.int8)
    return (values * 2 - 1).astype(np.int8)
