"""The graph of a network by torch.export, where its code depends on shapes.

Packed layers pass through torch.export as one opaque operator each, and come out as the modules
they are.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, library, nn
from torch.utils import _pytree as pytree

from tbn_bench.compiler import patterns
from tbn_bench.compiler.exported_layers import layer_of
from tbn_bench.compiler.geometry import positions
from tbn_bench.compiler.layer import is_packed
from tbn_bench.compiler.trace import TRACING
from tbn_bench.layers import packed

_TOLERANCE = 1e-4  # of the largest output


@library.custom_op("tbn_bench::packed_layer", mutates_args=())
def _packed_layer(
    x: Tensor,
    index: int,
    shape: list[int],
    conv: list[int],
) -> Tensor:
    raise RuntimeError("stands for a packed layer while a network is exported; it does not run")


@_packed_layer.register_fake
def _(
    x: Tensor,
    index: int,
    shape: list[int],
    conv: list[int],
) -> Tensor:
    if len(shape) == 2:
        return x.new_empty((*x.shape[:-1], shape[0]))
    axes = len(shape) - 2
    stride = conv[:axes]
    padding = conv[axes : 2 * axes]
    dilation = conv[2 * axes :]
    places = zip(
        x.shape[-axes:],
        shape[2:],
        stride,
        padding,
        dilation,
        strict=True,
    )
    sizes = [positions(*place) for place in places]
    batch = x.shape[: -axes - 1]
    return x.new_empty((*batch, shape[0], *sizes))


def by_export(model: nn.Module, image: Tensor) -> tuple[nn.Module, fx.Graph]:
    """torch.export: (modules and parameters, the graph over them) for batches of any size.

    image: (1, ...). Raises ValueError where a layer cannot pass, or where batches of one and of
    three do not give what the network gives. Raises what torch.export raises where the network's
    code depends on values.
    """
    layers = {name: m for name, m in model.named_modules() if is_packed(m)}
    _refuse_hooks(layers)
    exported = _exported(model, image)
    module = exported.module(check_guards=False)
    graph = module.graph
    for node in list(graph.nodes):
        _restore(node, module, layers)
    _restore_output(graph, exported.call_spec.out_spec)
    graph.set_codegen(fx.graph.CodeGen())
    graph.eliminate_dead_code()
    patterns.simplify(graph, module)
    module.recompile()
    _compare(
        model,
        module,
        image,
        list(layers.values()),
    )
    return module, graph


def _refuse_hooks(layers: dict[str, Any]) -> None:
    hooked = [name for name, m in layers.items() if m._forward_hooks or m._forward_pre_hooks]
    if hooked:
        raise ValueError(f"packed layers with hooks cannot be exported: {', '.join(hooked)}")


def _exported(model: nn.Module, image: Tensor) -> Any:
    """What torch.export makes of the network, without mutation."""
    example = torch.cat([image, image])
    batch = torch.export.Dim("batch")
    with TRACING, torch.no_grad():
        exported = torch.export.export(
            _opaque(model),
            args=(example,),
            dynamic_shapes=({0: batch},),
        )
        return exported.run_decompositions({})


def _opaque(model: nn.Module) -> nn.Module:
    """Another module tree over the same tensors, whose packed layers are the operator.

    The network itself may run in another thread meanwhile.
    """
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        memo[id(tensor)] = tensor
    shell = copy.deepcopy(model, memo)
    layers: list[Any] = [m for m in shell.modules() if is_packed(m)]
    for index, layer in enumerate(layers):
        layer.forward = _stand_in(index, list(layer.shape), _conv_arguments(layer))
    return shell


def _stand_in(index: int, shape: list[int], conv: list[int]) -> Callable[[Tensor], Any]:
    def forward(input: Tensor) -> Any:  # by torch's name: callers may give it by keyword
        return _packed_layer(
            input,
            index,
            shape,
            conv,
        )

    return forward


def _conv_arguments(layer: Any) -> list[int]:
    """Stride, padding and dilation in one list; empty for a linear layer.

    Raises ValueError for uneven padding.
    """
    if len(layer.shape) == 2:
        return []
    padding = packed.padding_of(layer)
    mode = getattr(layer, "padding_mode", "zeros")
    if padding is None or mode != "zeros":
        raise ValueError(
            f"padding {layer.padding!r} of a packed layer cannot be exported; give it as a number"
        )
    return [*layer.stride, *padding, *layer.dilation]


def _restore(node: fx.Node, module: Any, layers: dict[str, nn.Module]) -> None:
    """Operators become the modules that they stand for."""
    if node.target == torch.ops.tbn_bench.packed_layer.default:
        index: Any = node.args[1]
        name = list(layers)[index]
        _replace(
            module,
            node,
            name,
            layers[name],
        )
    elif node.target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
        # strides may be others than those of the example
        node.target = torch.ops.aten.reshape.default
    elif node.op == "call_function":
        layer = layer_of(node, module)
        if layer is not None:
            node = _first(node)
            _replace(
                module,
                node,
                f"{node.name}_layer",
                layer.eval().requires_grad_(False),
            )


def _restore_output(graph: fx.Graph, spec: Any) -> None:
    """The structure that the network returns, e.g. a dictionary."""
    node = next(n for n in graph.nodes if n.op == "output")
    leaves, _ = pytree.tree_flatten(node.args[0])
    node.args = (pytree.tree_unflatten(leaves, spec),)


def _replace(
    root: Any,
    node: fx.Node,
    name: str,
    layer: nn.Module,
) -> None:
    root.add_submodule(name, layer)
    with root.graph.inserting_before(node):
        call = root.graph.call_module(name, (node.args[0],))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    root.graph.erase_node(node)


def _first(node: fx.Node) -> fx.Node:
    """The node itself, or of a node with several results the one that is read.

    That one then takes the node's input.
    """
    if not isinstance(node.meta["val"], list | tuple):
        return node
    first = next(user for user in node.users if user.args[1] == 0)
    first.args = (node.args[0], 0)
    return first


def _compare(
    model: nn.Module,
    module: nn.Module,
    image: Tensor,
    layers: list[Any],
) -> None:
    """Raises ValueError unless both agree on one image and on three.

    torch.export assumes a batch of two or more, and keeps the way that the network takes then.
    """
    empty = [layer for layer in layers if layer.kept.value is None]
    generator = torch.Generator().manual_seed(0)
    try:
        for batch in (1, 3):
            x = torch.randn(batch, *image.shape[1:], generator=generator)
            with torch.no_grad():
                same = _agree(module(x), model(x))
            if not same:
                raise ValueError(f"its code does something else for a batch of {batch}")
    finally:
        for layer in empty:
            layer.kept.clear()


def _agree(found: Any, expected: Any) -> bool:
    """True where two structures of tensors hold the same numbers."""
    ours = pytree.tree_leaves(found)
    theirs = pytree.tree_leaves(expected)
    if len(ours) != len(theirs):
        return False
    return all(_alike(a, b) for a, b in zip(ours, theirs, strict=True))


def _alike(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return bool(a == b)
    if a.shape != b.shape:
        return False
    has_size = bool(b.numel()) and b.is_floating_point()
    largest = float(b.abs().max()) if has_size else 0.0
    close = torch.allclose(
        a.float(),
        b.float(),
        rtol=0,
        atol=_TOLERANCE * largest,
        equal_nan=True,
    )
    return bool(close)
