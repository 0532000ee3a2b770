"""Values that move: flatten, transpose, slices, zeros around a map."""

import math
from typing import Any

from torch import Tensor

from tbn_bench import native
from tbn_bench.compiler.cpu.operands import Builder
from tbn_bench.compiler.geometry import Pair
from tbn_bench.compiler.graph import (
    Flatten,
    PadChannels,
    PadMap,
    Reshape,
    Select,
    Subsample,
    Transpose,
    Unsupported,
)
from tbn_bench.native import Op


def flatten(operation: Flatten | Reshape, build: Builder) -> int:
    index = build.operand(operation.x)
    source = build.value(index)
    if source.rank == 2:
        return index
    height, width, channels = source.shape
    pixels = height * width
    out = build.region.new((1, 1, pixels * channels), 2, False)
    is_reordered = not source.last and pixels > 1 and channels > 1
    kind = native.CHW if is_reordered else native.COPY
    return build.region.add(Op(kind, index, out))


def reshape(operation: Reshape, build: Builder) -> int:
    """Only where it is a flatten, as torch.export writes one."""
    source = build.examples.of(operation.x)
    shape = operation.shape
    is_row = isinstance(source, Tensor) and len(shape) == 2
    if not is_row or shape[1] != math.prod(source.shape[1:]):
        raise Unsupported("a reshape that is no flatten")
    return flatten(operation, build)


def transpose(operation: Transpose, build: Builder) -> int:
    """Of tokens and channels: only the names of the axes change."""
    index = build.operand(operation.x)
    source = build.value(index)
    axes = operation.axes
    if source.rank != 3 or not _are_tokens_and_channels(axes):
        raise Unsupported(f"a transpose of axes {axes} of a value of {source.rank} axes")
    out = build.region.new(source.shape, 3, not source.last)
    return build.region.add(Op(native.COPY, index, out))


def _are_tokens_and_channels(axes: tuple[Any, ...]) -> bool:
    """True for the last two of three axes, in any order and notation."""
    if not all(isinstance(axis, int) for axis in axes):
        return False
    return sorted(axis % 3 for axis in axes) == [1, 2]


def select(operation: Select, build: Builder) -> int:
    index = build.operand(operation.x, last=True)
    source = build.value(index)
    _, tokens, channels = source.shape
    position = operation.position
    is_number = isinstance(position, int)
    is_inside = is_number and -tokens <= position < tokens
    if source.rank != 3 or not is_inside:
        raise Unsupported(f"index {position!r} of a value of {source.rank} axes")
    out = build.region.new((1, 1, channels), 2, False)
    from_the_front = position % tokens
    return build.region.add(Op(native.SELECT, index, out, rows=from_the_front))


def subsample(operation: Subsample, build: Builder) -> int:
    return _moved(operation.x, build, steps=operation.steps)


def pad_channels(operation: PadChannels, build: Builder) -> int:
    return _moved(operation.x, build, front=operation.front, back=operation.back)


def pad_map(operation: PadMap, build: Builder) -> int:
    return _moved(operation.x, build, below=operation.below, right=operation.right)


def _moved(
    x: object,
    build: Builder,
    steps: Pair = (1, 1),
    front: int = 0,
    back: int = 0,
    below: int = 0,
    right: int = 0,
) -> int:
    """One op for every steps-th position, and for zeros around channels and maps."""
    index = build.operand(x, last=False)
    source = build.value(index)
    if source.rank != 4:
        raise Unsupported(f"slices or zeros of a value of {source.rank} axes")
    height, width, channels = source.shape
    down, across = steps
    shape = (-(-height // down) + below, -(-width // across) + right, front + channels + back)
    out = build.region.new(shape, 4, False)
    op = Op(native.PAD_CHANNELS, index, out, stride=steps, padding=(front, 0))
    return build.region.add(op)
