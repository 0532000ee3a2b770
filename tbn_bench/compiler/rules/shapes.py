"""Operations that move values and compute none: flatten, transpose, slices, zeros around."""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tbn_bench.compiler.graph import (
    Flatten,
    NoRule,
    Operation,
    PadChannels,
    PadMap,
    Reshape,
    Select,
    Subsample,
    Transpose,
)
from tbn_bench.compiler.names import Call, lowers

_WHOLE = slice(None)


@lowers(nn.Flatten, torch.flatten, "flatten")
def flatten(call: Call) -> Operation:
    if call.module is not None:
        start, end = call.module.start_dim, call.module.end_dim
    else:
        start, end = call.arguments(start_dim=0, end_dim=-1)
    if (start, end) != (1, -1):
        raise NoRule(f"flatten of axes {start} to {end}")
    return Flatten(call.x)


@lowers(torch.ops.aten.reshape.default)
def reshape(call: Call) -> Operation:
    """torch.export writes flatten as a reshape; its sizes are those of the traced example."""
    example = call.node.meta.get("val")
    return Reshape(call.x, tuple(getattr(example, "shape", ())))


@lowers(torch.ops.aten.transpose.int, "transpose")
def transpose(call: Call) -> Operation:
    return Transpose(call.x, tuple(call.arguments(dim0=None, dim1=None)))


@lowers(torch.ops.aten.select.int, "select")
def select(call: Call) -> Operation:
    axis, position = call.arguments(dim=None, index=None)
    if axis != 1:
        raise NoRule(f"select on axis {axis}")
    return Select(call.x, position)


@lowers(operator.getitem)
def index(call: Call) -> Operation:
    """x[:, :, ::s, ::t], every s-th and t-th position, and x[:, i], one token."""
    (where,) = call.arguments(index=None)
    places = where if isinstance(where, tuple) else (where,)
    if len(places) == 2 and places[0] == _WHOLE:
        return Select(call.x, places[1])
    if len(places) == 4 and places[:2] == (_WHOLE, _WHOLE):
        down = _step(places[2])
        across = _step(places[3])
        if down and across:
            return Subsample(call.x, (down, across))
    raise NoRule(f"indexing by {where!r}")


def _step(part: Any) -> int:
    """s of the index ::s; 0 for any other index."""
    if not isinstance(part, slice) or part.start is not None or part.stop is not None:
        return 0
    step = part.step or 1
    return step if isinstance(step, int) and step > 0 else 0


@lowers(F.pad, torch.ops.aten.pad.default)
def pad(call: Call) -> Operation:
    """Of F.pad what adds channels of zeros to (B, C, H, W)."""
    amounts, mode, value = call.arguments(pad=(), mode="constant", value=None)
    are_zeros = mode == "constant" and not value
    if not are_zeros or not _are_channels(amounts):
        raise NoRule(f"padding by {amounts!r}")
    *_, front, back = amounts
    return PadChannels(call.x, front, back)


def _are_channels(amounts: Any) -> bool:
    """True for amounts of F.pad that add channels to (B, C, H, W) and nothing else."""
    if not isinstance(amounts, tuple | list) or len(amounts) != 6:
        return False
    if not all(isinstance(amount, int) for amount in amounts):
        return False
    return not any(amounts[:4]) and min(amounts) >= 0


@lowers(nn.ZeroPad2d)
def zero_pad(call: Call) -> Operation:
    left, right, top, below = call.module.padding
    if left or top or min(right, below) < 0:
        raise NoRule(f"ZeroPad2d by {call.module.padding}")
    return PadMap(call.x, below=below, right=right)
