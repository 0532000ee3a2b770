"""Windows and whole maps: pooling, means, maxima over positions."""

from dataclasses import replace

from tbn_bench import native
from tbn_bench.compiler.cpu.operands import Builder
from tbn_bench.compiler.geometry import window
from tbn_bench.compiler.graph import Maximum, Mean, Pool, Unsupported
from tbn_bench.native import Op


def pool(operation: Pool, build: Builder) -> int:
    if operation.ceil:
        raise Unsupported("pooling whose sizes are rounded up (ceil_mode)")
    if operation.dilation != (1, 1):
        raise Unsupported("pooling with dilation")
    index = build.operand(operation.x, last=False)
    shape = build.value(index).shape
    rank = build.value(index).rank
    if rank != operation.axes + 2:
        raise Unsupported(f"pooling over {operation.axes} axes of a value of {rank} axes")
    found = window(shape, operation.kernel, operation.stride, operation.padding, operation.dilation)
    out = build.region.like(index, (*found.out, shape[2]))
    kind = native.AVG_POOL if operation.average else native.MAX_POOL
    return build.region.add(
        Op(kind, index, out, kernel=found.kernel, stride=found.stride, padding=found.padding)
    )


def mean(operation: Mean, build: Builder) -> int:
    """Of all pixels of a map, or of all tokens."""
    axes = operation.axes
    is_tokens = axes == (1,) and not operation.keepdim
    is_map = sorted(axis % 4 for axis in axes) == [2, 3]
    if not is_tokens and not is_map:
        raise Unsupported(f"a mean over axes {axes}")
    index = build.operand(operation.x, last=is_tokens)
    value = build.value(index)
    expected = 3 if is_tokens else 4
    if value.rank != expected:
        raise Unsupported(f"a mean over axes {axes} of a value of {value.rank} axes")
    channels = value.shape[2]
    rank = 4 if operation.keepdim else 2
    out = build.region.new((1, 1, channels), rank, False)
    return build.region.add(Op(native.MEAN, index, out))


def maximum(operation: Maximum, build: Builder) -> int:
    """x.amax(2) of (B, C, L): one window as long as the signal.

    Behind a layer the extremes of its distinct rows are enough. Then EXTREMES makes the copies,
    scales and shifts, and a layer without them takes the place of the layer.
    """
    index = build.operand(operation.x, last=False)
    value = build.value(index)
    if value.rank != 3 or operation.axis not in (2, -1):
        raise Unsupported(f"a maximum over axis {operation.axis} of a value of {value.rank} axes")
    _, length, channels = value.shape
    out = build.region.new((1, 1, channels), 2, False)
    conv = _plain_layer(index, build)
    if conv is None:
        return build.region.add(Op(native.MAX_POOL, index, out, kernel=(1, length)))
    extremes = Op(
        native.EXTREMES,
        index,
        out,
        p=conv.p,
        rows=conv.rows,
        relu=conv.relu,
        scale=conv.scale,
        shift=conv.shift,
    )
    products = replace(conv, p=1, relu=False, scale=None, shift=None)
    build.region.exchange(conv, products, shape=(1, length, conv.rows))
    return build.region.add(extremes)


def _plain_layer(index: int, build: Builder) -> Op | None:
    """The layer that makes this value, if its scales, shifts and ReLU can wait.

    That is so with one reader, one group of weights and no residual sum.
    """
    op = build.region.maker(index)
    if op is None or op.kind != native.CONV or op.residual >= 0 or len(op.weights) != 1:
        return None
    return op if build.region.is_read_once(index) else None
