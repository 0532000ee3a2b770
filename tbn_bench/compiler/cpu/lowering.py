"""From a graph to regions of native ops and the torch nodes between them.

Layers are fused where they are read once: convolution or linear layer, batch normalisation,
residual sum and ReLU are one op, alpha being part of its scale.

Why does a node stay in torch? `reasons` says it. There are three causes, in this order:

1. No rule says what the node does: `operation_of` (rules/, names.py) raises Unsupported.
2. This back end cannot do it: a function of _OPS (the files beside this one) raises Unsupported.
3. It could run natively, but no layer beside it does: `_close`.
"""

import contextlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn

from tbn_bench import native
from tbn_bench.compiler import graph
from tbn_bench.compiler.cpu import elementwise, layers, pooling, shapes, tokens
from tbn_bench.compiler.cpu.examples import Examples
from tbn_bench.compiler.cpu.operands import Builder
from tbn_bench.compiler.cpu.region import Region
from tbn_bench.compiler.graph import NoRule, Operation, Unsupported
from tbn_bench.compiler.layer import is_packed
from tbn_bench.compiler.rules import operation_of

# operation -> the function that adds it to a region, and returns the value it makes
_OPS: dict[type[Operation], Callable[[Any, Builder], int]] = {
    graph.Same: elementwise.same,
    graph.Relu: elementwise.relu,
    graph.Elementwise: elementwise.elementwise,
    graph.Clamp: elementwise.clamp,
    graph.Add: elementwise.add,
    graph.BatchNorm: elementwise.batch_norm,
    graph.LayerNorm: elementwise.layer_norm,
    graph.Layer: layers.layer,
    graph.Pool: pooling.pool,
    graph.Mean: pooling.mean,
    graph.Maximum: pooling.maximum,
    graph.Flatten: shapes.flatten,
    graph.Reshape: shapes.reshape,
    graph.Transpose: shapes.transpose,
    graph.Select: shapes.select,
    graph.Subsample: shapes.subsample,
    graph.PadChannels: shapes.pad_channels,
    graph.PadMap: shapes.pad_map,
    graph.Attention: tokens.attention,
    graph.Patches: tokens.patches,
    graph.Tokens: tokens.tokens,
}


class Lowering:
    """Walks a graph once. `steps` are regions and torch nodes in order.

    root: the modules. traced: the graph over them. image: (1, ...), one input. reasons: torch
    node -> why it is no part of a region.
    """

    def __init__(
        self,
        root: nn.Module,
        traced: fx.Graph,
        image: Tensor,
        level: str,
    ):
        self.steps: list[Region | fx.Node] = []
        self.reasons: dict[fx.Node, str] = {}
        self.native_layers = 0
        self.output: Any = None
        self._root = root
        self._modules = dict(root.named_modules())
        self._level = level
        self._examples = Examples()
        self._region: Region | None = None
        for node in traced.nodes:
            self._visit(node, image)
        self._close()

    def _visit(self, node: fx.Node, image: Tensor) -> None:
        if node.op == "placeholder":
            self._examples.set_shape(node, lambda batch: (batch, *image.shape[1:]))
            return
        if node.op == "output":
            self.output = node.args[0]
            return
        try:
            operation = operation_of(node, self._modules)
            self._run_natively(node, operation)
        except Unsupported as error:
            self._leave_to_torch(node, error.reason)

    def _run_natively(self, node: fx.Node, operation: Operation) -> None:
        """Adds a node to the open region; to a new one where that fails. Raises Unsupported."""
        if self._region is not None:
            with contextlib.suppress(Unsupported):
                self._add(node, operation, self._region)
                return
            # the open region may be the obstacle, by a layout, say
            self._close()
        region = Region()
        self._add(node, operation, region)
        self._region = region

    def _add(self, node: fx.Node, operation: Operation, region: Region) -> None:
        """Adds a node to a region. Raises Unsupported, and leaves the region as it was."""
        mark = region.mark()
        try:
            value = self._add_ops(operation, region)
        except Unsupported:
            region.back_to(mark)
            raise
        region.of_node[node] = value
        region.nodes.append(node)
        made = region.values[value]
        factor = region.factor
        self._examples.set_shape(node, lambda batch: made.torch_shape(batch * factor))
        if isinstance(operation, graph.Layer):
            self.native_layers += 1

    def _add_ops(self, operation: Operation, region: Region) -> int:
        """Adds the ops of an operation. Returns the value that they make."""
        kind = type(operation)
        add = _OPS.get(kind)
        if add is None:
            raise NoRule(kind.__name__)
        build = Builder(region, self._examples, self._level)
        return add(operation, build)

    def _leave_to_torch(self, node: fx.Node, reason: str) -> None:
        self._close()
        self.reasons[node] = reason
        self.steps.append(node)
        if node.op == "call_module":
            module: Any = self._modules[str(node.target)]
            if is_packed(module):
                # in real tensors: what it derives from its bits outlives the examples
                module.materialize_()
        self._examples.run(node, self._root)

    def _close(self) -> None:
        """The open region becomes a step; without a layer its nodes go back to torch."""
        region = self._region
        self._region = None
        if region is None:
            return
        has_layer = any(op.kind == native.CONV for op in region.ops)
        if has_layer:
            self.steps.append(region)
            return
        for node in region.nodes:
            self.reasons[node] = "no layer beside it runs natively"
            self.steps.append(node)
