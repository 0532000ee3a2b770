"""Values one by one: activation functions, sums, normalisation."""

from torch import Tensor, fx

from tbn_bench import native
from tbn_bench.compiler import fold
from tbn_bench.compiler.cpu.operands import Builder
from tbn_bench.compiler.graph import (
    Add,
    BatchNorm,
    Clamp,
    Elementwise,
    LayerNorm,
    Relu,
    Same,
    Unsupported,
)
from tbn_bench.compiler.layer import Array
from tbn_bench.native import Op
from tbn_bench.native.library import kind_numbers

_WITH_RELU = (native.CONV, native.ADD, native.AFFINE, native.GATHER)
_WITH_SCALE = (native.CONV, native.AFFINE, native.GATHER)


def same(operation: Same, build: Builder) -> int:
    return build.operand(operation.x)


def relu(operation: Relu, build: Builder) -> int:
    """Part of the op before, where that is read here only, also through a max pooling."""
    x = operation.x
    before = build.foldable_before_max(x, _WITH_RELU)
    if before is None:
        return build.elementwise(native.RELU, x)
    before.relu = True
    return build.operand(x)


def elementwise(operation: Elementwise, build: Builder) -> int:
    name = operation.activation.name
    if name not in kind_numbers():
        raise Unsupported(f"the native library has no op {name}")
    return build.elementwise(name, operation.x)


def clamp(operation: Clamp, build: Builder) -> int:
    return build.elementwise(
        native.CLAMP,
        operation.x,
        eps=float(operation.low),
        high=float(operation.high),
    )


def batch_norm(operation: BatchNorm, build: Builder) -> int:
    """Part of the layer before, where that is read here only; else an op of its own.

    An increasing one (all scales positive) is folded through a max pooling too.
    """
    scale, shift = fold.scale_and_shift(operation.module)
    is_increasing = bool((scale > 0).all())
    find = build.foldable_before_max if is_increasing else build.foldable
    before = find(operation.x, _WITH_SCALE)
    if before is not None and _is_by_channel(before, build):
        before.scale = before.scale * scale
        before.shift = before.shift * scale + shift
        return build.operand(operation.x)
    index = build.operand(operation.x, last=False)
    out = build.region.like(index)
    affine = Op(native.AFFINE, index, out, scale=scale, shift=shift)
    return build.region.add(affine)


def _is_by_channel(op: Op, build: Builder) -> bool:
    """True where the op's scales are over the channels that torch normalises, before any sum."""
    value = build.value(op.output)
    return op.residual < 0 and (value.rank == 2 or not value.last)


def layer_norm(operation: LayerNorm, build: Builder) -> int:
    module = operation.module
    index = build.operand(operation.x, last=True)
    channels = build.value(index).shape[2]
    axes = tuple(module.normalized_shape)
    if axes != (channels,):
        raise Unsupported(f"normalises axes {axes}, not the channels")
    out = build.region.like(index)
    scale, shift = (_float32(part) for part in (module.weight, module.bias))
    op = Op(
        native.LAYER_NORM,
        index,
        out,
        scale=scale,
        shift=shift,
        eps=module.eps,
    )
    return build.region.add(op)


def _float32(tensor: Tensor | None) -> Array | None:
    if tensor is None:
        return None
    found: Array = tensor.detach().float().cpu().numpy()
    return found


def add(operation: Add, build: Builder) -> int:
    """The last step of a convolution, if that can wait for the other summand; else an op."""
    region = build.region
    first, second = operation.x, operation.y
    if first not in region.of_node:
        first, second = second, first
    left = build.operand(first)
    source = build.value(left)
    right = build.operand(second, last=None if source.rank == 2 else source.last)
    other = build.value(right)
    if not source.is_like(other):
        raise Unsupported(f"a sum of {source.shape} and {other.shape}; shapes must agree")
    if first is not second:
        for node, own, value in ((first, left, right), (second, right, left)):
            conv = _waiting(node, own, build)
            if conv is not None:
                region.ops.remove(conv)
                region.ops.append(conv)
                conv.residual = value
                return conv.output
    out = region.like(left)
    return region.add(
        Op(
            native.ADD,
            left,
            out,
            residual=right,
        )
    )


def _waiting(node: fx.Node, own: int, build: Builder) -> Op | None:
    """The convolution that makes a summand, if it may run after the other summand is known.

    It may if nothing else reads its result.
    """
    if build.region.of_node.get(node) != own:
        return None
    conv = build.foldable(node, (native.CONV,))
    if conv is None or conv.residual >= 0:
        return None
    return conv
