"""Functions, methods and patterns of a graph as ops of a native plan, one rule for each name; layers are lowering.py's."""

import math
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.ops import aten

from tbn_bench import native
from tbn_bench.compiler.graph import Region, Unsupported
from tbn_bench.native import Op


class Functions:
    """`_do_<name>(region, node)` appends the node's ops to the region and returns the value it became, or raises Unsupported.

    Of lowering.Lowering, which has the operands (`_value`, `_producer`, ...) and the rules that layers and functions share.
    """

    def _do_relu(self, region: Region, node: fx.Node) -> int:
        return self._relu(region, node.args[0])

    def _do_gelu(self, region: Region, node: fx.Node) -> int:
        if len(node.args) != 1 or node.kwargs.get("approximate", "none") != "none":
            raise Unsupported
        return self._unary(region, native.GELU, node.args[0])

    def _do_SelfAttention(self, region: Region, node: fx.Node) -> int:
        heads, x = node.target.heads, self._value(region, node.args[0], last=True)
        (h, w, channels), rank = region.values[x].shape, region.values[x].rank
        if rank != 3 or channels % (3 * heads):
            raise Unsupported
        out = region.new((h, w, channels // 3), 3, True)
        region.ops.append(
            Op(native.ATTENTION, x, out, rows=heads, eps=(channels // (3 * heads)) ** -0.5)
        )
        return out

    def _do_Patches(self, region: Region, node: fx.Node) -> int:
        patch, x = node.target.patch, self._value(region, node.args[0], last=False)
        (h, w, c), rank = region.values[x].shape, region.values[x].rank
        if rank != 4 or h % patch or w % patch:
            raise Unsupported
        out = region.new((1, h // patch * (w // patch), patch * patch * c), 3, True)
        region.ops.append(Op(native.PATCHES, x, out, stride=(patch, patch)))
        return out

    def _do_Tokens(self, region: Region, node: fx.Node) -> int:
        front, table = (t[0].float().cpu() for t in (node.target.front, node.target.table))
        x = self._value(region, node.args[0], last=True)
        (_, before, channels), rank = region.values[x].shape, region.values[x].rank
        if (
            rank != 3
            or front.shape[1] != channels
            or table.shape != (len(front) + before, channels)
        ):
            raise Unsupported
        out = region.new((1, len(table), channels), 3, True)
        added = torch.cat([table[: len(front)] + front, table[len(front) :]]).numpy()
        region.ops.append(Op(native.TOKENS, x, out, rows=len(front), coefficients=added))
        return out

    def _do_transpose(self, region: Region, node: fx.Node) -> int:
        """Of tokens and channels: only what the axes are called changes."""
        index = self._value(region, node.args[0])
        source = region.values[index]
        if (
            source.rank != 3
            or node.kwargs
            or sorted(d % 3 if isinstance(d, int) else 3 for d in node.args[1:]) != [1, 2]
        ):
            raise Unsupported
        out = region.new(source.shape, 3, not source.last)
        region.ops.append(Op(native.COPY, index, out))
        return out

    def _select(self, region: Region, x: Any, position: Any) -> int:
        index = self._value(region, x, last=True)
        source = region.values[index]
        if (
            source.rank != 3
            or not isinstance(position, int)
            or not -source.shape[1] <= position < source.shape[1]
        ):
            raise Unsupported
        out = region.new((1, 1, source.shape[2]), 2, False)
        region.ops.append(Op(native.SELECT, index, out, rows=position % source.shape[1]))
        return out

    def _do_select(self, region: Region, node: fx.Node) -> int:
        if len(node.args) != 3 or node.args[1] != 1:
            raise Unsupported
        return self._select(region, node.args[0], node.args[2])

    def _do_hardtanh(self, region: Region, node: fx.Node) -> int:
        given = (
            dict(zip(("min_val", "max_val", "inplace"), node.args[1:], strict=False)) | node.kwargs
        )
        if given.pop("inplace", False) or not all(
            isinstance(v, int | float) for v in given.values()
        ):
            raise Unsupported
        return self._clamp(
            region, node.args[0], given.get("min_val", -1.0), given.get("max_val", 1.0)
        )

    def _do_relu6(self, region: Region, node: fx.Node) -> int:
        if len(node.args) != 1 or node.kwargs.get("inplace"):
            raise Unsupported
        return self._clamp(region, node.args[0], 0.0, 6.0)

    def _do_add(self, region: Region, node: fx.Node) -> int:
        if len(node.args) != 2 or node.kwargs:
            raise Unsupported
        return self._add(region, *node.args)

    def _do_view(self, region: Region, node: fx.Node) -> int:
        """A view of everything but the batch in one row, as torch.export writes flatten."""
        shape, source = getattr(node.meta.get("val"), "shape", ()), self.fake[node.args[0]]
        if (
            len(shape) != 2
            or not isinstance(source, Tensor)
            or shape[1] != math.prod(source.shape[1:])
        ):
            raise Unsupported
        return self._flatten(region, node.args[0])

    def _do_flatten(self, region: Region, node: fx.Node) -> int:
        given = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | node.kwargs
        if (given.get("start_dim", 0), given.get("end_dim", -1)) != (1, -1):
            raise Unsupported
        return self._flatten(region, node.args[0])

    def _do_mean(self, region: Region, node: fx.Node) -> int:
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        keepdim = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
        known = len(node.args) <= 3 and set(node.kwargs) <= {"dim", "keepdim"}
        if known and not keepdim and dims in (1, [1], (1,)) and self.fake[node.args[0]].dim() == 3:
            return self._mean_of_tokens(region, node.args[0])
        if not known or not isinstance(dims, list | tuple) or sorted(d % 4 for d in dims) != [2, 3]:
            raise Unsupported
        return self._mean(region, node.args[0], bool(keepdim))

    def _mean_of_tokens(self, region: Region, x: Any) -> int:
        index = self._value(region, x, last=True)
        out = region.new((1, 1, region.values[index].shape[2]), 2, False)
        region.ops.append(Op(native.MEAN, index, out))
        return out

    def _do_amax(self, region: Region, node: fx.Node) -> int:
        """x.amax(2) of (B, C, L): one window as long as the signal; behind a layer the extremes of its R rows are enough, its copies come after."""
        if (
            list(node.args[1:]) not in ([2], [-1], [[2]], [[-1]])
            or node.kwargs
            or self.fake[node.args[0]].dim() != 3
        ):
            raise Unsupported
        index = self._value(region, node.args[0], last=False)
        _, length, channels = region.values[index].shape
        out = region.new((1, 1, channels), 2, False)
        conv = self._plain_layer(region, index)
        if conv is None:
            region.ops.append(Op(native.MAX_POOL, index, out, kernel=(1, length)))
            return out
        region.values[index].shape = (1, length, conv.rows)
        region.ops.append(Op(
            native.EXTREMES, index, out, p=conv.p, rows=conv.rows, relu=conv.relu, scale=conv.scale, shift=conv.shift
        ))  # fmt: skip
        conv.p, conv.relu, conv.scale, conv.shift = 1, False, None, None
        return out

    def _plain_layer(self, region: Region, index: int) -> Op | None:
        """The layer that makes this value, if what follows its dot products can be put off: one reader, one group, no residual."""
        op = next((op for op in region.ops if op.output == index), None)
        plain = (
            op is not None and op.kind == native.CONV and op.residual < 0 and len(op.weights) == 1
        )
        return op if plain and self._alone(region, index) else None

    def _do_getitem(self, region: Region, node: fx.Node) -> int:
        """x[:, :, ::s, ::t], subsampling, and x[:, i], one token."""
        x, where = node.args
        whole = slice(None)
        if isinstance(where, tuple) and len(where) == 2 and where[0] == whole:
            return self._select(region, x, where[1])
        if not isinstance(where, tuple) or len(where) != 4 or where[:2] != (whole, whole):
            raise Unsupported
        steps = [
            w.step or 1 if isinstance(w, slice) and w.start is None and w.stop is None else 0
            for w in where[2:]
        ]
        if min(steps) < 1:
            raise Unsupported
        return self._pad(region, x, tuple(steps))

    def _do_pad(self, region: Region, node: fx.Node) -> int:
        """F.pad that adds zero channels only."""
        amounts = node.args[1] if len(node.args) > 1 else None
        zeros = node.kwargs.get("mode", "constant") == "constant" and not node.kwargs.get("value")
        if (
            not zeros
            or len(node.args) > 2
            or not isinstance(amounts, tuple | list)
            or len(amounts) != 6
            or any(amounts[:4])
        ):
            raise Unsupported
        return self._pad(region, node.args[0], front=amounts[4], back=amounts[5])

    def _pad(
        self,
        region: Region,
        x: Any,
        steps: tuple[int, int] = (1, 1),
        front: int = 0,
        back: int = 0,
        below: int = 0,
        right: int = 0,
    ) -> int:
        """Every steps-th position, zero channels in front of the others and behind them, zeros below and to the right."""
        index = self._value(region, x, last=False)
        source = region.values[index]
        if source.rank != 4 or min(front, back, below, right) < 0:
            raise Unsupported
        h, w, c = source.shape
        out = region.new(
            (-(-h // steps[0]) + below, -(-w // steps[1]) + right, front + c + back), 4, False
        )
        region.ops.append(Op(native.PAD_CHANNELS, index, out, stride=steps, padding=(front, 0)))
        return out


NAMES: dict[Any, str] = {
    F.relu: "relu", torch.relu: "relu", F.relu6: "relu6", F.hardtanh: "hardtanh", F.gelu: "gelu", operator.add: "add", operator.iadd: "add", torch.add: "add",
    torch.flatten: "flatten", operator.getitem: "getitem", F.pad: "pad",
    aten.relu.default: "relu", aten.add.Tensor: "add", aten.reshape.default: "view", aten.mean.dim: "mean", aten.amax.default: "amax",
    aten.pad.default: "pad", aten.hardtanh.default: "hardtanh", aten.gelu.default: "gelu", aten.transpose.int: "transpose",
    aten.select.int: "select",
}  # fmt: skip
