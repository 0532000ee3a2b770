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
    tile_bits: Tensor, alphas: Tensor, shape: Sequence[int], p: int, groups: int, level: str
) -> tuple[list, int, np.ndarray]:
    """(one weight per group, copies, scale per output row) of a layer for one level; one for all groups of one channel each.

    shape: (rows, channels / groups[, kh, kw])."""
    rows, channels = shape[0] // groups, shape[1]
    kh, kw = (1, 1, *shape[2:])[-2:] if len(shape) > 2 else (1, 1)
    depthwise = groups > 1 and (rows, channels) == (1, 1)  # too few columns to look anything up
    if depthwise or shape[0] % max(1, len(alphas)):  # or a scale changes inside a row
        return (
            float_weights(_tile.expand(tile_bits, alphas, shape, p).numpy(), groups, level),
            1,
            np.ones(shape[0]),
        )
    scale = _tile.row_scales(alphas, shape[0]).double().numpy()
    tile = tile_bits.numpy()
    if _tile.aligned(shape[0], p, len(alphas), groups):
        return [native.SignWeights(tile, rows // p, channels, kh, kw, level)], p, scale
    signs = np.tile(bits.unpack(tile, prod(shape) // p), p).reshape(groups, -1)
    return (
        [native.SignWeights(bits.pack(s), rows, channels, kh, kw, level) for s in signs],
        1,
        scale,
    )


def float_weights(dense: np.ndarray, groups: int, level: str) -> list:
    """Of a layer in float32: one for each group, one in all for groups of one channel each. dense: (rows, channels / groups[, kh, kw])."""
    rows, channels, kh, kw = (
        dense.shape[0] // groups,
        dense.shape[1],
        *(1, 1, *dense.shape[2:])[-2:],
    )
    if groups > 1 and (rows, channels) == (1, 1):
        return [native.DepthwiseWeights(dense.reshape(groups, 1, kh, kw), level)]
    return [native.FloatWeights(w, level) for w in dense.reshape(groups, rows, channels, kh, kw)]


def segments(
    tile_bits: Tensor, alphas: Tensor, shape: Sequence[int], p: int, g: int, level: str
) -> tuple[native.SignWeights, np.ndarray]:
    """(the tile as rows of g columns, a coefficient for each piece of each row) of a linear layer whose tiles end inside rows.

    The dot products of K / g pieces of the input with q / g pieces of the tile are made once (CONV), rows are sums of them (GATHER).
    """
    total, pieces = prod(shape), prod(shape) // g
    weights = native.SignWeights(tile_bits.numpy(), total // p // g, g, name=level)
    scales = alphas.float().numpy() if len(alphas) else np.ones(1, np.float32)
    return weights, np.repeat(scales, pieces // len(scales))


def kept_weights(
    tile_bits: Tensor, alphas: Tensor, shape: Sequence[int], p: int, groups: int
) -> tuple[list, int, np.ndarray, str]:
    """The same, laid out at the first call for these bits and kept."""
    level = native.level()
    key = (tuple(shape), p, groups, level)
    return *_tile.kept(
        tile_bits, alphas, key, lambda: weights(tile_bits, alphas, shape, p, groups, level)
    ), level


def check(x: Tensor) -> None:
    if x.device.type != "cpu" or x.dtype != torch.float32:
        raise ValueError(
            f"implementation 'cpu' takes float32 on the CPU, got {x.dtype} on {x.device.type}; use 'torch'"
        )


def linear(
    x: Tensor, weights: list, copies: int, scale: np.ndarray, bias: Tensor | None, level: str
) -> Tensor:
    """One linear layer. x: (..., K) -> (..., rows); scale: (rows,)."""
    rows, columns = len(scale), x.shape[-1]
    shift = np.zeros(rows) if bias is None else bias.detach().double().numpy()
    op = native.Op(
        native.CONV, 0, 1, p=copies, rows=rows // copies, weights=weights, scale=scale, shift=shift
    )
    plan = native.Plan([op], [(1, 1, columns), (1, 1, rows)], level=level, group=GROUP)
    flat = x.detach().reshape(-1, columns).contiguous()
    return run(plan, flat, flat.new_empty(len(flat), rows)).reshape(*x.shape[:-1], rows)


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
    (rows, columns), level = shape, native.level()
    key = (tuple(shape), p, "segments", level)
    weights, coefficients = _tile.kept(
        tile_bits, alphas, key, lambda: segments(tile_bits, alphas, shape, p, g, level)
    )
    products = native.Op(native.CONV, 0, 1, rows=weights.rows, weights=[weights])
    shift = None if bias is None else bias.detach().double().numpy()
    gather = native.Op(native.GATHER, 1, 2, coefficients=coefficients, shift=shift)
    pieces = columns // g
    plan = native.Plan(
        [products, gather],
        [(1, pieces, g), (1, pieces, weights.rows), (1, 1, rows)],
        level=level,
        group=GROUP,
        nhwc=[0],
    )
    flat = x.detach().reshape(-1, columns).contiguous()
    return run(plan, flat, flat.new_empty(len(flat), rows)).reshape(*x.shape[:-1], rows)


def run(plan: native.Plan, x: Tensor, out: Tensor) -> Tensor:
    """Runs a plan of one op over contiguous x into out."""
    if len(x):
        plan.run([x.data_ptr()], [out.data_ptr()], len(x), torch.get_num_threads())
    return out
