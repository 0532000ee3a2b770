"""Operations in place: y += x, relu(inplace=True), y.mul_(2).

Native regions copy what torch only views. A value that is overwritten must therefore be new memory
that nothing else reads.
"""

import operator
from typing import Any

import torch
from torch import fx, nn

from tbn_bench.layers import packed

AUGMENTED: dict[str, Any] = {
    name: getattr(operator, name)
    for name in ("iadd", "isub", "imul", "itruediv", "iand", "ior", "ixor")
}
_NEW_MODULES = (
    packed.Packed,
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.MaxPool2d,
    nn.AvgPool2d,
)
_NEW_FUNCTIONS = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.matmul,
    torch.add,
    torch.cat,
)


def check(graph: fx.Graph, modules: dict[str, nn.Module]) -> None:
    """Raises ValueError where a value is overwritten that is not new, or that others read."""
    harmless: set[fx.Node] = set()
    for node in graph.nodes:
        if not _overwrites(node, modules):
            continue
        target = node.args[0] if node.args else None
        if not _is_own(target, harmless, modules) or "out" in node.kwargs:
            raise ValueError(f"{node.name} writes over a value that others may read")
        harmless.add(node)


def _is_own(target: Any, harmless: set[fx.Node], modules: dict[str, nn.Module]) -> bool:
    """True for a value of memory of its own with one reader."""
    if not isinstance(target, fx.Node) or len(target.users) != 1:
        return False
    return target in harmless or _is_new(target, modules)


def _overwrites(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    if node.op == "call_method":
        return _ends_in_underscore(str(node.target))
    if node.op != "call_function":
        return False
    is_named = _ends_in_underscore(getattr(node.target, "__name__", ""))
    # torch.fx gives inplace by its name, also where the network does not: F.relu6(x, True)
    is_asked = bool(node.kwargs.get("inplace")) or "out" in node.kwargs
    return is_named or is_asked or node.target in AUGMENTED.values()


def _ends_in_underscore(name: str) -> bool:
    """As torch names what works in place: relu_, and no __add__."""
    is_operator = name.endswith("__")
    return name.endswith("_") and not is_operator


def _is_new(node: Any, modules: dict[str, nn.Module]) -> bool:
    """True where the node's result is memory of its own, no view of something."""
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], _NEW_MODULES)
    if node.op == "call_function":
        return node.target in _NEW_FUNCTIONS
    return False
