"""How values are stored as bytes: the real value of a step, and the byte of zero."""

import numpy as np

from tbn_bench.mcu.graph import Array, Node
from tbn_bench.mcu.program import Quant

# Bounds of (real value of a step) / (output scale), so that the multiplier M fits in 32 bits.
_LARGEST = 0.499999  # M / 2^32 of a layer
_LARGEST_AFFINE = 64  # M / 2^24 of an affine node and of a sum, which need |M| < 2^31


def range_of(values: Array) -> Quant:
    low = min(0.0, float(values.min()))
    high = max(0.0, float(values.max()))
    scale = max(high - low, 1e-30) / 255
    return Quant(scale, float(np.round(-low / scale)))


def target_of(
    values: Array,
    multipliers: Array,
    last: bool,
    node: Node,
) -> Quant:
    """How a layer's outputs are stored: by their range, but no finer than the layer's own steps.

    The last layer's outputs keep the layer's steps.
    """
    largest = float(np.abs(multipliers).max())
    is_affine = node.kind == "affine"
    if last:
        steps = largest / _LARGEST_AFFINE if is_affine else 4 * largest
        largest_value = float(np.abs(values).max())
        return Quant(steps or largest_value / 2**20 or 1.0)
    finest = largest / (_LARGEST_AFFINE if is_affine else _LARGEST)
    return _no_finer(range_of(values), finest)


def _no_finer(found: Quant, scale: float) -> Quant:
    """found, or the same range in steps of `scale`.

    Values that hardly vary would need a multiplier that does not fit.
    """
    if found.scale >= scale:
        return found
    offset = np.round(found.offset * found.scale / scale)
    return Quant(scale, float(offset))


def sum_target(values: Array, first: Quant, second: Quant) -> Quant:
    """How the sum of two values is stored."""
    finest = max(first.scale, second.scale) / _LARGEST_AFFINE
    return _no_finer(range_of(values), finest)
