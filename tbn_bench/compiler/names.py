"""RULES: one table from what torch calls to the rule that lowers it.

A node calls a module (nn.ReLU), a function (F.relu), an operator of torch.export
(aten.relu.default), a method ("relu") or a pattern (patterns.SelfAttention). `lowers` enters a rule
under all its names; `rule_of` finds it, or says that there is none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from tbn_bench.compiler.graph import NoRule, Operation, Unsupported


@dataclass(frozen=True)
class Call:
    """One call in a network: what a rule reads. module: the module that is called, or None."""

    node: fx.Node
    module: Any = None

    @property
    def x(self) -> Any:
        """The first argument."""
        return self.node.args[0]

    @property
    def target(self) -> Any:
        """The function, the method's name or the pattern."""
        return self.node.target

    @property
    def name(self) -> str:
        """As a user knows it: SiLU, add."""
        if self.module is not None:
            return type(self.module).__name__
        if isinstance(self.target, torch._ops.OpOverload):
            return str(self.target)
        written = getattr(self.target, "__name__", self.target)
        return str(written)

    def arguments(self, **defaults: Any) -> list[Any]:
        """The arguments behind the first, in the order of `defaults`, by position or keyword.

        Raises NoRule for any other argument.
        """
        _, *others = self.node.args
        by_keyword = self.node.kwargs
        unknown = sorted(by_keyword.keys() - defaults.keys())
        if unknown:
            raise NoRule(f"{self.name}({', '.join(unknown)}=...)")
        if len(others) > len(defaults):
            raise NoRule(f"{self.name} with {len(others) + 1} arguments")
        by_position = zip(defaults, others, strict=False)
        given = defaults | dict(by_position) | by_keyword
        return list(given.values())


Rule = Callable[[Call], Operation]
RULES: dict[Any, Rule] = {}


def lowers(*targets: Any) -> Callable[[Rule], Rule]:
    """Enters a rule: a function from a Call to its Operation, which raises Unsupported.

    targets: module classes (their subclasses are meant too), functions, operators, classes of
    patterns, and names of methods.

        @lowers(nn.ReLU, F.relu, torch.ops.aten.relu.default, "relu")
        def relu(call: Call) -> Operation:
            return Relu(call.x)
    """

    def enter(rule: Rule) -> Rule:
        for target in targets:
            if target in RULES:
                raise ValueError(f"{target} has two rules: {RULES[target]} and {rule}")
            RULES[target] = rule
        return rule

    return enter


def node_name(node: fx.Node) -> str:
    """As the network's code names it: a module's path, else the name in the graph."""
    if node.op == "call_module":
        return str(node.target)
    return node.name


def rule_of(call: Call) -> Rule:
    """The rule for a call. Raises NoRule."""
    for key in _keys(call):
        rule = RULES.get(key)
        if rule is not None:
            return rule
    raise NoRule(call.name)


def _keys(call: Call) -> list[Any]:
    """Where the table may have a rule: the most special key first."""
    if call.module is not None:
        return list(type(call.module).__mro__)
    if isinstance(call.target, str):
        return [call.target]
    return [call.target, type(call.target)]


def call_of(node: fx.Node, modules: dict[str, nn.Module]) -> Call:
    """The call of a node.

    Raises Unsupported where it is no call, or its module does more than its class says.
    """
    if node.op == "get_attr":
        raise NoRule("a constant")
    if node.op == "call_module":
        module = modules[str(node.target)]
        call = Call(node, module)
        _check_module(call)
        return call
    return Call(node)


def _check_module(call: Call) -> None:
    module = call.module
    if module.training:
        raise Unsupported(f"{call.name} is in training mode; call model.eval()")
    if module._forward_hooks or module._forward_pre_hooks:
        raise Unsupported(f"{call.name} has hooks")
    if call.node.args and (len(call.node.args) > 1 or call.node.kwargs):
        raise NoRule(f"{call.name} with further arguments")
