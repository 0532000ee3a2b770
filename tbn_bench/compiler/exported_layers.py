"""Functions over parameters, as torch.export writes layers, as the modules that rules know."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

Constant = Callable[[Any], Tensor | None]
Maker = Callable[[fx.Node, Constant], nn.Module | None]


class _More(Exception):
    """The node is more than a module: its weight is computed, say."""


def layer_of(node: fx.Node, root: nn.Module) -> nn.Module | None:
    """A module that does what the node does; None where there is none.

    root: holds the parameters that the graph reads.
    """
    make = _MAKERS.get(node.target)
    if make is None:
        return None
    try:
        return make(node, lambda argument: _constant(root, argument))
    except _More:
        return None


def _constant(root: nn.Module, node: Any) -> Tensor | None:
    """The parameter or buffer that a node reads; None for None.

    Raises _More for what is computed.
    """
    if node is None:
        return None
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        raise _More
    value: Tensor = operator.attrgetter(str(node.target))(root)
    return value


def _arguments(node: fx.Node, *defaults: Any) -> list[Any]:
    """Positional arguments, filled up with the defaults. Raises _More for keywords."""
    if node.kwargs:
        raise _More
    return [*node.args, *defaults[len(node.args) :]]


def _with(layer: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """The layer with these parameters and buffers."""
    for name, tensor in tensors.items():
        if tensor is None:
            setattr(layer, name, None)
        elif name in layer._buffers:
            setattr(layer, name, tensor.detach())
        else:
            parameter = nn.Parameter(tensor.detach(), requires_grad=False)
            setattr(layer, name, parameter)
    return layer


def _weight(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise _More
    return tensor


def _linear(node: fx.Node, constant: Constant) -> nn.Module:
    _, given_weight, given_bias = _arguments(node, None, None, None)
    weight = _weight(constant(given_weight))
    if weight.dim() != 2:
        raise _More
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, device="meta")
    return _with(layer, weight=weight, bias=constant(given_bias))


def _conv1d(node: fx.Node, constant: Constant) -> nn.Module:
    return _conv(nn.Conv1d, node, constant)


def _conv2d(node: fx.Node, constant: Constant) -> nn.Module:
    return _conv(nn.Conv2d, node, constant)


def _conv(kind: Any, node: fx.Node, constant: Constant) -> nn.Module:
    given = _arguments(node, None, None, None, 1, 0, 1, 1)
    _, given_weight, given_bias, stride, padding, dilation, groups = given
    weight = _weight(constant(given_weight))
    rows, channels, *kernel = weight.shape
    axes = len(kernel)
    layer = kind(
        channels * groups,
        rows,
        tuple(kernel),
        _per_axis(stride, axes),
        _per_axis(padding, axes),
        _per_axis(dilation, axes),
        groups,
        device="meta",
    )
    return _with(layer, weight=weight, bias=constant(given_bias))


def _per_axis(value: Any, axes: int) -> tuple[int, ...]:
    """One number for all axes, or one for each."""
    if isinstance(value, int):
        return (value,) * axes
    if len(value) == 1:
        return tuple(value) * axes
    return tuple(value)


def _batch_norm(node: fx.Node, constant: Constant) -> nn.Module | None:
    """_native_batch_norm_legit_no_training has three results; inference reads the first."""
    x, weight, bias, given_mean, variance, _, eps = _arguments(node)
    mean = constant(given_mean)
    reads = [user.args[1:] for user in node.users]
    if mean is None or reads != [(0,)]:
        return None
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
    kind = kinds.get(x.meta["val"].dim())
    if kind is None:
        return None
    return _with(
        kind(len(mean), eps, device="meta"),
        weight=constant(weight),
        bias=constant(bias),
        running_mean=mean,
        running_var=constant(variance),
    )


def _layer_norm(node: fx.Node, constant: Constant) -> nn.Module:
    _, shape, weight, bias, eps, *_ = _arguments(node, None, None, None, None, 1e-5, True)
    layer = nn.LayerNorm(tuple(shape), eps, device="meta")
    return _with(layer, weight=constant(weight), bias=constant(bias))


def _max_pool(node: fx.Node, constant: Constant) -> nn.Module:
    given = _arguments(node, None, None, [], 0, 1, False)
    _, kernel, stride, padding, dilation, ceil = given
    return nn.MaxPool2d(kernel, stride or kernel, padding, dilation, ceil_mode=ceil)


def _avg_pool(node: fx.Node, constant: Constant) -> nn.Module:
    given = _arguments(node, None, None, [], 0, False, True, None)
    _, kernel, stride, padding, ceil, include, divisor = given
    return nn.AvgPool2d(kernel, stride or kernel, padding, ceil, include, divisor)


def _adaptive_pool(node: fx.Node, constant: Constant) -> nn.Module:
    _, size = _arguments(node)
    return nn.AdaptiveAvgPool2d(tuple(size))


def _dropout(node: fx.Node, constant: Constant) -> nn.Module | None:
    _, _, is_training = _arguments(node)
    if is_training:
        return None
    return nn.Identity()


_MAKERS: dict[Any, Maker] = {
    torch.ops.aten.linear.default: _linear,
    torch.ops.aten.conv1d.default: _conv1d,
    torch.ops.aten.conv2d.default: _conv2d,
    torch.ops.aten._native_batch_norm_legit_no_training.default: _batch_norm,
    torch.ops.aten.layer_norm.default: _layer_norm,
    torch.ops.aten.max_pool2d.default: _max_pool,
    torch.ops.aten.avg_pool2d.default: _avg_pool,
    torch.ops.aten.adaptive_avg_pool2d.default: _adaptive_pool,
    torch.ops.aten.dropout.default: _dropout,
}
