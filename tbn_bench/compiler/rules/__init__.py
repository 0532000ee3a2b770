"""The rules: what each module, function and operator of torch does, one file per subject.

To read another module or function as a known operation, write one function with `@lowers(...)` in
the file of its subject. A new operation needs the back ends too: docs/kernels.md.
"""

from torch import fx, nn

from tbn_bench.compiler.graph import Operation, Unsupported
from tbn_bench.compiler.names import call_of, rule_of
from tbn_bench.compiler.rules import (
    activations,
    arithmetic,
    layers,
    normalisation,
    pooling,
    shapes,
    tokens,
)

__all__ = [
    "activations",
    "arithmetic",
    "layers",
    "normalisation",
    "operation_of",
    "pooling",
    "shapes",
    "tokens",
]


def operation_of(node: fx.Node, modules: dict[str, nn.Module]) -> Operation:
    """What a node does. modules: of the network, by name. Raises Unsupported with the reason."""
    call = call_of(node, modules)
    rule = rule_of(call)
    if not node.args:
        raise Unsupported("its input is given by keyword; give it by position")
    return rule(call)
