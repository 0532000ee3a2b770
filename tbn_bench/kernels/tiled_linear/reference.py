"""Expands the weight and multiplies by it: what every other implementation is tested against."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from tbn_bench.kernels import stored_tile


def tiled_linear(
    x: Tensor,
    tile_bits: Tensor,
    alphas: Tensor,
    bias: Tensor | None,
    shape: Sequence[int],
    p: int,
) -> Tensor:
    weight = stored_tile.expand(tile_bits, alphas, shape, p, x.dtype)
    if bias is not None:
        bias = bias.to(x.dtype)
    return F.linear(x, weight, bias)
