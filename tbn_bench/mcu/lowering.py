"""The microcontroller back end: from a traced network to the graph of a C program.

Batch normalisation and ReLU are folded into the layers. Whatever C cannot run is refused by name,
with the reason.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from tbn_bench.compiler import patterns
from tbn_bench.compiler.export import by_export
from tbn_bench.compiler.graph import (
    Add,
    BatchNorm,
    Clamp,
    Elementwise,
    Flatten,
    Layer,
    Mean,
    NoRule,
    Operation,
    PadChannels,
    Pool,
    Relu,
    Reshape,
    Same,
    Scale,
    Subsample,
    Unsupported,
)
from tbn_bench.compiler.names import call_of, node_name
from tbn_bench.compiler.rules import operation_of
from tbn_bench.compiler.rules.activations import ACTIVATIONS
from tbn_bench.compiler.trace import symbolic
from tbn_bench.mcu import lower_layers, lower_maps
from tbn_bench.mcu.builder import Builder
from tbn_bench.mcu.graph import Graph, McuError

_KNOWN = (
    "known are Linear, Conv1d, Conv2d, batch normalisation, ReLU, "
    f"{', '.join(activation.name for activation in ACTIVATIONS)}, clamps, max and average pooling, "
    "flatten, sums of two maps, products with positive numbers, steps over pixels, channels of "
    "zeros, dropout"
)

# operation -> the function that adds its nodes, and returns the value they make
_NODES: dict[type[Operation], Callable[[Any, fx.Node, Builder], int]] = {
    Same: lower_maps.same,
    Relu: lower_maps.relu,
    Clamp: lower_maps.clamp,
    Elementwise: lower_maps.elementwise,
    BatchNorm: lower_maps.batch_norm,
    Add: lower_maps.add,
    Scale: lower_maps.scale,
    Flatten: lower_maps.flatten,
    Reshape: lower_maps.reshape,
    Mean: lower_maps.mean,
    Pool: lower_maps.pool,
    Subsample: lower_maps.subsample,
    PadChannels: lower_maps.pad_channels,
    Layer: lower_layers.layer,
}


def lower(model: nn.Module, in_shape: tuple[int, ...]) -> Graph:
    """The graph of a network.

    model: in eval mode, packed (convert.pack_). in_shape: (C, H, W), (C, L) or (N,).

    Raises McuError for what C cannot run.
    """
    root, traced = _traced(model, in_shape)
    modules = dict(root.named_modules())
    build = Builder()
    for node in traced.nodes:
        try:
            _visit(node, modules, in_shape, build)
        except Unsupported as error:
            raise McuError(f"{node_name(node)}: {_sentence(error)}") from error
    _end(build)
    return build.graph


def _traced(model: nn.Module, in_shape: tuple[int, ...]) -> tuple[nn.Module, fx.Graph]:
    """By torch.fx; by torch.export where the network's code depends on shapes. Raises McuError.

    Values that are overwritten need no check here, unlike in native regions: each operation in
    place has a rule that checks its readers (Builder.check_in_place), or has no rule.
    """
    try:
        traced = symbolic(model)
    except Exception as error:  # noqa: BLE001 - anybody's forward may raise anything
        return _exported(model, in_shape, _first_line(error))
    patterns.simplify(traced, model)
    return model, traced


def _exported(
    model: nn.Module, in_shape: tuple[int, ...], fx_reason: str
) -> tuple[nn.Module, fx.Graph]:
    try:
        return by_export(model, torch.zeros(1, *in_shape))
    except Exception as error:
        raise McuError(
            f"the network cannot be traced (torch.fx: {fx_reason}; torch.export: "
            f"{_first_line(error)}); export plain feed-forward networks"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _visit(
    node: fx.Node, modules: dict[str, nn.Module], in_shape: tuple[int, ...], build: Builder
) -> None:
    if node.op == "placeholder":
        _add_input(node, in_shape, build)
    elif node.op == "output":
        build.graph.output = build.operand(node.args[0])
    elif not _is_size(node):
        operation = operation_of(node, modules)
        add = _NODES.get(type(operation))
        if add is None:
            raise NoRule(call_of(node, modules).name)
        build.values[node] = add(operation, node, build)


def _is_size(node: fx.Node) -> bool:
    """True for a number that torch.export reads from a shape: the batch, say."""
    return isinstance(node.meta.get("val"), int | torch.SymInt)


def _add_input(node: fx.Node, in_shape: tuple[int, ...], build: Builder) -> None:
    if build.graph.shapes:
        if node.users:
            raise Unsupported("a second input; networks of one input are known")
        return
    channels, *size = in_shape
    height, width = [1] * (2 - len(size)) + size
    build.values[node] = build.new((height, width, channels))


def _sentence(error: Unsupported) -> str:
    """What is wrong, and what to do."""
    if isinstance(error, NoRule):
        return f"{error.what} cannot run on a microcontroller yet; {error.hint or _KNOWN}"
    return error.reason


def _end(build: Builder) -> None:
    """Leaves out the nodes that the output does not need. Raises McuError."""
    graph = build.graph
    height, width, channels = graph.shapes[graph.output]
    if graph.output in build.flat and height * width > 1 and channels > 1:
        raise McuError(
            f"the network ends in a flattened map of {height} x {width} x {channels}, whose order "
            "differs in C; end it in a layer"
        )
    needed = {graph.output}
    kept = []
    for node in reversed(graph.nodes):
        if node.output in needed:
            needed |= set(node.inputs)
            kept.append(node)
    graph.nodes = kept[::-1]
    if not kept:
        raise McuError("the network has no layer")
