"""The native kernels on one convolution. A whole network is faster: compiler/executor.py."""

import numpy as np
from torch import Tensor

from tbn_bench import native
from tbn_bench.kernels import native_layer
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
    native_layer.check(x)
    rows = shape[0]
    ho, wo = out_size(x.shape[2:], shape[2:], stride, padding, dilation)
    weights = native_layer.kept_weights(tile_bits, alphas, shape, p, groups)
    op = native.Op(
        native.CONV,
        input=0,
        output=1,
        kernel=tuple(shape[2:]),
        stride=tuple(stride),
        padding=tuple(padding),
        dilation=tuple(dilation),
        p=weights.copies,
        rows=weights.rows,
        weights=weights.parts,
        scale=weights.scale,
        shift=np.zeros(rows) if bias is None else bias.detach().double().numpy(),
    )
    shapes = [(*x.shape[2:], x.shape[1]), (ho, wo, rows)]
    program = native.Program([op], shapes, level=weights.level)
    out = x.new_empty(len(x), rows, ho, wo)
    images = x.detach().contiguous()
    return native_layer.run(program, images, out)
