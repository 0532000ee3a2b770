"""What transformers say in many nodes, as one: self-attention, patches as tokens, further tokens and positions.

`simplify` rewrites a graph of torch.fx or torch.export where all nodes of a pattern are read inside it alone; the new node calls an object
of this file, which computes the same in torch and which lowering.py knows.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.ops import aten


class Pattern:
    """Calls what many nodes said."""

    @property
    def __name__(self) -> str:  # by which torch.fx writes a call
        return type(self).__name__


class SelfAttention(Pattern):
    """(B, T, 3 * heads * depth), of which the first third are queries, then keys, then values -> (B, T, heads * depth)."""

    def __init__(self, heads: int):
        self.heads = heads

    def __call__(self, qkv: Tensor) -> Tensor:
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Patches(Pattern):
    """(B, C, H, W) -> (B, patches, patch * patch * C): each patch row by row, channels innermost."""

    def __init__(self, patch: int):
        self.patch = patch

    def __call__(self, x: Tensor) -> Tensor:
        patches = x.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch)
        return patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


class Tokens(Pattern):
    """(B, T, C) -> (B, front + T, C): the tokens `front`, (1, front, C), before those of x, and `table`, (1, front + T, C), added to all."""

    def __init__(self, front: Tensor, table: Tensor):
        self.front, self.table = front.detach(), table.detach()

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([self.front.expand(x.shape[0], -1, -1), x], 1) + self.table


_NAMES: dict[Any, str] = {
    F.scaled_dot_product_attention: "attention", aten.scaled_dot_product_attention.default: "attention",
    operator.getitem: "getitem", operator.add: "add", aten.add.Tensor: "add", torch.cat: "cat", aten.cat.default: "cat",
    aten.permute.default: "permute", aten.transpose.int: "transpose", aten.unbind.int: "unbind", aten.reshape.default: "reshape",
    aten.expand.default: "expand",
}  # fmt: skip


class _Other(Exception):
    """This is not the pattern."""


def _flat(values: Any) -> tuple[Any, ...]:
    """f(x, 1, 2) and f(x, [1, 2]) are the same call."""
    return (
        tuple(values[0])
        if len(values) == 1 and isinstance(values[0], list | tuple)
        else tuple(values)
    )


def _is(node: Any, name: str, *arguments: Any) -> fx.Node:
    """The node's input, if the node is that call; `...` stands for any argument. Raises _Other."""
    if not isinstance(node, fx.Node) or node.op not in ("call_method", "call_function"):
        raise _Other
    called = node.target if node.op == "call_method" else _NAMES.get(node.target)
    given = _flat(node.args[1:])
    same = len(given) == len(arguments) and all(
        a is ... or a == g for a, g in zip(arguments, given, strict=True)
    )
    if called != name or node.kwargs or not same or not isinstance(node.args[0], fx.Node):
        raise _Other
    return node.args[0]


def _only(node: fx.Node, *readers: fx.Node) -> None:
    if set(node.users) != set(readers):
        raise _Other


def _reader(node: fx.Node) -> fx.Node:
    if len(node.users) != 1:
        raise _Other
    return next(iter(node.users))


def _attention(node: fx.Node, root: nn.Module) -> tuple[fx.Node, Any, fx.Node]:
    """(the last node, what it becomes, its input) of softmax(q k) v between the qkv layer and the projection."""
    plain = (
        node.kwargs.get("dropout_p", 0.0) == 0.0
        and set(node.kwargs) <= {"dropout_p"}
        and len(node.args) == 3
    )
    if _NAMES.get(node.target) != "attention" or not plain:
        raise _Other
    parts = list(node.args)
    if not all(isinstance(part, fx.Node) for part in parts):
        raise _Other
    thirds = [_is(part, "getitem", i) for i, part in enumerate(parts)]
    [_only(part, node) for part in parts]
    if len(set(thirds)) != 1:
        raise _Other
    _only(thirds[0], *parts)
    permuted, last = thirds[0], _reader(_reader(node))
    if permuted.op == "call_function":  # torch.export: unbind, and reshapes by sizes
        unbound, permuted = permuted, permuted.args[0]
        _is(unbound, "unbind") if len(unbound.args) == 1 else _is(unbound, "unbind", 0)
        _only(permuted, unbound)
        cut = _is(permuted, "permute", 2, 0, 3, 1, 4)
        qkv = _is(cut, "reshape", ..., ..., 3, ..., ...)
        _is(last, "reshape", ..., ..., ...)
        _is(last.args[0], "transpose", 1, 2)
        _, tokens, *width = qkv.meta["val"].shape
        _, _, _, heads, depth = cut.meta["val"].shape
        if width != [3 * heads * depth] or cut.meta["val"].shape[1] != tokens:
            raise _Other
        if tuple(last.meta["val"].shape[1:]) != (tokens, heads * depth):
            raise _Other
    else:
        cut = _is(permuted, "permute", 2, 0, 3, 1, 4)
        qkv = _is(cut, "unflatten", -1, ...)
        sizes = tuple(cut.args[2])
        if len(sizes) != 3 or sizes[0] != 3 or sizes[2] != -1:
            raise _Other
        heads = sizes[1]
        if (
            _is(last, "flatten", 2) is not _reader(node)
            or _is(last.args[0], "transpose", 1, 2) is not node
        ):
            raise _Other
    _only(cut, permuted)
    if not isinstance(heads, int) or heads < 1:
        raise _Other
    return last, SelfAttention(heads), qkv


def _patches(node: fx.Node, root: nn.Module) -> tuple[fx.Node, Any, fx.Node]:
    rows = _is(node, "flatten", 1, 2)
    permuted = _is(rows, "flatten", 3)
    across = _is(permuted, "permute", 0, 2, 3, 4, 5, 1)
    patch = across.args[2] if len(across.args) == 4 else None
    down = _is(across, "unfold", 3, patch, patch)
    image = _is(down, "unfold", 2, patch, patch)
    for inner, outer in ((rows, node), (permuted, rows), (across, permuted), (down, across)):
        _only(inner, outer)
    if not isinstance(patch, int):
        raise _Other
    return node, Patches(patch), image


def _tokens(node: fx.Node, root: nn.Module) -> tuple[fx.Node, Any, fx.Node]:
    if _NAMES.get(node.target) != "add" or len(node.args) != 2 or node.kwargs:
        raise _Other
    joined, table = node.args
    if (
        not isinstance(joined, fx.Node)
        or _NAMES.get(joined.target) != "cat"
        or joined.kwargs
        or joined.args[1:] != (1,)
    ):
        raise _Other
    _only(joined, node)
    if len(joined.args[0]) != 2:
        raise _Other
    front, x = joined.args[0]
    own = _is(front, "expand", ..., -1, -1)
    constants = [
        operator.attrgetter(n.target)(root)
        for n in (own, table)
        if isinstance(n, fx.Node) and n.op == "get_attr"
    ]
    if len(constants) != 2 or any(c.dim() != 3 or c.shape[0] != 1 for c in constants):
        raise _Other
    return node, Tokens(*constants), x


_PATTERNS: tuple[Callable[[fx.Node, nn.Module], tuple[fx.Node, Any, fx.Node]], ...] = (
    _attention,
    _patches,
    _tokens,
)


def simplify(graph: fx.Graph, root: nn.Module) -> None:
    """Every pattern in the graph becomes a node of its own, in place. root: holds the parameters that the graph reads."""
    for node in list(graph.nodes):
        for pattern in _PATTERNS if node.users else ():
            try:
                last, call, x = pattern(node, root)
            except _Other:
                continue
            with graph.inserting_after(last):
                made = graph.call_function(call, (x,))
            made.meta = dict(last.meta)
            last.replace_all_uses_with(made)
            _erase(last)
            break


def _erase(node: fx.Node) -> None:
    """The node and what it alone read: views and sums, which leave no trace elsewhere."""
    doomed = [node]
    while doomed:
        node = doomed.pop()
        if not node.users and node.op in ("call_function", "call_method", "get_attr"):
            doomed += [other for other in node.all_input_nodes if other not in doomed]
            node.graph.erase_node(node)
