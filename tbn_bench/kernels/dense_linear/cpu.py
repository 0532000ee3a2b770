"""The native float32 layer, alone; its weight is laid out at the first call and kept."""

import numpy as np
from torch import Tensor

from tbn_bench import native
from tbn_bench.kernels import _cpu, _tile


def dense_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    _cpu.check(x)
    level = native.level()

    def make() -> native.FloatWeights:
        kernels = weight.detach().numpy()[:, :, None, None]
        return native.FloatWeights(kernels, level)

    made = _tile.kept(weight, weight, level, make)
    scale = np.ones(len(weight))
    return _cpu.linear(x, [made], 1, scale, bias, level)
