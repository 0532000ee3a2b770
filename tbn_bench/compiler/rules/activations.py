"""Functions of single values: ReLU, clamps, and those of functions.py.

docs/kernels.md: how to add one.
"""

import torch
import torch.nn.functional as F
from torch import nn

from tbn_bench.compiler.functions import FUNCTIONS, Function
from tbn_bench.compiler.graph import Clamp, Elementwise, NoRule, Operation, Relu, Same
from tbn_bench.compiler.names import Call, Rule, lowers


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


def _rule_of(function: Function) -> Rule:
    def rule(call: Call) -> Operation:
        if call.module is not None:
            given = [getattr(call.module, option) for option in function.options]
        else:
            given = call.arguments(**function.options)
        if given != list(function.options.values()):
            raise NoRule(function.otherwise)
        return Elementwise(call.x, function)

    return rule


for _function in FUNCTIONS:
    lowers(*_function.torch)(_rule_of(_function))


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
