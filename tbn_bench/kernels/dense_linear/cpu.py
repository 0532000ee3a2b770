"""The native float32 layer, alone; its weight is laid out at the first call and kept."""

import numpy as np
from torch import Tensor

from tbn_bench.kernels import _cpu, _native, _tile


def dense_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    _cpu.check(x)
    level = _native.level()
    made = _tile.kept(
        weight,
        weight,
        level,
        lambda: _native.FloatWeights(weight.detach().numpy()[:, :, None, None], level),
    )
    return _cpu.linear(x, [made], 1, np.ones(len(weight)), bias, level)
