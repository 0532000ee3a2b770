"""Transformers' idioms of many nodes as one: self-attention, patches as tokens, further tokens.

`simplify` rewrites a graph of torch.fx or torch.export where nothing outside a pattern reads its
inner nodes. The new node calls an object of this file, which computes the same in torch, and which
`rules/tokens.py` knows.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

# function -> the word that patterns have for it; the word of a method is its name
_WORDS: dict[Any, str] = {
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    torch.ops.aten.add.Tensor: "add",
    operator.getitem: "getitem",
    torch.ops.aten.reshape.default: "reshape",
    torch.ops.aten.transpose.int: "transpose",
    torch.ops.aten.permute.default: "permute",
    torch.ops.aten.unbind.int: "unbind",
    torch.ops.aten.expand.default: "expand",
    torch.cat: "cat",
    torch.ops.aten.cat.default: "cat",
    F.scaled_dot_product_attention: "attention",
    torch.ops.aten.scaled_dot_product_attention.default: "attention",
}
_WITHOUT_EFFECTS = ("call_function", "call_method", "get_attr")
_ATTENTION_DEFAULTS = {"attn_mask": None, "dropout_p": 0.0, "is_causal": False}
_QKV_ORDER = (2, 0, 3, 1, 4)  # (B, T, 3, heads, depth) -> (3, B, heads, T, depth)


class Pattern:
    """A function that replaces the nodes of a pattern."""

    def __init__(self) -> None:
        self.__name__ = type(self).__name__  # by which torch.fx writes a call

    def __call__(self, x: Tensor) -> Tensor:
        raise NotImplementedError  # abstract


class SelfAttention(Pattern):
    """(B, T, 3 * heads * depth) -> (B, T, heads * depth).

    The first third of the input are queries, then come keys, then values. causal: a token sees
    itself and the tokens before it.
    """

    def __init__(self, heads: int, causal: bool = False):
        super().__init__()
        self.heads = heads
        self.causal = causal

    def __call__(self, qkv: Tensor) -> Tensor:
        parts = qkv.unflatten(-1, (3, self.heads, -1))  # type: ignore[no-untyped-call]
        q, k, v = parts.permute(_QKV_ORDER)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return mixed.transpose(1, 2).flatten(2)


class Patches(Pattern):
    """(B, C, H, W) -> (B, patches, patch * patch * C).

    Each patch is written row by row, channels innermost.
    """

    def __init__(self, patch: int):
        super().__init__()
        self.patch = patch

    def __call__(self, x: Tensor) -> Tensor:
        patches = x.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch)
        return patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


class Tokens(Pattern):
    """(B, T, C) -> (B, n + T, C): tokens in front of those of x, and a table added to all.

    front: (1, n, C). table: (1, n + T, C).
    """

    def __init__(self, front: Tensor, table: Tensor):
        super().__init__()
        self.front = front.detach()
        self.table = table.detach()

    def __call__(self, x: Tensor) -> Tensor:
        front = self.front.expand(x.shape[0], -1, -1)
        return torch.cat([front, x], 1) + self.table


@dataclass(frozen=True)
class _Match:
    """last: the node whose value the pattern computes. x: the pattern's input."""

    last: fx.Node
    pattern: Pattern
    x: fx.Node


class _Other(Exception):
    """This is not the pattern."""


def _require(condition: Any) -> None:
    """Raises _Other."""
    if not condition:
        raise _Other


def simplify(graph: fx.Graph, root: nn.Module) -> None:
    """Every pattern in the graph becomes one node, in place.

    root: holds the parameters that the graph reads.
    """
    for node in list(graph.nodes):
        if not node.users:
            continue
        match = _match(node, root)
        if match is not None:
            _replace(graph, match)


def _match(node: fx.Node, root: nn.Module) -> _Match | None:
    for find in _FINDERS:
        try:
            return find(node, root)
        except _Other:
            continue
    return None


def _replace(graph: fx.Graph, match: _Match) -> None:
    with graph.inserting_after(match.last):
        made = graph.call_function(match.pattern, (match.x,))
    made.meta = dict(match.last.meta)
    match.last.replace_all_uses_with(made)
    _erase(match.last)


def _erase(last: fx.Node) -> None:
    """Removes the node and what it alone read: views and sums, without side effects."""
    doomed = [last]
    while doomed:
        node = doomed.pop()
        if node.users or node.op not in _WITHOUT_EFFECTS:
            continue
        new = [other for other in node.all_input_nodes if other not in doomed]
        doomed += new
        node.graph.erase_node(node)


# -- conditions


def word(node: fx.Node) -> str:
    """The word of what a node calls; empty where it has none."""
    if node.op == "call_method":
        return str(node.target)
    if node.op == "call_function":
        return _WORDS.get(node.target, "")
    return ""


def _flat(values: Any) -> tuple[Any, ...]:
    """f(x, 1, 2) and f(x, [1, 2]) are the same call."""
    if len(values) == 1:
        (only,) = values
        if isinstance(only, list | tuple):
            return tuple(only)
    return tuple(values)


def _input(node: Any, name: str, *arguments: Any) -> fx.Node:
    """The first argument of a node that calls `name` with these further arguments.

    `...` stands for any argument. Raises _Other for any other node.
    """
    _require(isinstance(node, fx.Node) and word(node) == name and not node.kwargs)
    given = _flat(node.args[1:])
    _require(len(given) == len(arguments))
    for expected, found in zip(arguments, given, strict=True):
        _require(expected is ... or expected == found)
    x = node.args[0]
    if not isinstance(x, fx.Node):
        raise _Other
    return x


def _only(node: fx.Node, *readers: fx.Node) -> None:
    """Raises _Other unless exactly these nodes read `node`."""
    expected = set(readers)
    _require(set(node.users) == expected)


def _reader(node: fx.Node) -> fx.Node:
    """The one reader of a node. Raises _Other."""
    readers = list(node.users)
    _require(len(readers) == 1)
    return readers[0]


# -- self-attention, between the qkv layer and the projection


def _attention(node: fx.Node, root: nn.Module) -> _Match:
    """softmax(q k^T / sqrt(depth)) v, where q, k and v are the thirds of one value."""
    causal = _is_causal(node)
    thirds = _cut_in_thirds(node)
    transpose = _reader(node)
    last = _reader(transpose)
    if thirds.op == "call_function":
        permuted = _exported_input_of_unbind(thirds)
        cut = _input(permuted, "permute", *_QKV_ORDER)
        qkv, heads = _exported_heads(cut, last)
    else:
        permuted = thirds
        cut = _input(permuted, "permute", *_QKV_ORDER)
        qkv, heads = _traced_heads(cut, last, node)
    _only(cut, permuted)
    _require(isinstance(heads, int) and heads >= 1)
    return _Match(last, SelfAttention(heads, causal), qkv)


def _is_causal(node: fx.Node) -> bool:
    """is_causal of an attention without another mask, scale and dropout. Raises _Other."""
    _require(node.op == "call_function")
    _require(word(node) == "attention")
    _, _, _, *others = node.args
    by_position = zip(_ATTENTION_DEFAULTS, others, strict=False)
    given = _ATTENTION_DEFAULTS | dict(by_position) | dict(node.kwargs)
    causal = given.pop("is_causal")
    _require(isinstance(causal, bool))
    _require(given == {"attn_mask": None, "dropout_p": 0.0})
    return bool(causal)


def _cut_in_thirds(node: fx.Node) -> fx.Node:
    """The node whose items 0, 1 and 2 are q, k and v."""
    parts = [part for part in node.args[:3] if isinstance(part, fx.Node)]
    _require(len(parts) == 3)
    thirds = [_input(part, "getitem", i) for i, part in enumerate(parts)]
    for part in parts:
        _only(part, node)
    _require(len(set(thirds)) == 1)
    _only(thirds[0], *parts)
    return thirds[0]


def _exported_input_of_unbind(unbound: fx.Node) -> fx.Node:
    is_default = len(unbound.args) == 1
    axis = [] if is_default else [0]
    permuted = _input(unbound, "unbind", *axis)
    _only(permuted, unbound)
    return permuted


def _exported_heads(cut: fx.Node, last: fx.Node) -> tuple[fx.Node, Any]:
    """(qkv, heads), as torch.export writes attention: reshapes by sizes."""
    qkv = _input(cut, "reshape", ..., ..., 3, ..., ...)
    transposed = _input(last, "reshape", ..., ..., ...)
    _input(transposed, "transpose", 1, 2)
    _, tokens, *width = qkv.meta["val"].shape
    _, length, _, heads, depth = cut.meta["val"].shape
    _require(width == [3 * heads * depth] and length == tokens)
    _require(tuple(last.meta["val"].shape[1:]) == (tokens, heads * depth))
    return qkv, heads


def _traced_heads(cut: fx.Node, last: fx.Node, node: fx.Node) -> tuple[fx.Node, Any]:
    """(qkv, heads), as torch.fx writes attention: unflatten and flatten."""
    qkv = _input(cut, "unflatten", -1, ...)
    sizes: Any = cut.args[2]
    _require(len(sizes) == 3 and sizes[0] == 3 and sizes[2] == -1)
    transposed = _input(last, "flatten", 2)
    _require(transposed is _reader(node))
    _require(_input(transposed, "transpose", 1, 2) is node)
    return qkv, sizes[1]


# -- patches as tokens, and further tokens


def _patches(node: fx.Node, root: nn.Module) -> _Match:
    rows = _input(node, "flatten", 1, 2)
    permuted = _input(rows, "flatten", 3)
    across = _input(permuted, "permute", 0, 2, 3, 4, 5, 1)
    patch = across.args[2] if len(across.args) == 4 else None
    down = _input(across, "unfold", 3, patch, patch)
    image = _input(down, "unfold", 2, patch, patch)
    for inner, outer in ((rows, node), (permuted, rows), (across, permuted), (down, across)):
        _only(inner, outer)
    if not isinstance(patch, int):
        raise _Other
    return _Match(node, Patches(patch), image)


def _tokens(node: fx.Node, root: nn.Module) -> _Match:
    _require(node.op == "call_function" and word(node) == "add")
    _require(len(node.args) == 2 and not node.kwargs)
    joined, table = node.args
    if not isinstance(joined, fx.Node) or joined.op != "call_function":
        raise _Other
    _require(word(joined) == "cat" and not joined.kwargs and joined.args[1:] == (1,))
    _only(joined, node)
    values: Any = joined.args[0]
    _require(len(values) == 2)
    front, x = values
    own = _input(front, "expand", ..., -1, -1)
    return _Match(node, Tokens(_constant(own, root), _constant(table, root)), x)


def _constant(node: Any, root: nn.Module) -> Tensor:
    """A parameter of shape (1, n, C). Raises _Other."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        raise _Other
    found: Tensor = operator.attrgetter(str(node.target))(root)
    _require(found.dim() == 3 and found.shape[0] == 1)
    return found


_FINDERS: tuple[Callable[[fx.Node, nn.Module], _Match], ...] = (_attention, _patches, _tokens)
