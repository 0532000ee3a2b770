"""The vendor's convolution, with each distinct dot product once where the copies are whole rows.

Elsewhere the weight is expanded.
"""

from math import prod

import torch.nn.functional as F
from torch import Tensor

from tbn_bench.kernels import stored_tile
from tbn_bench.kernels.tiled_linear.torch import copies


def tiled_conv2d(
    x: Tensor,
    tile_bits: Tensor,
    alphas: Tensor,
    bias: Tensor | None,
    shape,
    p,
    stride,
    padding,
    dilation,
    groups,
) -> Tensor:
    if bias is not None:
        bias = bias.to(x.dtype)
    if stored_tile.how(shape, p, len(alphas), groups) != "tile reuse":
        weight = stored_tile.expand(tile_bits, alphas, shape, p, x.dtype)
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    tile = stored_tile.unpack(tile_bits, prod(shape) // p, x.dtype).reshape(-1, *shape[1:])
    scales = stored_tile.row_scales(alphas, shape[0]).to(x.dtype)
    products = F.conv2d(x, tile, None, stride, padding, dilation)
    return copies(products, scales.reshape(p, -1, 1, 1), bias, -3)
