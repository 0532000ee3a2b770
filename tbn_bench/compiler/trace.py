"""The graph of a network: torch.fx where its code allows that, torch.export where it does not (control flow over shapes, timm's layers).

Both end in one form: modules that lowering.py knows are call_module nodes, everything else are functions that torch runs.
"""

import copy
import operator
import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, library, nn
from torch.ops import aten
from torch.utils import _pytree as pytree

from tbn_bench.compiler import patterns
from tbn_bench.layers import packed
from tbn_bench.layers.binary_input import BinaryInput

_OVERWRITING = {
    name: getattr(operator, name)
    for name in ("iadd", "isub", "imul", "itruediv", "iand", "ior", "ixor")
}


class _Proxy(fx.Proxy):
    """Records y += x as what it is; torch.fx by itself takes it for y = y + x."""


for _name, _function in _OVERWRITING.items():
    setattr(
        _Proxy,
        f"__{_name}__",
        lambda self, other, f=_function: self.tracer.create_proxy(
            "call_function", f, (self, other), {}
        ),
    )


_TRACING = (
    threading.Lock()
)  # torch.fx patches nn.Module itself, and takes its patches back in order


class Tracer(fx.Tracer):
    """Of the thread that made it: while torch.fx traces, the modules of all threads call its tracer."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, packed.Packed | BinaryInput) or super().is_leaf_module(
            module, name
        )

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def by_fx(model: nn.Module, image: Tensor) -> tuple[nn.Module, fx.Graph]:
    """torch.fx: (model, its graph); nothing runs. Raises what torch.fx raises, and ValueError where a value is written over that is not
    new and read there alone: regions copy what torch only views."""
    with _TRACING:
        graph = Tracer().trace(model)
    modules = dict(model.named_modules())
    harmless: set[fx.Node] = set()
    for node in graph.nodes:
        if _overwrites(node, modules):
            target = node.args[0] if node.args else None
            own = (
                isinstance(target, fx.Node)
                and len(target.users) == 1
                and (target in harmless or _fresh(target, modules))
            )
            if not own or "out" in node.kwargs:
                raise ValueError(f"{node.name} writes over a value that others may read")
            harmless.add(node)
    patterns.simplify(graph, model)
    return model, graph


def _overwrites(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return bool(getattr(modules[node.target], "inplace", False))
    if node.op == "call_method":
        return node.target.endswith("_") and not node.target.endswith("__")
    if node.op != "call_function":
        return False
    name = getattr(node.target, "__name__", "")
    named = name.endswith("_") and not name.endswith("__")
    flagged = (
        node.kwargs.get("inplace")
        or "out" in node.kwargs
        or (node.target is F.relu and any(node.args[1:]))
    )
    return bool(named or flagged or node.target in _OVERWRITING.values())


_FRESH = (
    packed.Packed, nn.Linear, nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.MaxPool2d, nn.AvgPool2d,
)  # fmt: skip


def _fresh(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether its result is memory of its own, not a view of something."""
    if node.op == "call_module":
        return isinstance(modules[node.target], _FRESH)
    return node.op == "call_function" and node.target in (
        operator.add,
        operator.sub,
        operator.mul,
        operator.matmul,
        torch.add,
        torch.cat,
    )


# -- torch.export: packed layers pass through it as one opaque operator each


@library.custom_op("tbn_bench::packed_layer", mutates_args=())
def _packed_layer(x: Tensor, index: int, shape: list[int], conv: list[int]) -> Tensor:
    raise RuntimeError("stands for a packed layer while a network is exported; it does not run")


@_packed_layer.register_fake
def _(x: Tensor, index: int, shape: list[int], conv: list[int]) -> Tensor:
    if len(shape) == 2:
        return x.new_empty((*x.shape[:-1], shape[0]))
    n = len(shape) - 2
    stride, padding, dilation = conv[:n], conv[n : 2 * n], conv[2 * n :]
    sizes = [
        (size + 2 * pad - d * (k - 1) - 1) // step + 1
        for size, k, step, pad, d in zip(
            x.shape[-n:], shape[2:], stride, padding, dilation, strict=True
        )
    ]
    return x.new_empty((*x.shape[:-n][:-1], shape[0], *sizes))


def _geometry(layer: Any) -> list[int]:
    """Stride, padding and dilation in one list; empty for a linear layer. Raises ValueError for uneven padding."""
    if len(layer.shape) == 2:
        return []
    padding = packed.padding_of(layer)
    if padding is None or getattr(layer, "padding_mode", "zeros") != "zeros":
        raise ValueError(
            f"padding {layer.padding!r} of a packed layer cannot be exported; give it as a number"
        )
    return [*layer.stride, *padding, *layer.dilation]


def _opaque(model: nn.Module) -> nn.Module:
    """Another module tree over the same tensors, whose packed layers are the operator.

    The network itself may run in another thread meanwhile.
    """
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        memo[id(tensor)] = tensor
    shell = copy.deepcopy(model, memo)
    layers = [m for m in shell.modules() if isinstance(m, packed.Packed)]
    arguments = [(index, list(layer.shape), _geometry(layer)) for index, layer in enumerate(layers)]
    for layer, given in zip(layers, arguments, strict=True):
        layer.forward = lambda input, given=given: _packed_layer(input, *given)
    return shell


def by_export(model: nn.Module, image: Tensor) -> tuple[nn.Module, fx.Graph]:
    """torch.export: (modules and parameters, the graph over them) for batches of any size. image: (1, ...).

    Raises ValueError where a layer cannot pass, or batches of one and of three do not give what the network gives, and what torch.export
    raises where the network's code depends on values.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, packed.Packed)}
    if hooked := [name for name, m in layers.items() if m._forward_hooks or m._forward_pre_hooks]:
        raise ValueError(f"packed layers with hooks cannot be exported: {', '.join(hooked)}")
    with _TRACING, torch.no_grad():
        example = image.repeat(2, *[1] * (image.dim() - 1))
        exported = torch.export.export(
            _opaque(model), (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
        exported = exported.run_decompositions({})  # without mutation, nothing else taken apart
        module = exported.module(check_guards=False)
    graph, names = module.graph, list(layers)
    for node in list(graph.nodes):
        if node.target == torch.ops.tbn_bench.packed_layer.default:
            name = names[node.args[1]]
            _replace(module, node, name, layers[name])
        elif node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default  # strides may be others than those of the example
        elif node.op == "call_function" and (make := _LAYERS.get(node.target)):
            layer = make(node, lambda n: _constant(module, n))
            if layer is not None:
                node = _first(node)
                _replace(module, node, f"{node.name}_layer", layer.eval().requires_grad_(False))
        elif node.op == "output":
            leaves, _ = pytree.tree_flatten(node.args[0])
            node.args = (pytree.tree_unflatten(leaves, exported.call_spec.out_spec),)
    graph.set_codegen(fx.graph.CodeGen())
    graph.eliminate_dead_code()
    patterns.simplify(graph, module)
    module.recompile()
    _compare(model, module, image, list(layers.values()))
    return module, graph


def _compare(
    model: nn.Module, module: nn.Module, image: Tensor, layers: list[packed.Packed]
) -> None:
    """torch.export takes a batch for two or more, and asks for no reason: both must agree on one image and on three. Raises ValueError."""
    empty = [layer for layer in layers if layer.kept.value is None]
    generator = torch.Generator().manual_seed(0)
    try:
        for batch in (1, 3):
            x = torch.randn(batch, *image.shape[1:], generator=generator)
            with torch.no_grad():
                got, wanted = (pytree.tree_leaves(call(x)) for call in (module, model))
            same = len(got) == len(wanted) and all(
                _alike(a, b) for a, b in zip(got, wanted, strict=True)
            )
            if not same:
                raise ValueError(f"its code does something else for a batch of {batch}")
    finally:
        for layer in empty:
            layer.kept.clear()


def _alike(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return bool(a == b)
    largest = float(b.abs().max()) if b.numel() and b.is_floating_point() else 0.0
    return a.shape == b.shape and torch.allclose(
        a.float(), b.float(), rtol=0, atol=1e-4 * largest, equal_nan=True
    )


def _replace(root: fx.GraphModule, node: fx.Node, name: str, layer: nn.Module) -> None:
    root.add_submodule(name, layer)
    with root.graph.inserting_before(node):
        call = root.graph.call_module(name, (node.args[0],))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    root.graph.erase_node(node)


def _first(node: fx.Node) -> fx.Node:
    """The node, or the only result that is read of one with several, which then takes its input."""
    if not isinstance(node.meta["val"], list | tuple):
        return node
    first = next(u for u in node.users if u.args[1] == 0)
    first.args = (node.args[0], 0)
    return first


def _constant(module: nn.Module, node: Any) -> Tensor | None:
    """The parameter or buffer that a node reads; None for None. Raises _More for what is computed."""
    if node is None:
        return None
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        raise _More
    value: Tensor = operator.attrgetter(node.target)(module)
    return value


# -- functions over parameters, as the modules that lowering.py knows

Constant = Callable[[Any], Tensor | None]


class _More(Exception):
    """The node is more than the module: its weight is computed, say."""


def _arguments(node: fx.Node, *defaults: Any) -> list[Any]:
    """Positional arguments, filled up. Raises _More for keywords."""
    if node.kwargs:
        raise _More
    return [*node.args, *defaults[len(node.args) :]]


def _with(layer: nn.Module, **tensors: Tensor | None) -> nn.Module:
    for name, tensor in tensors.items():
        if tensor is None:
            setattr(layer, name, None)
        elif name in layer._buffers:
            setattr(layer, name, tensor.detach())
        else:
            setattr(layer, name, nn.Parameter(tensor.detach(), requires_grad=False))
    return layer


def _linear(node: fx.Node, constant: Constant) -> nn.Module | None:
    _, weight, bias = (
        constant(a) if i else a for i, a in enumerate(_arguments(node, None, None, None))
    )
    return _with(
        nn.Linear(weight.shape[1], weight.shape[0], device="meta"), weight=weight, bias=bias
    )


def _conv(kind: type[nn.Module]) -> Callable[[fx.Node, Constant], nn.Module | None]:
    def make(node: fx.Node, constant: Constant) -> nn.Module | None:
        _, weight, bias, stride, padding, dilation, groups = _arguments(
            node, None, None, None, 1, 0, 1, 1
        )
        weight, bias = constant(weight), constant(bias)
        n = weight.dim() - 2
        stride, padding, dilation = (
            tuple(v) * n if len(v) == 1 else tuple(v)
            for v in map(_listed, (stride, padding, dilation))
        )
        layer = kind(
            weight.shape[1] * groups,
            weight.shape[0],
            tuple(weight.shape[2:]),
            stride,
            padding,
            dilation,
            groups,
            device="meta",
        )
        return _with(layer, weight=weight, bias=bias)

    return make


def _listed(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def _batch_norm(node: fx.Node, constant: Constant) -> nn.Module | None:
    """_native_batch_norm_legit_no_training, of whose three results inference reads the first."""
    _, weight, bias, mean, variance, _, eps = _arguments(node)
    mean = constant(mean)
    if mean is None or [u.args[1:] for u in node.users] != [(0,)]:
        return None
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}.get(
        node.args[0].meta["val"].dim()
    )
    if kind is None:
        return None
    layer = kind(len(mean), eps, device="meta")
    return _with(
        layer,
        weight=constant(weight),
        bias=constant(bias),
        running_mean=mean,
        running_var=constant(variance),
    )


def _layer_norm(node: fx.Node, constant: Constant) -> nn.Module | None:
    _, shape, weight, bias, eps, *_ = _arguments(node, None, None, None, None, 1e-5, True)
    return _with(
        nn.LayerNorm(tuple(shape), eps, device="meta"), weight=constant(weight), bias=constant(bias)
    )


def _max_pool(node: fx.Node, constant: Constant) -> nn.Module | None:
    _, kernel, stride, padding, dilation, ceil = _arguments(node, None, None, [], 0, 1, False)
    return nn.MaxPool2d(kernel, stride or kernel, padding, dilation, ceil_mode=ceil)


def _avg_pool(node: fx.Node, constant: Constant) -> nn.Module | None:
    _, kernel, stride, padding, ceil, include, divisor = _arguments(
        node, None, None, [], 0, False, True, None
    )
    return nn.AvgPool2d(kernel, stride or kernel, padding, ceil, include, divisor)


def _adaptive(node: fx.Node, constant: Constant) -> nn.Module | None:
    return nn.AdaptiveAvgPool2d(tuple(_arguments(node)[1]))


def _dropout(node: fx.Node, constant: Constant) -> nn.Module | None:
    return None if _arguments(node)[2] else nn.Identity()


def _known(
    make: Callable[[fx.Node, Constant], nn.Module | None],
) -> Callable[[fx.Node, Constant], nn.Module | None]:
    """None where the node is more than the module is."""

    def attempt(node: fx.Node, constant: Constant) -> nn.Module | None:
        try:
            return make(node, constant)
        except _More:
            return None

    return attempt


_LAYERS: dict[Any, Callable[[fx.Node, Constant], nn.Module | None]] = {
    target: _known(make)
    for target, make in {
        aten.linear.default: _linear, aten.conv1d.default: _conv(nn.Conv1d), aten.conv2d.default: _conv(nn.Conv2d),
        aten._native_batch_norm_legit_no_training.default: _batch_norm, aten.layer_norm.default: _layer_norm, aten.max_pool2d.default: _max_pool,
        aten.avg_pool2d.default: _avg_pool, aten.adaptive_avg_pool2d.default: _adaptive, aten.dropout.default: _dropout,
    }.items()
}  # fmt: skip

WAYS = (by_fx, by_export)
