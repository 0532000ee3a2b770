"""A network as a list of nodes that a microcontroller can run: traced, batch normalisation and ReLU folded, maps as (height, width, channels).

Known: Linear, Conv1d and Conv2d (plain, or depthwise), packed or in full precision; batch normalisation, ReLU, max and average pooling,
flatten, residual sums with their shortcuts, dropout. Anything else is refused by name.
"""

import math
import operator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import fx, nn

from tbn_bench.compiler.trace import Tracer
from tbn_bench.format import bits
from tbn_bench.layers import packed

Array = NDArray[Any]


class McuError(ValueError):
    """A network, or a number in it, that the C runtime cannot represent; says which layer and what to do."""


@dataclass(frozen=True)
class Window:
    """Where a kernel lies at each output pixel. shape: of the input map, (height, width, channels)."""

    shape: tuple[int, int, int]
    kernel: tuple[int, int]
    out: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    channels_first: bool = False  # the patch is (channels, kernel)

    @property
    def patch(self) -> int:
        return self.kernel[0] * self.kernel[1] * self.shape[2]


@dataclass
class Node:
    """y = relu(scale * (W x) + shift) at each pixel, or a pooling of x.

    kind: tiled | dense | depthwise | max | mean | affine | add | pad (channels of zeros). tile: (q,) of +-1, reused p times with alphas (k,), each covering N / k
    weights; dense: (rows, inputs of a row) in the patch's order, depthwise: (kernel positions, channels). scale, shift: (outputs,).
    inputs, output: values by index.
    """

    name: str
    kind: str
    inputs: tuple[int, ...]
    output: int
    rows: int = 0
    columns: int = 0
    window: Window | None = None
    tile: Array | None = None
    p: int = 1
    alphas: Array | None = None
    dense: Array | None = None
    scale: Array | None = None
    shift: Array | None = None
    relu: bool = False
    front: int = 0  # channels of zeros before the input's
    method: str = ""  # how the weights are stored, for the report

    @property
    def q(self) -> int:
        assert self.tile is not None
        return len(self.tile)

    @property
    def segment(self) -> int:
        """g: both a row and the tile are whole numbers of segments."""
        return math.gcd(self.columns, self.q)

    @property
    def per_input(self) -> int:
        return self.columns // self.segment

    @property
    def per_tile(self) -> int:
        return self.q // self.segment

    @property
    def has_weights(self) -> bool:
        return self.kind in ("tiled", "dense", "depthwise")


@dataclass
class Graph:
    """Nodes in order; shapes of the values, (height, width, channels); value 0 is the input."""

    nodes: list[Node] = field(default_factory=list)
    shapes: list[tuple[int, int, int]] = field(default_factory=list)
    output: int = 0

    def size(self, value: int) -> int:
        return math.prod(self.shapes[value])


def trace(model: nn.Module, in_shape: tuple[int, ...]) -> Graph:
    """model: in eval mode, packed (packed.pack_). in_shape: (C, H, W), (C, L) or (N,). Raises McuError for what C cannot run."""
    tracer = Tracer()
    try:
        traced = tracer.trace(model)
    except Exception as error:
        raise McuError(
            f"the network cannot be traced ({type(error).__name__}: {error}); export plain feed-forward networks"
        ) from error
    return _Walk(traced, dict(model.named_modules()), in_shape).graph


def _pair(value: Any) -> tuple[int, int]:
    return (
        (1, int(value))
        if isinstance(value, int)
        else (1, int(value[0]))
        if len(value) == 1
        else (int(value[0]), int(value[1]))
    )


def _square(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else _pair(value)


class _Walk:
    """Node by node from the traced graph to ours."""

    def __init__(self, traced: fx.Graph, modules: dict[str, nn.Module], in_shape: tuple[int, ...]):
        self.graph, self.modules = Graph(), modules
        self.value: dict[fx.Node, int] = {}
        self.flat: set[int] = set()  # values that torch sees as (channels * height * width,)
        for node in traced.nodes:
            if node.op == "placeholder":
                self._input(node, in_shape)
            elif node.op == "output":
                self.graph.output = self._of(node.args[0], node)
            else:
                self.value[node] = self._node(node)
        self._end()

    def _input(self, node: fx.Node, in_shape: tuple[int, ...]) -> None:
        if self.graph.shapes:
            if node.users:
                raise McuError(f"{node.name}: a second input; networks of one input are known")
            return
        c, h, w = {3: in_shape, 2: (in_shape[0], 1, in_shape[-1]), 1: (in_shape[0], 1, 1)}[
            len(in_shape)
        ]
        self.graph.shapes.append((h, w, c))
        self.value[node] = 0

    def _end(self) -> None:
        """Nodes that the output does not need are left out."""
        h, w, c = self.graph.shapes[self.graph.output]
        if self.graph.output in self.flat and h * w > 1 and c > 1:
            raise McuError(
                f"the network ends in a flattened map of {h} x {w} x {c}, whose order differs in C; end it in a layer"
            )
        needed, kept = {self.graph.output}, list[Node]()
        for node in reversed(self.graph.nodes):
            if node.output in needed:
                needed |= set(node.inputs)
                kept.append(node)
        self.graph.nodes = kept[::-1]
        if not kept:
            raise McuError("the network has no layer")

    def _readers(self, value: int) -> set[fx.Node]:
        """Who reads a value, under whatever name torch has for it."""
        names = {node for node, found in self.value.items() if found == value}
        return {user for node in names for user in node.users} - names

    def _of(self, arg: Any, node: fx.Node) -> int:
        if not isinstance(arg, fx.Node) or arg not in self.value:
            raise McuError(f"{node.name}: its input is no map of the network ({arg!r})")
        return self.value[arg]

    def _refuse(self, node: fx.Node, what: str) -> McuError:
        known = "Linear, Conv1d, Conv2d, batch normalisation, ReLU, max and average pooling, flatten, sums of two maps, steps over pixels, channels of zeros, dropout"
        return McuError(
            f"{node.name}: {what} cannot run on a microcontroller yet; known are {known}"
        )

    def _node(self, node: fx.Node) -> int:
        if not node.args:
            raise McuError(f"{node.name}: its input is given by keyword; give it by position")
        if node.op == "call_module":
            return self._module(node, self.modules[node.target], self._of(node.args[0], node))
        if node.op == "get_attr":
            raise self._refuse(node, "a constant")
        target = (
            node.target
            if isinstance(node.target, str)
            else _FUNCTIONS.get(node.target, str(node.target))
        )
        unknown = set(node.kwargs) - _KEYWORDS.get(target, set())
        if unknown:
            raise self._refuse(node, f"{target}({', '.join(sorted(unknown))}=...)")
        if (
            target in ("add", "iadd")
            and len(node.args) == 2
            and all(isinstance(a, fx.Node) for a in node.args)
        ):
            return self._add(node, target == "iadd")
        if target == "relu":
            return self._relu(self._of(node.args[0], node), node, bool(node.kwargs.get("inplace")))
        if target == "flatten":
            given = [*node.args[1:], *[None] * 2]
            start = node.kwargs.get("start_dim", 0 if given[0] is None else given[0])
            end = node.kwargs.get("end_dim", -1 if given[1] is None else given[1])
            return self._flatten(node, self._of(node.args[0], node), start, end)
        if target == "mean" and self._axes(node) in ({2, 3}, {-1, -2}):
            return self._pool(node, "mean", self._of(node.args[0], node), None)
        if target == "getitem":
            return self._steps(node)
        if target == "pad":
            return self._pad_channels(node)
        if target in ("dropout", "contiguous"):
            return self._of(node.args[0], node)
        raise self._refuse(node, target)

    @staticmethod
    def _axes(node: fx.Node) -> set[int]:
        axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", ())
        return set(axes) if isinstance(axes, list | tuple) else {axes}

    def _module(self, node: fx.Node, module: nn.Module, x: int) -> int:
        if getattr(module, "input_binarizer", None) is not None:
            raise McuError(
                f"{node.target}: binary activations cannot run on a microcontroller yet; export a method of binary weights alone"
            )
        if isinstance(module, nn.Identity | nn.Dropout | nn.Dropout2d):
            return x
        if isinstance(module, nn.ReLU):
            return self._relu(x, node, module.inplace)
        if isinstance(module, nn.Flatten):
            return self._flatten(node, x, module.start_dim, module.end_dim)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            return self._batch_norm(module, x, node)
        if isinstance(module, nn.MaxPool2d | nn.MaxPool1d):
            return self._pool(node, "max", x, module)
        if isinstance(module, nn.AvgPool2d):
            return self._pool(node, "mean", x, module)
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
            return self._pool(node, "mean", x, None)
        kinds = (
            packed.PackedLinear
            | packed.PackedConv1d
            | packed.PackedConv2d
            | nn.Linear
            | nn.Conv1d
            | nn.Conv2d
        )
        if isinstance(module, kinds):
            return self._layer(str(node.target), module, x, node)
        raise self._refuse(node, type(module).__name__)

    # -- layers

    def _layer(self, name: str, module: Any, x: int, node: fx.Node) -> int:
        shape = tuple(module.shape if isinstance(module, packed._Packed) else module.weight.shape)
        groups = getattr(module, "groups", 1)
        window = (
            self._linear_window(name, shape, x)
            if len(shape) == 2
            else self._conv_window(name, module, shape, groups, x)
        )
        if groups > 1 and (groups != shape[0] or shape[1] != 1):
            raise McuError(
                f"{name}: {groups} groups; only plain (1) and depthwise (one per channel) convolutions are known"
            )
        out = self._new(name, (*(window.out if window else (1, 1)), shape[0]))
        made = _weights(name, module, shape, groups, window)
        made.inputs, made.output = (x,), out
        bias = getattr(module, "bias", None)
        made.scale = np.ones(shape[0])
        made.shift = np.zeros(shape[0]) if bias is None else bias.detach().double().cpu().numpy()
        self.graph.nodes.append(made)
        return out

    def _linear_window(self, name: str, shape: tuple[int, ...], x: int) -> Window | None:
        """A linear layer on a flattened map is a convolution by a kernel of the map's size."""
        h, w, c = self.graph.shapes[x]
        if x in self.flat and (h, w) != (1, 1) and shape[1] == h * w * c:
            return None if c == 1 else Window((h, w, c), (h, w), (1, 1))
        if shape[1] != c or (h, w) != (1, 1):
            raise McuError(
                f"{name}: a linear layer of {shape[1]} inputs on a map of {h} x {w} x {c}; flatten it first"
            )
        return None

    def _conv_window(
        self, name: str, module: Any, shape: tuple[int, ...], groups: int, x: int
    ) -> Window:
        if getattr(module, "padding_mode", "zeros") != "zeros" or isinstance(module.padding, str):
            raise McuError(
                f"{name}: padding must be zeros and given as numbers, got {module.padding_mode}, {module.padding!r}"
            )
        h, w, c = self.graph.shapes[x]
        if c != shape[1] * groups:
            raise McuError(f"{name}: {shape[1] * groups} input channels on a map of {c}")
        pair = _pair if len(shape) == 3 else _square
        stride, dilation = pair(module.stride), pair(module.dilation)
        padding = (0, int(module.padding[0])) if len(shape) == 3 else _square(module.padding)
        return self._window((h, w, c), _pair(shape[2:]), stride, padding, dilation)

    @staticmethod
    def _window(
        shape: tuple[int, int, int],
        kernel: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        ceil: bool = False,
    ) -> Window:
        out = []
        for n, k, s, pad, d in zip(shape[:2], kernel, stride, padding, dilation, strict=True):
            rest = n + 2 * pad - d * (k - 1) - 1
            steps = (-(-rest // s) if ceil else rest // s) + 1
            out.append(
                steps - (ceil and (steps - 1) * s >= n + pad)
            )  # torch: no window begins behind the map
        h, w = out
        return Window(shape, kernel, (h, w), stride, padding, dilation)

    def _pool(self, node: fx.Node, kind: str, x: int, module: Any) -> int:
        h, w, c = self.graph.shapes[x]
        if module is None:
            window = Window((h, w, c), (h, w), (1, 1))
        else:
            pair = _pair if isinstance(module, nn.MaxPool1d) else _square
            kernel, stride = pair(module.kernel_size), pair(module.stride)
            padding = (
                (0, _pair(module.padding)[1])
                if isinstance(module, nn.MaxPool1d)
                else _square(module.padding)
            )
            dilation = pair(getattr(module, "dilation", 1))
            if kind == "mean" and (
                module.ceil_mode or padding != (0, 0) or module.divisor_override
            ):
                raise McuError(
                    f"{node.name}: average pooling with padding, ceil_mode or divisor_override is not known"
                )
            window = self._window((h, w, c), kernel, stride, padding, dilation, module.ceil_mode)
        if window.patch == c:  # one pixel: nothing to do but take steps
            kind = "max"
        out = self._new(node.name, (*window.out, c))
        self.graph.nodes.append(Node(node.name, kind, (x,), out, c, window.patch, window))
        return out

    def _steps(self, node: fx.Node) -> int:
        """x[:, :, ::s, ::t]: a pooling of single pixels."""
        x, where = self._of(node.args[0], node), node.args[1]
        whole = slice(None)
        if not isinstance(where, tuple) or len(where) != 4 or where[:2] != (whole, whole):
            raise self._refuse(node, f"indexing by {where!r}")
        steps = [
            w.step or 1 if isinstance(w, slice) and w.start is None and w.stop is None else 0
            for w in where[2:]
        ]
        if not all(isinstance(s, int) and s > 0 for s in steps):
            raise self._refuse(node, f"indexing by {where!r}")
        h, w, c = self.graph.shapes[x]
        window = Window(
            (h, w, c), (1, 1), (-(-h // steps[0]), -(-w // steps[1])), (steps[0], steps[1])
        )
        out = self._new(node.name, (*window.out, c))
        self.graph.nodes.append(Node(node.name, "max", (x,), out, c, c, window))
        return out

    def _pad_channels(self, node: fx.Node) -> int:
        """F.pad that adds channels of zeros."""
        x, amounts = self._of(node.args[0], node), node.args[1] if len(node.args) == 2 else ()
        zeros = node.kwargs.get("mode", "constant") == "constant" and not node.kwargs.get("value")
        if (
            not zeros
            or not isinstance(amounts, tuple | list)
            or len(amounts) != 6
            or any(amounts[:4])
            or min(amounts) < 0
        ):
            raise self._refuse(node, f"padding by {amounts!r}")
        h, w, c = self.graph.shapes[x]
        out = self._new(node.name, (h, w, c + amounts[4] + amounts[5]))
        made = Node(
            node.name,
            "pad",
            (x,),
            out,
            c + amounts[4] + amounts[5],
            c,
            Window((h, w, c), (1, 1), (h, w)),
        )
        made.front = amounts[4]
        self.graph.nodes.append(made)
        return out

    def _flatten(self, node: fx.Node, x: int, start: int, end: int) -> int:
        if (start, end) != (1, -1):
            raise self._refuse(node, f"flatten of axes {start} to {end}")
        self.flat.add(x)
        return x

    def _add(self, node: fx.Node, in_place: bool) -> int:
        a, b = (self._of(v, node) for v in node.args)
        if in_place:
            self._check_in_place(a, node)
        if self.graph.shapes[a] != self.graph.shapes[b]:
            raise McuError(
                f"{node.name}: a sum of maps {self.graph.shapes[a]} and {self.graph.shapes[b]}; shapes must agree"
            )
        out = self._new(node.name, self.graph.shapes[a])
        self.graph.nodes.append(Node(node.name, "add", (a, b), out, self.graph.size(a)))
        if a in self.flat:
            self.flat.add(out)
        return out

    def _check_in_place(self, x: int, node: fx.Node) -> None:
        """What is changed in place must have no other reader: torch would show it the changed values."""
        if self._readers(x) != {node}:
            raise McuError(
                f"{node.name}: changes in place what other layers read too; use an operation that is not in place"
            )

    def _new(self, name: str, shape: tuple[int, int, int]) -> int:
        if min(shape) < 1:
            raise McuError(f"{name}: nothing is left of the map: {shape}")
        self.graph.shapes.append(shape)
        return len(self.graph.shapes) - 1

    # -- folding

    def _maker(self, value: int, node: fx.Node) -> Node | None:
        """The node whose result `value` is, where `node` alone reads it."""
        if self._readers(value) != {node}:
            return None
        return next((n for n in self.graph.nodes if n.output == value), None)

    def _before_max(self, made: Node | None) -> Node | None:
        """The layer before a max pooling, if nothing else reads it: what is monotone may be done before or after the pooling."""
        if made is None or made.kind != "max" or len(self._readers(made.inputs[0])) != 1:
            return made
        return next((n for n in self.graph.nodes if n.output == made.inputs[0]), made)

    def _relu(self, x: int, node: fx.Node, in_place: bool) -> int:
        if in_place:
            self._check_in_place(x, node)
        made = self._maker(x, node)
        target = self._before_max(made)
        if target is not None and target.kind in ("tiled", "dense", "depthwise", "affine", "add"):
            target.relu = True
            return x
        return self._affine(
            node, x, np.ones(self.graph.shapes[x][2]), np.zeros(self.graph.shapes[x][2]), True
        )

    def _batch_norm(self, module: Any, x: int, node: fx.Node) -> int:
        if module.running_mean is None:
            raise McuError(f"{node.target}: batch normalisation without running statistics")
        scale = 1.0 / np.sqrt(module.running_var.double().cpu().numpy() + module.eps)
        scale = scale * (
            1.0 if module.weight is None else module.weight.detach().double().cpu().numpy()
        )
        shift = -module.running_mean.double().cpu().numpy() * scale
        shift = shift + (
            0.0 if module.bias is None else module.bias.detach().double().cpu().numpy()
        )
        if len(scale) != self.graph.shapes[x][2]:
            h, w, c = self.graph.shapes[x]
            raise McuError(
                f"{node.target}: batch normalisation of {len(scale)} values on a map of {h} x {w} x {c}; put it before flattening"
            )
        made = self._maker(x, node)
        target = self._before_max(made) if (scale > 0).all() else made
        if (
            target is not None
            and (target.has_weights or target.kind == "affine")
            and not target.relu
        ):
            target.scale, target.shift = target.scale * scale, target.shift * scale + shift
            return x
        return self._affine(node, x, scale, shift, False)

    def _affine(self, node: fx.Node, x: int, scale: Array, shift: Array, relu: bool) -> int:
        h, w, c = self.graph.shapes[x]
        out = self._new(node.name, (h, w, c))
        window = Window((h, w, c), (1, 1), (h, w))
        self.graph.nodes.append(
            Node(node.name, "affine", (x,), out, c, c, window, scale=scale, shift=shift, relu=relu)
        )
        if x in self.flat:
            self.flat.add(out)
        return out


_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu", torch.relu: "relu", operator.add: "add", operator.iadd: "iadd", torch.add: "add", torch.flatten: "flatten",
    torch.mean: "mean",
    F.pad: "pad",
    operator.getitem: "getitem", F.dropout: "dropout",
}  # fmt: skip


_KEYWORDS = {"relu": {"inplace"}, "flatten": {"start_dim", "end_dim"}, "mean": {"dim", "keepdim"}, "pad": {"mode", "value"},
             "dropout": {"p", "training", "inplace"}}  # fmt: skip


def _weights(
    name: str, module: Any, shape: tuple[int, ...], groups: int, window: Window | None
) -> Node:
    """A node with the weights in the order of its patch."""
    rows, columns = shape[0], math.prod(shape[1:])
    kernel = (window.kernel if window else (1, 1)) if len(shape) > 1 else (1, 1)
    channels = columns // math.prod(kernel)
    node = Node(name, "dense", (), 0, rows, columns, window)
    if isinstance(module, packed._Packed) and module.form.plain and groups == 1:
        form, tensors = module.form, module.tensors()
        node.kind, node.p, node.tile = "tiled", form.p, bits.unpack(tensors["tile"], form.q)
        node.alphas = tensors["alphas"].astype(np.float64) if form.scales else np.ones(1)
        node.method = "1 bit" if form.p == 1 else f"tile of {form.q:,} bits, p = {form.p}"
        if form.numel // len(node.alphas) % node.segment:
            raise McuError(f"{name}: scales that change inside a segment of {node.segment} weights")
        if channels > 1 and math.prod(kernel) > 1 and window is not None:
            if node.segment == columns:  # the tile holds whole rows: their columns may be sorted
                node.tile = _last(node.tile, channels, kernel)
            else:
                node.window = replace(window, channels_first=True)
        return node
    if isinstance(module, packed._Packed):
        weight, node.method = (
            module.form.dense(module.tensors()).astype(np.float64),
            "expanded to numbers: no bit kernel for this form",
        )
    else:
        weight, node.method = module.weight.detach().double().cpu().numpy(), "full precision"
    if groups > 1:
        node.kind, node.columns = "depthwise", rows * columns
        node.dense = weight.reshape(rows, -1).T
    else:
        node.dense = (
            _last(weight, channels, kernel).reshape(rows, columns)
            if window is not None
            else weight.reshape(rows, columns)
        )
    return node


def _last(rows: Array, channels: int, kernel: tuple[int, int]) -> Array:
    """(..., channels, kernel) -> (..., kernel, channels), flat."""
    return rows.reshape(-1, channels, *kernel).transpose(0, 2, 3, 1).reshape(-1)
