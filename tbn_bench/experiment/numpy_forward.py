"""A network's forward pass in numpy: a second opinion on what torch and the native library compute.

The structure is torch.fx's graph of a full-precision model, which may be on the meta device: torch
multiplies and adds nothing. Every weight, bias and statistic is read from a packed file
(format/packed_file.py). Constant tables that a model computes when it is built, and that no file
holds, are the model's. The operations are those of numpy_ops.py.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx, nn

from tbn_bench.experiment import numpy_ops as ops
from tbn_bench.experiment.numpy_ops import Array, Unsupported
from tbn_bench.format.packed_file import Artifact, ArtifactError

_HOMES = ("", "torch", "_operator", "builtins")  # of the functions that a name in FUNCTIONS means

# Layers. read(name) is the layer's tensor of that name in the file; read.shifts is where the copies
# in its weight are moved to, one (dy, dx) or (dx,) each: () for a weight as it is.


@dataclass(frozen=True)
class Read:
    tensors: dict[str, Array]
    layer: str
    shifts: tuple[tuple[int, ...], ...] = ()

    def __call__(self, name: str) -> Array:
        full = f"{self.layer}.{name}"
        if full not in self.tensors:
            raise ArtifactError(
                f"the file does not belong to this network: it does not hold {full}"
            )
        return self.tensors[full]


Rule = Callable[[Any, Read, Array], Array]


def _padding(layer: Any) -> list[tuple[int, int]]:
    """(before, after) of each spatial axis of a convolution."""
    if layer.padding == "valid":
        return [(0, 0) for _ in layer.kernel_size]
    if layer.padding == "same":
        missing = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        return [(n // 2, n - n // 2) for n in missing]
    return [(n, n) for n in layer.padding]


def _convolution(layer: Any, read: Read, x: Array) -> Array:
    weight = read("weight")
    if read.shifts:
        y = _shifted_convolution(layer, weight, read.shifts, x)
    else:
        whole = ops.padded(x, _padding(layer), layer.padding_mode)
        y = ops.convolution(whole, weight, layer.stride, layer.dilation, layer.groups)
    return y if layer.bias is None else y + ops.per_channel(read("bias"), y)


def _shifted_convolution(layer: Any, weight: Array, shifts: Any, x: Array) -> Array:
    """Moves the input under each copy by its shift: neither kernel nor input grows."""
    copies = weight.reshape(len(shifts), -1, *weight.shape[1:])
    parts = []
    for copy, shift in zip(copies, shifts, strict=True):
        axes = zip(_padding(layer), shift, layer.dilation, strict=True)
        around = [(before - move * d, after + move * d) for (before, after), move, d in axes]
        met = ops.window(x, around)
        parts.append(ops.convolution(met, copy, layer.stride, layer.dilation, 1))
    return np.concatenate(parts, axis=1)


def _linear(layer: Any, read: Read, x: Array) -> Array:
    y = x @ read("weight").T
    return y if layer.bias is None else y + read("bias")


def _embedding(layer: Any, read: Read, x: Array) -> Array:
    if layer.max_norm is not None:
        raise Unsupported("Embedding with max_norm")
    rows: Array = read("weight")[x]
    return rows


def _batch_norm(layer: Any, read: Read, x: Array) -> Array:
    if layer.running_mean is None:
        raise Unsupported("batch norm without running statistics")
    scale = 1 / np.sqrt(read("running_var") + np.float32(layer.eps))
    scale = scale * read("weight") if layer.affine else scale
    shift = -read("running_mean") * scale
    shift = shift + read("bias") if layer.affine else shift
    return x * ops.per_channel(scale, x) + ops.per_channel(shift, x)


def _layer_norm(layer: Any, read: Read, x: Array) -> Array:
    y = ops.normalised(x, tuple(range(-len(layer.normalized_shape), 0)), layer.eps)
    y = y if layer.weight is None else y * read("weight")
    return y if layer.bias is None else y + read("bias")


def _prelu(layer: Any, read: Read, x: Array) -> Array:
    return np.where(x > 0, x, x * ops.per_channel(read("weight"), x))


def _max_pool(layer: Any, read: Read, x: Array) -> Array:
    window = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    return ops.max_pool(x, *window, layer.ceil_mode, layer.return_indices)


def _avg_pool(layer: Any, read: Read, x: Array) -> Array:
    window = (layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
    divisor = getattr(layer, "divisor_override", None)
    return ops.avg_pool(x, *window, layer.count_include_pad, divisor)


def _adaptive_pool(layer: Any, read: Read, x: Array) -> Array:
    return ops.adaptive_avg_pool(x, layer.output_size)


def _same(layer: Any, read: Read, x: Array) -> Array:
    return x


LAYERS: dict[type, Rule] = {
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.MaxPool1d: _max_pool,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool1d: _avg_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool1d: _adaptive_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.Identity: _same,
    nn.Dropout: _same,
    nn.Dropout1d: _same,
    nn.Dropout2d: _same,
    nn.PReLU: _prelu,
    nn.ReLU: lambda layer, read, x: ops.relu(x),
    nn.Hardtanh: lambda layer, read, x: ops.clamp(x, layer.min_val, layer.max_val),
    nn.GELU: lambda layer, read, x: ops.gelu(x, layer.approximate),
    nn.SiLU: lambda layer, read, x: ops.silu(x),
    nn.Sigmoid: lambda layer, read, x: ops.sigmoid(x),
    nn.Tanh: lambda layer, read, x: np.tanh(x),
    nn.Softmax: lambda layer, read, x: ops.softmax(x, layer.dim),
    nn.Flatten: lambda layer, read, x: ops.flatten(x, layer.start_dim, layer.end_dim),
    nn.ZeroPad2d: lambda layer, read, x: ops.pad(x, layer.padding),
}

# Functions of torch and methods of tensors, by name. A call with an argument that the function here
# does not take is Unsupported.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "adaptive_avg_pool1d": ops.adaptive_avg_pool,
    "adaptive_avg_pool2d": ops.adaptive_avg_pool,
    "adaptive_max_pool2d": ops.adaptive_max_pool,
    "add": operator.add,
    "amax": ops.largest,
    "avg_pool1d": ops.avg_pool,
    "avg_pool2d": ops.avg_pool,
    "bmm": operator.matmul,
    "cat": ops.cat,
    "clamp": ops.clamp,
    "contiguous": ops.contiguous,
    "dim": np.ndim,
    "div": operator.truediv,
    "dropout": ops.dropout,
    "exp": np.exp,
    "expand": ops.expand,
    "eye": ops.eye,
    "flatten": ops.flatten,
    "floordiv": operator.floordiv,
    "gelu": ops.gelu,
    "getattr": ops.attribute,
    "getitem": operator.getitem,
    "hardtanh": ops.clamp,
    "long": ops.long,
    "matmul": operator.matmul,
    "max_pool1d": ops.max_pool,
    "max_pool2d": ops.max_pool,
    "mean": ops.mean,
    "mul": operator.mul,
    "multiply": operator.mul,
    "neg": operator.neg,
    "pad": ops.pad,
    "permute": ops.permute,
    "pow": operator.pow,
    "relu": ops.relu,
    "reshape": ops.reshape,
    "roll": ops.roll,
    "scaled_dot_product_attention": ops.attention,
    "sigmoid": ops.sigmoid,
    "silu": ops.silu,
    "size": ops.size,
    "softmax": ops.softmax,
    "squeeze": ops.squeeze,
    "stack": ops.stack,
    "sub": operator.sub,
    "sum": ops.total,
    "tanh": np.tanh,
    "transpose": ops.transpose,
    "truediv": operator.truediv,
    "unbind": ops.unbind,
    "unflatten": ops.unflatten,
    "unfold": ops.unfold,
    "unsqueeze": ops.unsqueeze,
    "view": ops.reshape,
}


class _Tracer(fx.Tracer):
    """Layers with a binarized input are one node: their own code is torch's."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return hasattr(module, "input_binarizer") or super().is_leaf_module(module, name)


class NumpyForward:
    """Calls a network by numpy: x: (B, *in_shape) float32 -> what the model returns.

    model: of full precision, for its structure and its tables. Raises Unsupported, naming every
    operation that has no rule, and ArtifactError where the file is not of this network.
    """

    def __init__(self, model: nn.Module, content: Artifact):
        self.layers = dict(model.eval().named_modules())
        tables = _tables(model)
        self.known = {*tables, *content.tensors, *content.weights, *content.aliases}
        self.graph = _traced(model)
        missing = [what for node in self.graph.nodes if (what := self._missing(node))]
        if missing:
            raise Unsupported(", ".join(dict.fromkeys(missing)))
        _check_weights(model, content)
        self.tensors = tables | content.tensors | content.unmoved()
        self.tensors |= {name: self.tensors[shared] for name, shared in content.aliases.items()}
        _check_tensors(model, self.tensors)
        self.shifts = _shifts(self.layers, content)
        self.last_reader: dict[fx.Node, fx.Node] = {}
        for node in self.graph.nodes:
            self.last_reader |= dict.fromkeys(node.all_input_nodes, node)

    def _missing(self, node: fx.Node) -> str:
        """What of a node has no rule, or ''."""
        if node.op == "call_module":
            return self._missing_layer(node)
        if node.op == "get_attr" and node.target not in self.known:
            return f"the tensor {node.target}, which the file does not hold"
        if node.op == "call_method" and node.target not in FUNCTIONS:
            return f"the method {node.target}"
        if node.op == "call_function":
            home = (getattr(node.target, "__module__", None) or "").partition(".")[0]
            if home not in _HOMES or _word(node) not in FUNCTIONS:
                return f"the function {_word(node)}"
            if node.kwargs.get("inplace") and len(node.all_input_nodes[0].users) > 1:
                return f"{_word(node)} in place on a value that others read"
        return ""

    def _missing_layer(self, node: fx.Node) -> str:
        layer = self.layers[node.target]
        kind = type(layer)
        if (binarizer := getattr(layer, "input_binarizer", None)) is not None:
            return f"the input binarizer {type(binarizer).__name__}"
        if getattr(layer, "inplace", False) and len(node.all_input_nodes[0].users) > 1:
            return f"{kind.__name__} in place on a value that others read"
        return "" if kind in LAYERS else kind.__name__

    def __call__(self, x: Array) -> Any:
        values: dict[fx.Node, Any] = {}
        for node in self.graph.nodes:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            if node.op == "output":
                return args[0]
            values[node] = x if node.op == "placeholder" else self._value(node, args, kwargs)
            for source in node.all_input_nodes:
                if self.last_reader[source] is node:
                    del values[source]
        raise Unsupported("a graph without an output")

    def _value(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.op == "get_attr":
            return self.tensors[str(node.target)]
        if node.op == "call_module":
            layer = self.layers[str(node.target)]
            name = str(node.target)
            read = Read(self.tensors, name, self.shifts.get(f"{name}.weight", ()))
            return LAYERS[type(layer)](layer, read, *args)
        try:
            return FUNCTIONS[_word(node)](*args, **kwargs)
        except TypeError as error:
            raise Unsupported(f"{_word(node)} as {node.name} calls it ({error})") from error


def _traced(model: nn.Module) -> fx.Graph:
    try:
        return _Tracer().trace(model)
    except Exception as error:  # anybody's forward may raise anything
        why = " ".join(str(error).split())
        raise Unsupported(f"a forward that torch.fx cannot trace ({why})") from error


def _tables(model: nn.Module) -> dict[str, Array]:
    """Constants that are no state: positions, masks, indices. On the meta device there are none."""
    state = model.state_dict()
    own = [(n, b) for n, b in model.named_buffers() if n not in state and not b.is_meta]
    return {name: buffer.numpy() for name, buffer in own}


def _foreign(why: str) -> ArtifactError:
    return ArtifactError(f"the file does not belong to this network: {why}")


def _check_weights(model: nn.Module, content: Artifact) -> None:
    """Raises ArtifactError where the file's binary weights are not those of the model.

    Called before they are unpacked.
    """
    state = model.state_dict()
    for name, weight in content.weights.items():
        if name not in state:
            raise _foreign(f"it has a weight {name}, which the network lacks")
        own = tuple(state[name].shape)
        held = weight.form.shape
        if own != held:
            raise _foreign(f"{name} is {held} in the file and {own} in the network")


def _check_tensors(model: nn.Module, tensors: dict[str, Array]) -> None:
    """Raises ArtifactError for a missing parameter, another shape, or another kind of numbers."""
    for name, _ in model.named_parameters():
        if name not in tensors:
            raise _foreign(f"it does not hold {name}")
    for name, own in model.state_dict().items():
        held = tensors.get(name)
        if held is None:
            continue  # what only training needs
        is_float = np.issubdtype(held.dtype, np.floating)
        if held.shape != tuple(own.shape) or is_float != own.is_floating_point():
            raise _foreign(
                f"{name} is {held.dtype} {held.shape} in the file, "
                f"{own.dtype} {tuple(own.shape)} in the network"
            )


def _shifts(layers: dict[str, nn.Module], content: Artifact) -> dict[str, Any]:
    """Weight -> where its copies are moved to.

    Raises ArtifactError for a layer that cannot move them.
    """
    found = {}
    for name, weight in content.weights.items():
        copies = weight.form.copies
        if copies is None or copies.kind != "shifted":
            continue
        path, _, attribute = name.rpartition(".")
        layer = layers[path]
        moves = type(layer) in (nn.Conv1d, nn.Conv2d) and attribute == "weight"
        if not moves or layer.groups != 1 or layer.padding_mode != "zeros":
            raise _foreign(
                f"the copies of {name} are shifted, "
                "which needs a convolution of one group that pads with zeros"
            )
        found[name] = copies.shifts
    return found


def _word(node: fx.Node) -> str:
    """The name of what a node calls; torch's private twins have the public name behind a _."""
    if node.op == "call_method":
        return str(node.target)
    return str(getattr(node.target, "__name__", node.target)).removeprefix("_")
