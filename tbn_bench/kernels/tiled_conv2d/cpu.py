"""The native kernels on one convolution. A whole network is faster as one plan: executor.py."""

import numpy as np
from torch import Tensor

from tbn_bench import native
from tbn_bench.kernels import _cpu
from tbn_bench.kernels.tiled_conv2d import out_size


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
    _cpu.check(x)
    rows = shape[0]
    ho, wo = out_size(x.shape[2:], shape[2:], stride, padding, dilation)
    weights, copies, scale, level = _cpu.kept_weights(tile_bits, alphas, shape, p, groups)
    op = native.Op(
        native.CONV,
        input=0,
        output=1,
        kernel=tuple(shape[2:]),
        stride=tuple(stride),
        padding=tuple(padding),
        dilation=tuple(dilation),
        p=copies,
        rows=weights[0].rows,
        weights=weights,
        scale=scale,
        shift=np.zeros(rows) if bias is None else bias.detach().double().numpy(),
    )
    shapes = [(*x.shape[2:], x.shape[1]), (ho, wo, rows)]
    plan = native.Program([op], shapes, level=level)
    out = x.new_empty(len(x), rows, ho, wo)
    return _cpu.run(plan, x.detach().contiguous(), out)
