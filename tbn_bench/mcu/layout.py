"""Weight bits as 32-bit words, version 1: how an exported C library stores a tile. numpy only; tbn_rt.c reads what is written here.

A tile of q signs is q / g segments of g = gcd(inputs of a row, q) signs (a set bit is +1). Each segment begins a word and is filled with clear
bits to whole words; words are little-endian where bytes matter. Within a word

    nat     bit l is the weight of input l; segments one after another
    lane4   bit 8 b + 7 - t is the weight of input 4 t + b: doubling the four byte lanes of a word carries out the weights of four
            consecutive inputs. The words of four segments are interleaved (word 0 of each, word 1 of each, ...); remaining segments, fewer
            than four, follow one after another

Clear padding bits add nothing to the sum under the set bits, whatever the memory behind the inputs holds.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 1
LAYOUTS = {"nat": 1, "lane4": 2}  # name -> TBN_LAYOUT_* of tbn_rt.h
WORD = 32
_LANE4 = np.array([8 * (i % 4) + 7 - i // 4 for i in range(WORD)])  # input of a word -> its bit


def words(segment: int) -> int:
    """Words of one segment."""
    return -(-segment // WORD)


def _order(segments: int, per_segment: int, layout: str) -> NDArray[np.int64]:
    """Position in the table -> (segment, word) as segment * per_segment + word."""
    plain = np.arange(segments * per_segment).reshape(segments, per_segment)
    blocks = segments // 4 if layout == "lane4" else 0
    mixed = plain[: 4 * blocks].reshape(blocks, 4, per_segment).transpose(0, 2, 1)
    return np.concatenate([mixed.reshape(-1), plain[4 * blocks :].reshape(-1)])


def _check(n: int, segment: int, layout: str) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if segment < 1 or n % segment:
        raise ValueError(f"segments of {segment} do not divide a tile of {n}")


def pack(signs: NDArray[Any], segment: int, layout: str) -> NDArray[np.uint32]:
    """signs: (q,) of +-1 -> (q / segment * words(segment),). Raises ValueError for other values, a segment that does not divide q, an
    unknown layout."""
    signs = np.asarray(signs).reshape(-1)
    _check(len(signs), segment, layout)
    if not np.all(np.abs(signs) == 1):
        raise ValueError(f"only +1 and -1 can be packed, got {signs[np.abs(signs) != 1][0]!r}")
    bits = np.zeros((len(signs) // segment, words(segment) * WORD), np.uint64)
    bits[:, :segment] = signs.reshape(-1, segment) > 0
    places = np.arange(WORD) if layout == "nat" else _LANE4
    flat = (bits.reshape(-1, WORD) << places.astype(np.uint64)).sum(1).astype(np.uint32)
    found: NDArray[np.uint32] = flat[_order(len(bits), words(segment), layout)]
    return found


def unpack(table: NDArray[np.uint32], n: int, segment: int, layout: str) -> NDArray[np.int8]:
    """What pack was given: (n,) of +-1. Raises ValueError for a table of another length, or with set padding bits."""
    _check(n, segment, layout)
    segments, each = n // segment, words(segment)
    if table.dtype != np.uint32 or table.shape != (segments * each,):
        raise ValueError(
            f"expected uint32 of shape ({segments * each},) for {n} signs in segments of {segment}, got {table.dtype} {table.shape}"
        )
    flat = np.empty_like(table)
    flat[_order(segments, each, layout)] = table
    places = np.arange(WORD) if layout == "nat" else _LANE4
    bits = (flat[:, None] >> places.astype(np.uint32)) & np.uint32(1)
    bits = bits.reshape(segments, each * WORD)
    if bits[:, segment:].any():
        raise ValueError(
            "padding bits of a segment must be clear; the table is damaged or of another layout"
        )
    return (bits[:, :segment].reshape(-1).astype(np.int8) * 2 - 1).astype(np.int8)
