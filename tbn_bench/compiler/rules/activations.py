"""Functions of single values: the activation functions, ReLU, clamps, dropout.

A new activation function is a row of ACTIVATIONS, which is its rule. That is all a microcontroller
needs: the formula gives a table of 256 bytes. A CPU needs a formula of the same name in
native/src/ops.inc too, and without it the function stays in torch: docs/guides/activation.md.
ReLU and clamps have operations of their own, because other operations absorb them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbn_bench.compiler.graph import (
    Activation,
    Clamp,
    Elementwise,
    NoRule,
    Operation,
    Relu,
    Same,
)
from tbn_bench.compiler.names import Call, Rule, lowers


def _gelu(x: Tensor) -> Tensor:
    """x Phi(x), Phi the distribution function of the normal distribution."""
    share: Tensor = torch.special.ndtr(x)
    return x * share


ACTIVATIONS = (
    Activation(
        "gelu",
        torch=(nn.GELU, F.gelu, torch.ops.aten.gelu.default),
        formula=_gelu,
        options={"approximate": "none"},
        otherwise="GELU by an approximation",
    ),
)


def rule_of_activation(activation: Activation) -> Rule:
    """The rule that a row of ACTIVATIONS stands for."""

    def rule(call: Call) -> Operation:
        if call.module is not None:
            given = [getattr(call.module, option) for option in activation.options]
        else:
            given = call.arguments(**activation.options)
        if given != list(activation.options.values()):
            raise NoRule(activation.otherwise)
        return Elementwise(call.x, activation)

    return rule


for _activation in ACTIVATIONS:
    lowers(*_activation.torch)(rule_of_activation(_activation))


@lowers(
    nn.ReLU,
    F.relu,
    torch.relu,
    torch.ops.aten.relu.default,
    "relu",
)
def relu(call: Call) -> Operation:
    if call.module is not None:
        return Relu(call.x, call.module.inplace)
    (in_place,) = call.arguments(inplace=False)
    return Relu(call.x, bool(in_place))


@lowers(nn.Hardtanh, F.hardtanh, torch.ops.aten.hardtanh.default)
def hardtanh(call: Call) -> Operation:
    """nn.ReLU6 is a subclass of nn.Hardtanh."""
    module = call.module
    if module is not None:
        return Clamp(call.x, module.min_val, module.max_val, module.inplace)
    low, high, in_place = call.arguments(
        min_val=-1.0,
        max_val=1.0,
        inplace=False,
    )
    for limit in (low, high):
        if not isinstance(limit, int | float):
            raise NoRule("hardtanh between computed limits")
    if in_place:
        raise NoRule("hardtanh in place")
    return Clamp(call.x, low, high)


@lowers(F.relu6)
def relu6(call: Call) -> Operation:
    (in_place,) = call.arguments(inplace=False)
    if in_place:
        raise NoRule("relu6 in place")
    return Clamp(call.x, 0.0, 6.0)


@lowers(nn.Identity, nn.Dropout, nn.Dropout2d)
def identity(call: Call) -> Operation:
    return Same(call.x)


@lowers(F.dropout)
def dropout(call: Call) -> Operation:
    _, training, _ = call.arguments(p=0.5, training=True, inplace=False)
    if training:
        raise NoRule("dropout in training mode")
    return Same(call.x)


@lowers("contiguous")
def contiguous(call: Call) -> Operation:
    call.arguments()
    return Same(call.x)
