"""The scales of a tiled layer: what its table holds, and which output adds up what."""

from dataclasses import dataclass

import numpy as np

from tbn_bench.mcu.graph import Array, Node


@dataclass(frozen=True)
class Piece:
    """Segments [start, start + length) of one row's inputs, which share the scale alphas[alpha]."""

    row: int
    start: int
    length: int
    alpha: int


def pieces(node: Node) -> list[Piece]:
    """The terms of every output of a tiled layer, in the order in which the C code adds them up."""
    per_row = node.per_input
    per_alpha = node.rows * per_row // len(node.alphas)
    found = []
    for row in range(node.rows):
        start = 0
        while start < per_row:
            alpha, used = divmod(row * per_row + start, per_alpha)
            length = min(per_row - start, per_alpha - used)
            found.append(Piece(row, start, length, alpha))
            start += length
    return found


@dataclass(frozen=True)
class TileScales:
    """Scales of a tiled layer: one for each piece of each row, or one for each run of segments."""

    values: Array
    per_row: bool
    run: int


def tiled_scales(node: Node) -> TileScales:
    run = node.rows * node.per_input // len(node.alphas)
    # tbn_rt.c changes the scale of whole rows between copies of the tile only
    between_copies = node.per_input > 1 or run % node.per_tile == 0
    is_uniform = bool(np.all(node.scale == node.scale[0]))
    if is_uniform and between_copies:
        return TileScales(node.alphas * node.scale[0], per_row=False, run=run)
    found = []
    for piece in pieces(node):
        alpha = node.alphas[piece.alpha]
        found.append(alpha * node.scale[piece.row])
    return TileScales(np.array(found), per_row=True, run=run)
