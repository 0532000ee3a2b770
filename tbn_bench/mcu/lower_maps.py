"""Operations on maps as nodes of a C program: functions, normalisation, sums, pooling, slices."""

import functools
import math

import numpy as np
import torch
from torch import fx

from tbn_bench.compiler import fold
from tbn_bench.compiler.geometry import Window, window
from tbn_bench.compiler.graph import (
    Add,
    BatchNorm,
    Clamp,
    Elementwise,
    Flatten,
    Mean,
    PadChannels,
    Pool,
    Relu,
    Reshape,
    Same,
    Scale,
    Subsample,
    Unsupported,
)
from tbn_bench.mcu.builder import Builder
from tbn_bench.mcu.graph import Kind, Node

_WITH_RELU: tuple[Kind, ...] = ("tiled", "dense", "depthwise", "affine", "add")


def same(operation: Same, node: fx.Node, build: Builder) -> int:
    return build.operand(operation.x)


def relu(operation: Relu, node: fx.Node, build: Builder) -> int:
    """Part of the layer before, also through a max pooling; else a node of its own."""
    x = build.operand(operation.x)
    if operation.in_place:
        build.check_in_place(x, node)
    target = build.before_max(build.maker(x, node))
    if target is not None and target.kind in _WITH_RELU:
        target.relu = True
        return x
    return build.relu(node.name, x)


def elementwise(operation: Elementwise, node: fx.Node, build: Builder) -> int:
    x = build.operand(operation.x)
    return build.lookup(node.name, x, operation.activation.formula)


def clamp(operation: Clamp, node: fx.Node, build: Builder) -> int:
    x = build.operand(operation.x)
    if operation.in_place:
        build.check_in_place(x, node)
    between = functools.partial(torch.clamp, min=operation.low, max=operation.high)
    return build.lookup(node.name, x, between)


def batch_norm(operation: BatchNorm, node: fx.Node, build: Builder) -> int:
    """Part of the layer before, also through a max pooling where it is increasing."""
    x = build.operand(operation.x)
    scale, shift = fold.scale_and_shift(operation.module)
    height, width, channels = build.shape(x)
    if len(scale) != channels:
        raise Unsupported(
            f"batch normalisation of {len(scale)} values on a map of "
            f"{height} x {width} x {channels}; put it before flattening"
        )
    target = build.maker(x, node)
    if (scale > 0).all():
        target = build.before_max(target)
    if target is None or target.relu or not _has_scale(target):
        return build.affine(node.name, x, scale, shift)
    target.scale = target.scale * scale
    target.shift = target.shift * scale + shift
    return x


def _has_scale(node: Node) -> bool:
    return node.has_weights or node.kind == "affine"


def add(operation: Add, node: fx.Node, build: Builder) -> int:
    a = build.operand(operation.x)
    b = build.operand(operation.y)
    if operation.in_place:
        build.check_in_place(a, node)
    if build.shape(a) != build.shape(b):
        raise Unsupported(f"a sum of maps {build.shape(a)} and {build.shape(b)}; shapes must agree")
    out = build.new(build.shape(a))
    build.keep_flat(a, out)
    return build.add(Node(node.name, "add", (a, b), out, rows=build.graph.size(a)))


def scale(operation: Scale, node: fx.Node, build: Builder) -> int:
    """Part of the layer before, behind its ReLU too; else a node of its own."""
    x = build.operand(operation.x)
    target = build.maker(x, node)
    factor = float(operation.factor)
    if target is not None and _has_scale(target):
        target.scale = target.scale * factor
        target.shift = target.shift * factor
        return x
    channels = build.shape(x)[2]
    return build.affine(node.name, x, np.full(channels, factor), np.zeros(channels))


def flatten(operation: Flatten, node: fx.Node, build: Builder) -> int:
    """Only torch's view changes; the linear layer behind reads the map by a kernel of its size."""
    x = build.operand(operation.x)
    build.flat.add(x)
    return x


def reshape(operation: Reshape, node: fx.Node, build: Builder) -> int:
    """Only where it is a flatten, as torch.export writes one."""
    x = build.operand(operation.x)
    if len(operation.shape) != 2 or operation.shape[1] != math.prod(build.shape(x)):
        raise Unsupported("a reshape that is no flatten")
    build.flat.add(x)
    return x


def mean(operation: Mean, node: fx.Node, build: Builder) -> int:
    """Of all pixels."""
    x = build.operand(operation.x)
    if sorted(axis % 4 for axis in operation.axes) != [2, 3]:
        raise Unsupported(f"a mean over axes {operation.axes}")
    height, width, _ = shape = build.shape(x)
    return _pool(node.name, "mean", x, Window(shape, (height, width), (1, 1)), build)


def pool(operation: Pool, node: fx.Node, build: Builder) -> int:
    x = build.operand(operation.x)
    if operation.average and operation.padding != (0, 0):
        raise Unsupported("average pooling with padding is not known")
    found = window(
        build.shape(x),
        operation.kernel,
        operation.stride,
        operation.padding,
        operation.dilation,
        operation.ceil,
    )
    kind: Kind = "mean" if operation.average else "max"
    return _pool(node.name, kind, x, found, build)


def subsample(operation: Subsample, node: fx.Node, build: Builder) -> int:
    """x[:, :, ::s, ::t]: a pooling of single pixels."""
    x = build.operand(operation.x)
    found = window(
        build.shape(x), kernel=(1, 1), stride=operation.steps, padding=(0, 0), dilation=(1, 1)
    )
    return _pool(node.name, "max", x, found, build)


def _pool(name: str, kind: Kind, x: int, place: Window, build: Builder) -> int:
    channels = place.shape[2]
    if place.patch == channels:  # one pixel: nothing to do but take steps
        kind = "max"
    out = build.new((*place.out, channels))
    node = Node(
        name, kind, inputs=(x,), output=out, rows=channels, columns=place.patch, window=place
    )
    return build.add(node)


def pad_channels(operation: PadChannels, node: fx.Node, build: Builder) -> int:
    x = build.operand(operation.x)
    height, width, channels = shape = build.shape(x)
    rows = operation.front + channels + operation.back
    out = build.new((height, width, rows))
    made = Node(
        node.name,
        "pad",
        inputs=(x,),
        output=out,
        rows=rows,
        columns=channels,
        window=Window(shape, (1, 1), (height, width)),
        front=operation.front,
    )
    return build.add(made)
