"""The native kernels on one linear layer. A whole network is faster as one plan: executor.py."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from tbn_bench.kernels import _cpu, _native

GROUP = 64  # vectors that go through together


def tiled_linear(x: Tensor, tile_bits: Tensor, alphas: Tensor, bias: Tensor | None, shape: Sequence[int], p: int) -> Tensor:
    _cpu.check(x)
    rows, columns = shape
    weights, copies, scale, level = _cpu.kept_weights(tile_bits, alphas, shape, p, 1)
    shift = np.zeros(rows) if bias is None else bias.detach().double().numpy()
    op = _native.Op(_native.CONV, 0, 1, p=copies, rows=rows // copies, weights=weights, scale=scale, shift=shift)
    plan = _native.Plan([op], [(1, 1, columns), (1, 1, rows)], level=level, group=GROUP)
    flat = x.detach().reshape(-1, columns).contiguous()
    return _cpu.run(plan, flat, flat.new_empty(len(flat), rows)).reshape(*x.shape[:-1], rows)
