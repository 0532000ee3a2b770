"""The native kernels on one linear layer. A whole network is faster: compiler/executor.py."""

from collections.abc import Sequence

from torch import Tensor

from tbn_bench.kernels import native_layer, stored_tile


def tiled_linear(
    x: Tensor,
    tile_bits: Tensor,
    alphas: Tensor,
    bias: Tensor | None,
    shape: Sequence[int],
    p: int,
) -> Tensor:
    native_layer.check(x)
    if not stored_tile.aligned(shape[0], p, len(alphas)):
        g = stored_tile.segment(shape, p, len(alphas))
        if g:
            return native_layer.unaligned_linear(x, tile_bits, alphas, bias, shape, p, g)
    weights = native_layer.kept_weights(tile_bits, alphas, shape, p, 1)
    return native_layer.linear(x, weights, bias)
