"""The native float32 layer, alone; its weight is laid out at the first call and kept."""

from torch import Tensor

from tbn_bench import native
from tbn_bench.kernels import native_layer, stored_tile


def dense_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    native_layer.check(x)
    level = native.level()

    def make() -> native_layer.LayerWeights:
        dense = weight.detach().numpy()
        return native_layer.dense_weights(dense, 1, level)

    weights = stored_tile.kept(weight, weight, level, make)
    return native_layer.linear(x, weights, bias)
