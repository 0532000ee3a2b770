"""Expands the weight and convolves with it: what every other implementation is tested against."""

import torch.nn.functional as F
from torch import Tensor

from tbn_bench.kernels import stored_tile


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
    weight = stored_tile.expand(tile_bits, alphas, shape, p, x.dtype)
    if bias is not None:
        bias = bias.to(x.dtype)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
