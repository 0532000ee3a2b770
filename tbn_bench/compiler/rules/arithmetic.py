"""Sums of two values, products with numbers, means and maxima over axes."""

import math
import operator
from typing import Any

import torch
from torch import fx

from tbn_bench.compiler.graph import Add, Maximum, Mean, NoRule, Operation, Scale, Unsupported
from tbn_bench.compiler.names import Call, lowers


@lowers(
    operator.add,
    operator.iadd,
    torch.add,
    torch.ops.aten.add.Tensor,
    "add",
)
def add(call: Call) -> Operation:
    (other,) = call.arguments(other=None)
    for summand in (call.x, other):
        if not isinstance(summand, fx.Node):
            raise NoRule("a sum with a constant")
    return Add(call.x, other, in_place=call.target is operator.iadd)


@lowers(
    operator.mul,
    torch.mul,
    torch.ops.aten.mul.Tensor,
    "mul",
)
def multiply(call: Call) -> Operation:
    return _scale(call, division=False)


@lowers(
    operator.truediv,
    torch.div,
    torch.ops.aten.div.Tensor,
    "div",
)
def divide(call: Call) -> Operation:
    return _scale(call, division=True)


def _scale(call: Call, division: bool) -> Operation:
    """Raises NoRule unless a value is multiplied or divided by a positive number behind it."""
    (number,) = call.arguments(other=None)
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not isinstance(call.x, fx.Node) or not is_number or not 0 < number < math.inf:
        raise NoRule(call.name)
    return Scale(call.x, 1 / number if division else number)


@lowers(torch.mean, torch.ops.aten.mean.dim, "mean")
def mean(call: Call) -> Operation:
    axes, keepdim = call.arguments(dim=None, keepdim=False)
    return Mean(call.x, _axes(axes), bool(keepdim))


@lowers(torch.ops.aten.amax.default, "amax")
def amax(call: Call) -> Operation:
    (axes,) = call.arguments(dim=())
    found = _axes(axes)
    if len(found) != 1:
        raise NoRule("amax over several axes")

    (axis,) = found
    return Maximum(call.x, axis)


def _axes(value: Any) -> tuple[int, ...]:
    """One axis or several. Raises Unsupported for what is computed."""
    listed = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(axis, int) for axis in listed):
        raise Unsupported(f"expected axes as numbers, got {value!r}")
    return listed
