"""Each distinct dot product once, on the vendor's convolution, where the copies are whole rows; else the expanded weight."""

from math import prod

import torch.nn.functional as F
from torch import Tensor

from tbn_bench.kernels import _tile
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
    bias = None if bias is None else bias.to(x.dtype)
    if not _tile.aligned(shape[0], p, len(alphas), groups):
        return F.conv2d(
            x,
            _tile.expand(tile_bits, alphas, shape, p, x.dtype),
            bias,
            stride,
            padding,
            dilation,
            groups,
        )
    tile = _tile.unpack(tile_bits, prod(shape) // p, x.dtype).reshape(-1, *shape[1:])
    scales = _tile.row_scales(alphas, shape[0]).to(x.dtype).reshape(p, -1, 1, 1)
    return copies(F.conv2d(x, tile, None, stride, padding, dilation), scales, bias, -3)
