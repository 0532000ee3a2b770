"""Linear layers and convolutions as ops of a native program."""

from typing import Any

import numpy as np

from tbn_bench import native
from tbn_bench.compiler.cpu.operands import Builder
from tbn_bench.compiler.geometry import Window
from tbn_bench.compiler.graph import Layer, Unsupported
from tbn_bench.compiler.layer import bias, convolution_window, is_packed, weight_shape
from tbn_bench.format import bits
from tbn_bench.kernels.native_layer import (
    LayerWeights,
    dense_weights,
    layer_weights,
    segment_weights,
)
from tbn_bench.kernels.stored_tile import segment_length
from tbn_bench.native import Op


def layer(operation: Layer, build: Builder) -> int:
    """One CONV op; more of them where tiles end inside rows, or the weight is a product."""
    module = operation.module
    is_linear = len(weight_shape(module)) == 2
    _check(operation, build)
    x = build.operand(operation.x, last=is_linear)
    if is_packed(module) and module.summed > 1:
        x = _group_sums(x, module.summed, build)
    shape = tuple(module.product.shape) if is_packed(module) else weight_shape(module)
    groups = getattr(module, "groups", 1)
    channels = build.value(x).shape[2]
    if channels != shape[1] * groups:
        raise Unsupported(f"{shape[1] * groups} input channels on a value of {channels}")
    how = module.how if is_packed(module) else "expanded"
    if how == "segments":
        return _by_segments(x, module, build)
    window = _window(module, x, build)
    if how == "two factors":
        return _two_factors(x, module, window, build)
    weights = _weights(module, shape, groups, build.level)
    out = build.region.like(x, (*window.out, shape[0]))
    return build.region.add(
        Op(
            native.CONV,
            x,
            out,
            **_placed(window),
            p=weights.copies,
            rows=weights.rows,
            weights=weights.parts,
            scale=weights.scale,
            shift=bias(module),
        )
    )


def _check(operation: Layer, build: Builder) -> None:
    module = operation.module
    if is_packed(module) and module.form.kind == "shifted":
        # torch multiplies by the tile alone; the enlarged kernel would cost more than it saves
        raise Unsupported("shifted copies run in torch, by the tile alone")
    axes = len(weight_shape(module))
    found = build.axes(operation.x)
    if axes > 2 and found != axes:
        raise Unsupported(f"a convolution of {axes} axes on a value of {found}")


def _window(module: Any, x: int, build: Builder) -> Window:
    """Where the kernel is. A linear layer is a convolution by one pixel."""
    shape = build.value(x).shape
    if len(weight_shape(module)) == 2:
        height, width, _ = shape
        return Window(shape, kernel=(1, 1), out=(height, width))
    return convolution_window(module, shape)


def _placed(window: Window) -> dict[str, Any]:
    """As options of an op."""
    return {
        "kernel": window.kernel,
        "stride": window.stride,
        "padding": window.padding,
        "dilation": window.dilation,
    }


def _group_sums(x: int, p: int, build: Builder) -> int:
    """Sums of every p neighbouring channels, which the tile of copies by columns multiplies.

    Layers that read one value share its sums.
    """
    region = build.region
    height, width, channels = build.value(x).shape
    if channels % p:
        raise Unsupported(f"{channels} channels are no multiple of p = {p}")
    for op in region.ops:
        if (op.kind, op.input, op.p) == (native.GROUP_SUM, x, p):
            return op.output
    out = region.like(x, (height, width, channels // p))
    return region.add(
        Op(
            native.GROUP_SUM,
            x,
            out,
            p=p,
        )
    )


def _by_segments(x: int, module: Any, build: Builder) -> int:
    """A linear layer whose tiles end inside rows: products of pieces, and their sums."""
    region = build.region
    height, width, columns = build.value(x).shape
    rows = module.shape[0]
    weights, coefficients = segment_weights(
        module.tile_bits.cpu(),
        module.alphas.cpu(),
        module.shape,
        module.p,
        build.level,
    )
    length = segment_length(module.shape, module.p)
    pieces = columns // length
    cut = region.like(x, (height, width * pieces, length))
    products = region.like(x, (height, width * pieces, weights.rows))
    out = region.like(x, (height, width, rows))
    region.add(Op(native.COPY, x, cut))
    region.add(
        Op(
            native.CONV,
            cut,
            products,
            rows=weights.rows,
            weights=[weights],
        )
    )
    return region.add(
        Op(
            native.GATHER,
            products,
            out,
            coefficients=coefficients,
            scale=np.ones(rows),
            shift=bias(module),
        )
    )


def _two_factors(x: int, module: Any, window: Window, build: Builder) -> int:
    """A scale per input channel, a layer of `rank` rows, and a layer of one pixel.

    Both layers have weights of signs.
    """
    region = build.region
    rows = module.shape[0]
    rank = module.form.rank
    channels = build.value(x).shape[2]
    u, m, v = (scales.double().cpu().numpy() for scales in module.factor_scales())
    left, right = (bits.pack(signs.cpu().numpy()) for signs in module.factor_signs())
    first = native.SignWeights(right, rank, channels, *window.kernel, build.level)
    second = native.SignWeights(left, rows, rank, name=build.level)

    scaled = region.like(x)
    middle = region.like(x, (*window.out, rank))
    out = region.like(x, (*window.out, rows))
    by_channel = Op(native.AFFINE, x, scaled, scale=v)
    to_rank = Op(
        native.CONV,
        scaled,
        middle,
        rows=rank,
        weights=[first],
        scale=m,
        **_placed(window),
    )
    to_rows = Op(
        native.CONV,
        middle,
        out,
        rows=rows,
        weights=[second],
        scale=u,
        shift=bias(module),
    )
    region.add(by_channel)
    region.add(to_rank)
    return region.add(to_rows)


def _weights(module: Any, shape: tuple[int, ...], groups: int, level: str) -> LayerWeights:
    """Signs where the weight is signs with a scale for each row, else float32."""
    signs = module.sign_form() if is_packed(module) else None
    if signs is not None:
        tile_bits, alphas, p = signs
        return layer_weights(tile_bits.cpu(), alphas.cpu(), shape, p, groups, level)
    dense = module.expanded() if is_packed(module) else module.weight.detach()
    values = dense.float().cpu().numpy().reshape(shape)
    return dense_weights(values, groups, level)
