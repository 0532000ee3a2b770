"""Weights as the 32-bit words of the table."""

import numpy as np

from tbn_bench.mcu import layout
from tbn_bench.mcu.graph import Array, Node


def stored(node: Node, weights: Array, bit_order: str) -> Array:
    """Integer weights as table words."""
    if node.kind == "tiled":
        return layout.pack(weights, node.segment, bit_order).astype(np.int64)
    if node.kind == "dense":
        rows, columns = weights.shape
        padded = np.pad(weights, ((0, 0), (0, -columns % 4)))
        words = _four(padded).reshape(rows, -1)
        return by_four_rows(words)
    flat = weights.reshape(-1)
    return _four(np.pad(flat, (0, -len(flat) % 4)))


def _four(weights: Array) -> Array:
    """int8 values, four to a word, the first lowest."""
    parts = (weights.reshape(-1, 4) & 255).astype(np.int64)
    places = 8 * np.arange(4)
    found: Array = (parts << places).sum(1)
    return found


def by_four_rows(words: Array) -> Array:
    """(rows, n) -> flat: element by element of four rows, then the remaining rows."""
    block = len(words) // 4 * 4
    fours = words[:block].reshape(-1, 4, words.shape[1])
    mixed = fours.transpose(0, 2, 1).reshape(-1)
    rest = words[block:].reshape(-1)
    return np.concatenate([mixed, rest])
