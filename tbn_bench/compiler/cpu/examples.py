"""Shapes of all values of a network, without memory, for two batch sizes.

An axis that is k times as long as the batch for both sizes holds k images to one of the network.
"""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tbn_bench.compiler.graph import Unsupported

BATCHES = (13, 17)


class Examples:
    """Fake tensors of every node, by torch's own shape rules; made when something asks for them."""

    def __init__(self) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._shapes: dict[fx.Node, dict[int, tuple[int, ...]]] = {}
        self._values: dict[int, dict[fx.Node, Any]] = {}
        for batch in BATCHES:
            self._values[batch] = {}

    def of(self, node: fx.Node, batch: int = BATCHES[0]) -> Any:
        """The example of one batch size."""
        known = self._values[batch]
        if node not in known:
            with self._mode:
                known[node] = torch.empty(self._shapes[node][batch])
        return known[node]

    def set_shape(self, node: fx.Node, shape: Callable[[int], tuple[int, ...]]) -> None:
        """The node is a float32 tensor. shape: batch -> its shape."""
        self._shapes[node] = {batch: shape(batch) for batch in BATCHES}

    def run(self, node: fx.Node, model: nn.Module) -> None:
        """Calls what the node calls."""
        for batch, known in self._values.items():
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), partial(self.of, batch=batch))
            with self._mode, torch.no_grad():
                known[node] = call_node(node, model, args, kwargs)

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
        for batch in BATCHES:
            has_images = self.of(node, batch).shape == (batch * factor, *rest)
            if not factor or not has_images:
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
