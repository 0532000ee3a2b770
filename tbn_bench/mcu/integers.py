"""The weights of a layer as integers, with the real value of their steps."""

from dataclasses import dataclass

import numpy as np

from tbn_bench.mcu import reference
from tbn_bench.mcu.graph import Array, Node
from tbn_bench.mcu.scales import tiled_scales


@dataclass(frozen=True)
class IntegerWeights:
    """A layer's weights as integers.

    whole: the integers, in the shape of the node's weights. real: the real value of a step of each
    scale in the table. per_row: one scale for each row. run: segments under a scale.
    """

    whole: Array
    real: Array
    per_row: bool
    run: int


def integers(node: Node) -> IntegerWeights:
    if node.kind == "affine":
        return IntegerWeights(np.zeros(0, np.int64), node.scale, per_row=True, run=1)
    if node.kind == "tiled":
        scales = tiled_scales(node)
        return IntegerWeights(node.tile, scales.values, scales.per_row, scales.run)
    # one row of weights for each output
    rows = node.dense.T if node.kind == "depthwise" else node.dense
    steps = np.array([_step(row) for row in rows])
    divisors = np.where(steps, steps, 1.0)
    whole = np.round(rows / divisors[:, None]).astype(np.int64)
    if node.kind == "depthwise":
        whole = whole.T
    return IntegerWeights(whole, steps * node.scale, per_row=True, run=1)


def _step(row: Array) -> float:
    """int8 per row, symmetric; a row of one magnitude (and zeros) is exact."""
    sizes = np.abs(row[row != 0])
    if not len(sizes):
        return 0.0  # or its scale would be the layer's largest
    if np.all(sizes == sizes[0]):
        return float(sizes[0])
    return float(sizes.max() / 127)


def row_sums(node: Node, weights: IntegerWeights) -> Array:
    """For each output the sum over its weights, of the real values of the integers."""
    if node.kind == "affine":
        return weights.real
    if node.kind == "tiled":
        found: Array = reference.dense(node).sum(1) * node.scale
        return found
    axis = 0 if node.kind == "depthwise" else 1
    sums: Array = weights.whole.sum(axis) * weights.real
    return sums
