"""Shapes of all values of a network, without memory, for two batch sizes.

An axis that is k times as long as the batch for both sizes holds k images to one of the network.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tbn_bench.compiler.graph import Unsupported

BATCHES = (13, 17)


class Examples:
    """Fake tensors of every node, by torch's own shape rules."""

    def __init__(self) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._values: dict[int, dict[fx.Node, Any]] = {}
        for batch in BATCHES:
            self._values[batch] = {}

    def of(self, node: fx.Node) -> Any:
        """The example of the smaller batch."""
        return self._values[BATCHES[0]][node]

    def set(self, node: fx.Node, make: Callable[[int], Any]) -> None:
        """make: batch -> the node's value."""
        with self._mode, torch.no_grad():
            for batch, known in self._values.items():
                known[node] = make(batch)

    def run(self, node: fx.Node, model: nn.Module) -> None:
        """Calls what the node calls."""

        def call(batch: int) -> Any:
            known = self._values[batch]
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            return call_node(
                node,
                model,
                args,
                kwargs,
            )

        self.set(node, call)

    def images(self, node: fx.Node) -> int:
        """Images in the node's value to one of the network.

        Raises Unsupported where the value is no float32 tensor of images.
        """
        example = self.of(node)
        if not isinstance(example, Tensor):
            raise Unsupported(f"reads {node.name}, which is no tensor")
        if example.dtype != torch.float32 or not 2 <= example.dim() <= 4:
            kind = str(example.dtype).removeprefix("torch.")
            raise Unsupported(f"reads a tensor of {kind} with {example.dim()} axes")
        factor = example.shape[0] // BATCHES[0]
        rest = example.shape[1:]
        shapes = [
            known[node].shape == (batch * factor, *rest) for batch, known in self._values.items()
        ]
        if not factor or not all(shapes):
            raise Unsupported("reads a value without a batch axis")
        return factor


def call_node(
    node: fx.Node,
    model: nn.Module,
    args: Any,
    kwargs: Any,
) -> Any:
    """What the node computes in torch."""
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(model)
    if node.op == "call_module":
        return model.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)
