"""Each distinct dot product once, on the vendor's matrix product: any device and type.

Where the copies are whole rows, x is multiplied by the tile and the result is stored p times,
scaled. Where tiles end inside a row, rows and tiles are cut into their common pieces, segments of
length g = gcd(K, q). Each piece of x is multiplied by each piece of the tile once. The rows are
sums of these products.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tbn_bench.kernels import stored_tile


def copies(y: Tensor, scales: Tensor, bias: Tensor | None, dim: int) -> Tensor:
    """y: (..., R at dim, ...) -> (..., p * R, ...): p scaled copies, plus bias, in y's type.

    scales: (p, R, 1...), bias: (p * R,).
    """
    y = y.unsqueeze(dim - 1)
    scales = scales.to(y.dtype)
    if bias is None:
        scaled = y * scales
    else:
        shift = bias.to(y.dtype).reshape(scales.shape)
        scaled = torch.addcmul(shift, y, scales)
    return scaled.flatten(dim - 1, dim)


def by_segments(
    x: Tensor,
    tile: Tensor,
    alphas: Tensor,
    bias: Tensor | None,
    shape: Sequence[int],
    g: int,
) -> Tensor:
    """x: (..., K), tile: (q,) -> (..., rows), by q K / g multiply-adds.

    g divides K, q and the run of every scale.
    """
    rows, columns = shape
    pieces = columns // g  # of a row
    kinds = len(tile) // g  # pieces of the tile
    products = x.unflatten(-1, (pieces, g)) @ tile.reshape(kinds, g).T  # (..., pieces, kinds)
    where = torch.arange(rows * pieces, device=x.device).reshape(rows, pieces)
    first = torch.arange(pieces, device=x.device) * kinds
    index = first + where % kinds
    picked = products.flatten(-2)[..., index.reshape(-1)]
    picked = picked.unflatten(-1, (rows, pieces))
    if len(alphas):
        run = rows * columns // len(alphas)  # weights of one scale
        picked = picked * alphas.to(x.dtype)[where * g // run]
    y = picked.sum(-1)
    if bias is None:
        return y
    return y + bias.to(x.dtype)


def tiled_linear(
    x: Tensor,
    tile_bits: Tensor,
    alphas: Tensor,
    bias: Tensor | None,
    shape: Sequence[int],
    p: int,
) -> Tensor:
    rows, columns = shape
    q = rows * columns // p
    if bias is not None:
        bias = bias.to(x.dtype)
    how = stored_tile.how(shape, p, len(alphas))
    if how == "tile reuse":
        tile = stored_tile.unpack(tile_bits, q, x.dtype).reshape(-1, columns)
        scales = stored_tile.row_scales(alphas, rows).to(x.dtype)
        return copies(F.linear(x, tile), scales.reshape(p, -1), bias, -1)
    if how == "segments":
        tile = stored_tile.unpack(tile_bits, q, x.dtype)
        g = stored_tile.segment_length(shape, p)
        return by_segments(x, tile, alphas, bias, shape, g)
    weight = stored_tile.expand(tile_bits, alphas, shape, p, x.dtype)
    return F.linear(x, weight, bias)
