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
    if stored_tile.how(shape, p, len(alphas)) == "segments":
        return native_layer.linear_by_segments(x, tile_bits, alphas, bias, shape, p)
    weights = native_layer.kept_weights(tile_bits, alphas, shape, p, 1)
    return native_layer.linear(x, weights, bias)
