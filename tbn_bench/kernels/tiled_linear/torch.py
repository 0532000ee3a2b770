"""Each distinct dot product once, on the vendor's matrix product: any device and type.

Where the copies are whole rows, x meets the tile and the result is stored p times, scaled. Where tiles end inside a row, rows and tiles are
cut into their common pieces (segment length g = gcd(K, q)); each piece meets each piece once and rows are sums of what they hold.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tbn_bench.kernels import _tile


def copies(y: Tensor, scales: Tensor, bias: Tensor | None, dim: int) -> Tensor:
    """y: (..., R at dim, ...) -> (..., p * R, ...): p scaled copies, plus bias, in y's type. scales: (p, R, 1...), bias: (p * R,)."""
    y, scales = y.unsqueeze(dim - 1), scales.to(y.dtype)
    if bias is None:
        return (y * scales).flatten(dim - 1, dim)
    return torch.addcmul(bias.to(y.dtype).reshape(scales.shape), y, scales).flatten(dim - 1, dim)


def segments(
    x: Tensor, tile: Tensor, alphas: Tensor, bias: Tensor | None, shape: Sequence[int], g: int
) -> Tensor:
    """x: (..., K), tile: (q,) -> (..., rows), by q K / g multiply-adds. g divides K, q and the run of every scale."""
    rows, columns = shape
    pieces, kinds = columns // g, len(tile) // g  # of a row, of the tile
    products = x.unflatten(-1, (pieces, g)) @ tile.reshape(kinds, g).T  # (..., pieces, kinds)
    where = torch.arange(rows * pieces, device=x.device).reshape(rows, pieces)
    index = torch.arange(pieces, device=x.device) * kinds + where % kinds
    picked = products.flatten(-2)[..., index.reshape(-1)].unflatten(-1, (rows, pieces))
    if len(alphas):
        picked = picked * alphas.to(x.dtype)[where * g // (rows * columns // len(alphas))]
    y = picked.sum(-1)
    return y if bias is None else y + bias.to(x.dtype)


def tiled_linear(
    x: Tensor, tile_bits: Tensor, alphas: Tensor, bias: Tensor | None, shape: Sequence[int], p: int
) -> Tensor:
    rows, columns = shape
    bias = None if bias is None else bias.to(x.dtype)
    if _tile.aligned(rows, p, len(alphas)):
        tile = _tile.unpack(tile_bits, rows * columns // p, x.dtype).reshape(-1, columns)
        return copies(
            F.linear(x, tile), _tile.row_scales(alphas, rows).to(x.dtype).reshape(p, -1), bias, -1
        )
    g = _tile.segment(shape, p, len(alphas))
    if g:
        return segments(
            x, _tile.unpack(tile_bits, rows * columns // p, x.dtype), alphas, bias, shape, g
        )
    return F.linear(x, _tile.expand(tile_bits, alphas, shape, p, x.dtype), bias)
