"""One layer as a native plan of one op, kept for as long as its bits live."""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from tbn_bench import native
from tbn_bench.format import bits
from tbn_bench.kernels import _tile

GROUP = 64  # vectors that go through a linear layer together


def weights(
    tile_bits: Tensor,
    alphas: Tensor,
    shape: Sequence[int],
    p: int,
    groups: int,
    level: str,
) -> tuple[list, int, np.ndarray]:
    """(weights, copies, scale per output row) of a layer for one level.

    There is one object per group, but one in all for groups of one channel each. shape: (rows,
    channels / groups[, kh, kw]).
    """
    rows = shape[0] // groups
    channels = shape[1]
    depthwise = groups > 1 and (rows, channels) == (1, 1)  # too few columns to look anything up
    scale_changes_in_row = shape[0] % max(1, len(alphas)) != 0
    if depthwise or scale_changes_in_row:
        dense = _tile.expand(tile_bits, alphas, shape, p).numpy()
        return float_weights(dense, groups, level), 1, np.ones(shape[0])
    scale = _tile.row_scales(alphas, shape[0]).double().numpy()
    kh, kw = _kernel(shape)
    tile = tile_bits.numpy()
    if _tile.aligned(shape[0], p, len(alphas), groups):
        made = native.SignWeights(tile, rows // p, channels, kh, kw, level)
        return [made], p, scale
    signs = np.tile(bits.unpack(tile, prod(shape) // p), p)
    found = []
    for group in signs.reshape(groups, -1):
        packed = bits.pack(group)
        found.append(native.SignWeights(packed, rows, channels, kh, kw, level))
    return found, 1, scale


def _kernel(shape: Sequence[int]) -> tuple[int, int]:
    """(kh, kw) of a layer; a linear layer is a 1x1 convolution, a 1D one has one row."""
    kh, kw = (1, 1, *shape[2:])[-2:]
    return kh, kw


def float_weights(dense: np.ndarray, groups: int, level: str) -> list:
    """The weights of a layer in float32.

    There is one object per group, but one in all for groups of one channel each. dense: (rows,
    channels / groups[, kh, kw]).
    """
    rows = dense.shape[0] // groups
    channels = dense.shape[1]
    kh, kw = _kernel(dense.shape)
    if groups > 1 and (rows, channels) == (1, 1):
        kernels = dense.reshape(groups, 1, kh, kw)
        return [native.DepthwiseWeights(kernels, level)]
    parts = dense.reshape(groups, rows, channels, kh, kw)
    return [native.FloatWeights(part, level) for part in parts]


def segments(
    tile_bits: Tensor,
    alphas: Tensor,
    shape: Sequence[int],
    p: int,
    g: int,
    level: str,
) -> tuple[native.SignWeights, np.ndarray]:
    """(tile as rows of g columns, coefficient of each piece of each row) of a linear layer.

    For tiles that end inside rows. CONV makes the dot products of K / g pieces of the input with
    q / g pieces of the tile once. GATHER sums them up to rows.
    """
    total = prod(shape)
    weights = native.SignWeights(tile_bits.numpy(), total // p // g, g, name=level)
    scales = alphas.float().numpy() if len(alphas) else np.ones(1, np.float32)
    pieces = total // g
    return weights, np.repeat(scales, pieces // len(scales))


def kept_weights(
    tile_bits: Tensor,
    alphas: Tensor,
    shape: Sequence[int],
    p: int,
    groups: int,
) -> tuple[list, int, np.ndarray, str]:
    """(*weights(), level). The weights are laid out at the first call for these bits and kept."""
    level = native.level()
    key = (tuple(shape), p, groups, level)

    def make() -> tuple[list, int, np.ndarray]:
        return weights(tile_bits, alphas, shape, p, groups, level)

    found, copies, scale = _tile.kept(tile_bits, alphas, key, make)
    return found, copies, scale, level


def check(x: Tensor) -> None:
    if x.device.type != "cpu" or x.dtype != torch.float32:
        raise ValueError(
            f"implementation 'cpu' takes float32 on the CPU, got {x.dtype} on {x.device}; "
            "use 'torch'"
        )


def _shift(bias: Tensor | None) -> np.ndarray | None:
    return None if bias is None else bias.detach().double().numpy()


def linear(
    x: Tensor,
    weights: list,
    copies: int,
    scale: np.ndarray,
    bias: Tensor | None,
    level: str,
) -> Tensor:
    """One linear layer. x: (..., K) -> (..., rows); scale: (rows,)."""
    rows = len(scale)
    columns = x.shape[-1]
    op = native.Op(
        native.CONV,
        input=0,
        output=1,
        p=copies,
        rows=rows // copies,
        weights=weights,
        scale=scale,
        shift=_shift(bias),
    )
    shapes = [(1, 1, columns), (1, 1, rows)]
    plan = native.Program([op], shapes, level=level, group=GROUP)
    return _run_vectors(plan, x, rows)


def unaligned_linear(
    x: Tensor,
    tile_bits: Tensor,
    alphas: Tensor,
    bias: Tensor | None,
    shape: Sequence[int],
    p: int,
    g: int,
) -> Tensor:
    """One linear layer by segments of g weights. x: (..., K) -> (..., rows)."""
    rows, columns = shape
    level = native.level()

    def make() -> tuple[native.SignWeights, np.ndarray]:
        return segments(tile_bits, alphas, shape, p, g, level)

    key = (tuple(shape), p, "segments", level)
    weights, coefficients = _tile.kept(tile_bits, alphas, key, make)
    products = native.Op(
        native.CONV,
        input=0,
        output=1,
        rows=weights.rows,
        weights=[weights],
    )
    gather = native.Op(
        native.GATHER,
        input=1,
        output=2,
        coefficients=coefficients,
        shift=_shift(bias),
    )
    pieces = columns // g
    plan = native.Program(
        [products, gather],
        shapes=[(1, pieces, g), (1, pieces, weights.rows), (1, 1, rows)],
        level=level,
        group=GROUP,
        nhwc=[0],
    )
    return _run_vectors(plan, x, rows)


def _run_vectors(plan: native.Program, x: Tensor, rows: int) -> Tensor:
    """x: (..., K) -> (..., rows)."""
    flat = x.detach().reshape(-1, x.shape[-1]).contiguous()
    out = run(plan, flat, flat.new_empty(len(flat), rows))
    return out.reshape(*x.shape[:-1], rows)


def run(plan: native.Program, x: Tensor, out: Tensor) -> Tensor:
    """Runs a plan of one op over contiguous x into out."""
    if len(x):
        inputs = [x.data_ptr()]
        outputs = [out.data_ptr()]
        plan.run(inputs, outputs, len(x), torch.get_num_threads())
    return out
