"""A network as a list of nodes that a microcontroller can run.

The network is traced. Batch normalisation and ReLU are folded into the layers. Maps are (height,
width, channels).

Known: Linear, Conv1d and Conv2d (plain, or depthwise), packed or in full precision; batch
normalisation, ReLU, max and average pooling, flatten, residual sums with their shortcuts, dropout.
Anything else is refused by name.
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
    """The C runtime cannot represent the network, or a number in it.

    The message says which layer it is and what to do.
    """


@dataclass(frozen=True)
class Window:
    """The position of a kernel at each output pixel.

    shape: (height, width, channels) of the input map.
    """

    shape: tuple[int, int, int]
    kernel: tuple[int, int]
    out: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    channels_first: bool = False  # the patch is (channels, kernel)

    @property
    def patch(self) -> int:
        """Inputs under the kernel."""
        height, width = self.kernel
        return height * width * self.shape[2]


@dataclass
class Node:
    """y = relu(scale * (W x) + shift) at each pixel, or a pooling of x.

    kind: tiled | dense | depthwise | max | mean | affine | add | pad (channels of zeros).
    inputs, output: values by index. tile: (q,) of +-1, reused p times with alphas (k,), each for
    N / k weights. dense: (rows, inputs of a row) in the patch's order; for depthwise layers (kernel
    positions, channels). scale, shift: (outputs,).
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
    """model: in eval mode, packed (convert.pack_). in_shape: (C, H, W), (C, L) or (N,).

    Raises McuError for what C cannot run.
    """
    tracer = Tracer()
    try:
        traced = tracer.trace(model)
    except Exception as error:
        raise McuError(
            f"the network cannot be traced ({type(error).__name__}: {error}); "
            "export plain feed-forward networks"
        ) from error
    modules = dict(model.named_modules())
    return _Walk(traced, modules, in_shape).graph


def _pair(value: Any) -> tuple[int, int]:
    """A size of one axis is that of the width: n -> (1, n)."""
    if isinstance(value, int):
        return 1, int(value)
    if len(value) == 1:
        return 1, int(value[0])
    return int(value[0]), int(value[1])


def _square(value: Any) -> tuple[int, int]:
    """n -> (n, n)."""
    if isinstance(value, int):
        return int(value), int(value)
    return _pair(value)


def _array(tensor: torch.Tensor) -> Array:
    """In float64."""
    found: Array = tensor.detach().double().cpu().numpy()
    return found


class _Walk:
    """Converts a traced graph node by node."""

    def __init__(self, traced: fx.Graph, modules: dict[str, nn.Module], in_shape: tuple[int, ...]):
        self.graph = Graph()
        self.modules = modules
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
        channels, *size = in_shape
        height, width = [1] * (2 - len(size)) + size
        self.graph.shapes.append((height, width, channels))
        self.value[node] = 0

    def _end(self) -> None:
        """Leaves out the nodes that the output does not need."""
        output = self.graph.output
        h, w, c = self.graph.shapes[output]
        if output in self.flat and h * w > 1 and c > 1:
            raise McuError(
                f"the network ends in a flattened map of {h} x {w} x {c}, whose order differs in "
                "C; end it in a layer"
            )
        needed = {output}
        kept: list[Node] = []
        for node in reversed(self.graph.nodes):
            if node.output in needed:
                needed |= set(node.inputs)
                kept.append(node)
        self.graph.nodes = kept[::-1]
        if not kept:
            raise McuError("the network has no layer")

    def _readers(self, value: int) -> set[fx.Node]:
        """The nodes that read a value, by any of its names in torch."""
        names = {node for node, found in self.value.items() if found == value}
        readers: set[fx.Node] = set()
        for node in names:
            readers |= set(node.users)
        return readers - names

    def _of(self, arg: Any, node: fx.Node) -> int:
        if not isinstance(arg, fx.Node) or arg not in self.value:
            raise McuError(f"{node.name}: its input is no map of the network ({arg!r})")
        return self.value[arg]

    def _refuse(self, node: fx.Node, what: str) -> McuError:
        known = (
            "Linear, Conv1d, Conv2d, batch normalisation, ReLU, max and average pooling, flatten, "
            "sums of two maps, steps over pixels, channels of zeros, dropout"
        )
        return McuError(
            f"{node.name}: {what} cannot run on a microcontroller yet; known are {known}"
        )

    def _node(self, node: fx.Node) -> int:
        if not node.args:
            raise McuError(f"{node.name}: its input is given by keyword; give it by position")
        if node.op == "call_module":
            x = self._of(node.args[0], node)
            return self._module(node, self.modules[node.target], x)
        if node.op == "get_attr":
            raise self._refuse(node, "a constant")
        return self._function(node)

    def _function(self, node: fx.Node) -> int:
        target = node.target
        if not isinstance(target, str):
            target = _FUNCTIONS.get(target, str(target))
        unknown = set(node.kwargs) - _KEYWORDS.get(target, set())
        if unknown:
            raise self._refuse(node, f"{target}({', '.join(sorted(unknown))}=...)")
        if target in ("add", "iadd") and self._is_sum_of_two(node):
            return self._add(node, target == "iadd")
        if target == "getitem":
            return self._steps(node)
        if target == "pad":
            return self._pad_channels(node)
        if target == "relu":
            x = self._of(node.args[0], node)
            return self._relu(x, node, bool(node.kwargs.get("inplace")))
        if target == "flatten":
            x = self._of(node.args[0], node)
            return self._flatten(node, x, *self._flattened_axes(node))
        if target == "mean" and self._axes(node) in ({2, 3}, {-1, -2}):
            return self._pool(node, "mean", self._of(node.args[0], node), None)
        if target in ("dropout", "contiguous"):
            return self._of(node.args[0], node)
        raise self._refuse(node, target)

    @staticmethod
    def _is_sum_of_two(node: fx.Node) -> bool:
        are_nodes = [isinstance(arg, fx.Node) for arg in node.args]
        return are_nodes == [True, True]

    @staticmethod
    def _flattened_axes(node: fx.Node) -> tuple[Any, Any]:
        """(first, last) of a call of flatten."""
        first, last, *_ = [*node.args[1:], None, None]
        start = node.kwargs.get("start_dim", 0 if first is None else first)
        end = node.kwargs.get("end_dim", -1 if last is None else last)
        return start, end

    @staticmethod
    def _axes(node: fx.Node) -> set[int]:
        axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", ())
        if isinstance(axes, list | tuple):
            return set(axes)
        return {axes}

    def _module(self, node: fx.Node, module: nn.Module, x: int) -> int:
        if getattr(module, "input_binarizer", None) is not None:
            raise McuError(
                f"{node.target}: binary activations cannot run on a microcontroller yet; "
                "export a method of binary weights alone"
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
        if isinstance(module, _LAYERS):
            return self._layer(str(node.target), module, x)
        raise self._refuse(node, type(module).__name__)

    # -- layers

    def _layer(self, name: str, module: Any, x: int) -> int:
        shape = _weight_shape(module)
        groups = getattr(module, "groups", 1)
        if len(shape) == 2:
            window = self._linear_window(name, shape, x)
        else:
            window = self._conv_window(name, module, shape, groups, x)
        if groups > 1 and (groups != shape[0] or shape[1] != 1):
            raise McuError(
                f"{name}: {groups} groups; only plain (1) and depthwise (one per channel) "
                "convolutions are known"
            )
        height, width = window.out if window else (1, 1)
        out = self._new(name, (height, width, shape[0]))
        made = _weights(name, module, shape, groups, window)
        made.inputs = (x,)
        made.output = out
        made.scale = np.ones(shape[0])
        bias = getattr(module, "bias", None)
        made.shift = np.zeros(shape[0]) if bias is None else _array(bias)
        self.graph.nodes.append(made)
        return out

    def _linear_window(self, name: str, shape: tuple[int, ...], x: int) -> Window | None:
        """A linear layer on a flattened map is a convolution by a kernel of the map's size."""
        h, w, c = self.graph.shapes[x]
        columns = shape[1]
        is_pixel = (h, w) == (1, 1)
        if x in self.flat and not is_pixel and columns == h * w * c:
            return None if c == 1 else Window((h, w, c), (h, w), (1, 1))
        if columns != c or not is_pixel:
            raise McuError(
                f"{name}: a linear layer of {columns} inputs on a map of {h} x {w} x {c}; "
                "flatten it first"
            )
        return None

    def _conv_window(
        self,
        name: str,
        module: Any,
        shape: tuple[int, ...],
        groups: int,
        x: int,
    ) -> Window:
        padding_mode = getattr(module, "padding_mode", "zeros")
        if padding_mode != "zeros" or isinstance(module.padding, str):
            raise McuError(
                f"{name}: padding must be zeros and given as numbers, "
                f"got {module.padding_mode}, {module.padding!r}"
            )
        height, width, channels = self.graph.shapes[x]
        expected = shape[1] * groups
        if channels != expected:
            raise McuError(f"{name}: {expected} input channels on a map of {channels}")
        one_dimension = len(shape) == 3
        pair = _pair if one_dimension else _square
        return self._window(
            (height, width, channels),
            kernel=_pair(shape[2:]),
            stride=pair(module.stride),
            padding=_padding(module.padding, one_dimension),
            dilation=pair(module.dilation),
        )

    @staticmethod
    def _window(
        shape: tuple[int, int, int],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        ceil: bool = False,
    ) -> Window:
        out = []
        for size, k, s, pad, d in zip(shape[:2], kernel, stride, padding, dilation, strict=True):
            rest = size + 2 * pad - d * (k - 1) - 1
            steps = -(-rest // s) if ceil else rest // s
            # torch: no window begins behind the map
            begins_behind = ceil and steps * s >= size + pad
            out.append(steps if begins_behind else steps + 1)
        height, width = out
        return Window(shape, kernel, (height, width), stride, padding, dilation)

    def _pool(self, node: fx.Node, kind: str, x: int, module: Any) -> int:
        """module: None pools the whole map."""
        height, width, channels = shape = self.graph.shapes[x]
        if module is None:
            window = Window(shape, (height, width), (1, 1))
        else:
            window = self._pool_window(node, kind, shape, module)
        if window.patch == channels:  # one pixel: nothing to do but take steps
            kind = "max"
        out = self._new(node.name, (*window.out, channels))
        self.graph.nodes.append(
            Node(
                node.name,
                kind,
                inputs=(x,),
                output=out,
                rows=channels,
                columns=window.patch,
                window=window,
            )
        )
        return out

    def _pool_window(
        self,
        node: fx.Node,
        kind: str,
        shape: tuple[int, int, int],
        module: Any,
    ) -> Window:
        one_dimension = isinstance(module, nn.MaxPool1d)
        pair = _pair if one_dimension else _square
        padding = _padding(module.padding, one_dimension)
        if kind == "mean" and (module.ceil_mode or padding != (0, 0) or module.divisor_override):
            raise McuError(
                f"{node.name}: average pooling with padding, ceil_mode or divisor_override is "
                "not known"
            )
        return self._window(
            shape,
            kernel=pair(module.kernel_size),
            stride=pair(module.stride),
            padding=padding,
            dilation=pair(getattr(module, "dilation", 1)),
            ceil=module.ceil_mode,
        )

    def _steps(self, node: fx.Node) -> int:
        """x[:, :, ::s, ::t]: a pooling of single pixels."""
        x = self._of(node.args[0], node)
        where = node.args[1]
        whole = slice(None)
        if not isinstance(where, tuple) or len(where) != 4 or where[:2] != (whole, whole):
            raise self._refuse(node, f"indexing by {where!r}")
        down, across = (_step(part) for part in where[2:])
        if not down or not across:
            raise self._refuse(node, f"indexing by {where!r}")
        height, width, channels = shape = self.graph.shapes[x]
        size = (-(-height // down), -(-width // across))
        out = self._new(node.name, (*size, channels))
        self.graph.nodes.append(
            Node(
                node.name,
                "max",
                inputs=(x,),
                output=out,
                rows=channels,
                columns=channels,
                window=Window(shape, kernel=(1, 1), out=size, stride=(down, across)),
            )
        )
        return out

    def _pad_channels(self, node: fx.Node) -> int:
        """F.pad that adds channels of zeros."""
        x = self._of(node.args[0], node)
        amounts = node.args[1] if len(node.args) == 2 else ()
        mode = node.kwargs.get("mode", "constant")
        zeros = mode == "constant" and not node.kwargs.get("value")
        if not zeros or not _are_channels(amounts):
            raise self._refuse(node, f"padding by {amounts!r}")
        before, behind = amounts[4:]
        height, width, channels = shape = self.graph.shapes[x]
        rows = channels + before + behind
        out = self._new(node.name, (height, width, rows))
        self.graph.nodes.append(
            Node(
                node.name,
                "pad",
                inputs=(x,),
                output=out,
                rows=rows,
                columns=channels,
                window=Window(shape, (1, 1), (height, width)),
                front=before,
            )
        )
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
        shapes = self.graph.shapes
        if shapes[a] != shapes[b]:
            raise McuError(
                f"{node.name}: a sum of maps {shapes[a]} and {shapes[b]}; shapes must agree"
            )
        out = self._new(node.name, shapes[a])
        made = Node(node.name, "add", (a, b), out, rows=self.graph.size(a))
        self.graph.nodes.append(made)
        if a in self.flat:
            self.flat.add(out)
        return out

    def _check_in_place(self, x: int, node: fx.Node) -> None:
        """Torch shows a change in place to all readers of the value, so only `node` may read it."""
        if self._readers(x) != {node}:
            raise McuError(
                f"{node.name}: changes in place what other layers read too; "
                "use an operation that is not in place"
            )

    def _new(self, name: str, shape: tuple[int, int, int]) -> int:
        if min(shape) < 1:
            raise McuError(f"{name}: nothing is left of the map: {shape}")
        self.graph.shapes.append(shape)
        return len(self.graph.shapes) - 1

    # -- folding

    def _producer(self, value: int) -> Node | None:
        return next((n for n in self.graph.nodes if n.output == value), None)

    def _maker(self, value: int, node: fx.Node) -> Node | None:
        """The node whose result `value` is, if only `node` reads it."""
        if self._readers(value) != {node}:
            return None
        return self._producer(value)

    def _before_max(self, made: Node | None) -> Node | None:
        """The layer before a max pooling, if nothing else reads it.

        Monotone functions give the same before and after the pooling.
        """
        if made is None or made.kind != "max":
            return made
        value = made.inputs[0]
        if len(self._readers(value)) != 1:
            return made
        return self._producer(value) or made

    def _relu(self, x: int, node: fx.Node, in_place: bool) -> int:
        if in_place:
            self._check_in_place(x, node)
        made = self._maker(x, node)
        target = self._before_max(made)
        if target is not None and target.kind in ("tiled", "dense", "depthwise", "affine", "add"):
            target.relu = True
            return x
        channels = self.graph.shapes[x][2]
        return self._affine(node, x, np.ones(channels), np.zeros(channels), True)

    def _batch_norm(self, module: Any, x: int, node: fx.Node) -> int:
        if module.running_mean is None:
            raise McuError(f"{node.target}: batch normalisation without running statistics")
        scale, shift = _scale_and_shift(module)
        h, w, c = self.graph.shapes[x]
        if len(scale) != c:
            raise McuError(
                f"{node.target}: batch normalisation of {len(scale)} values on a map of "
                f"{h} x {w} x {c}; put it before flattening"
            )
        target = self._maker(x, node)
        if (scale > 0).all():
            target = self._before_max(target)
        if target is None or target.relu or not (target.has_weights or target.kind == "affine"):
            return self._affine(node, x, scale, shift, False)
        target.scale = target.scale * scale
        target.shift = target.shift * scale + shift
        return x

    def _affine(self, node: fx.Node, x: int, scale: Array, shift: Array, relu: bool) -> int:
        height, width, channels = shape = self.graph.shapes[x]
        out = self._new(node.name, shape)
        self.graph.nodes.append(
            Node(
                node.name,
                "affine",
                inputs=(x,),
                output=out,
                rows=channels,
                columns=channels,
                window=Window(shape, (1, 1), (height, width)),
                scale=scale,
                shift=shift,
                relu=relu,
            )
        )
        if x in self.flat:
            self.flat.add(out)
        return out


_LAYERS = (
    packed.PackedLinear,
    packed.PackedConv1d,
    packed.PackedConv2d,
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
)
_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    operator.add: "add",
    operator.iadd: "iadd",
    torch.add: "add",
    torch.flatten: "flatten",
    torch.mean: "mean",
    F.pad: "pad",
    operator.getitem: "getitem",
    F.dropout: "dropout",
}
_KEYWORDS = {
    "relu": {"inplace"},
    "flatten": {"start_dim", "end_dim"},
    "mean": {"dim", "keepdim"},
    "pad": {"mode", "value"},
    "dropout": {"p", "training", "inplace"},
}


def _padding(value: Any, one_dimension: bool) -> tuple[int, int]:
    """(rows, columns) of zeros on each side. A map of one dimension has no rows above it."""
    if one_dimension:
        return 0, _pair(value)[1]
    return _square(value)


def _step(part: Any) -> int:
    """s of the index ::s; 0 for any other index."""
    if not isinstance(part, slice) or part.start is not None or part.stop is not None:
        return 0
    step = part.step or 1
    return step if isinstance(step, int) and step > 0 else 0


def _are_channels(amounts: Any) -> bool:
    """True for amounts of F.pad that add channels to (B, C, H, W) and nothing else."""
    if not isinstance(amounts, tuple | list) or len(amounts) != 6:
        return False
    return not any(amounts[:4]) and min(amounts) >= 0


def _scale_and_shift(module: Any) -> tuple[Array, Array]:
    """Batch normalisation as scale * x + shift, each (channels,)."""
    deviation = np.sqrt(_array(module.running_var) + module.eps)
    weight = 1.0 if module.weight is None else _array(module.weight)
    bias = 0.0 if module.bias is None else _array(module.bias)
    scale = 1.0 / deviation * weight
    shift = -_array(module.running_mean) * scale + bias
    return scale, shift


def _weight_shape(module: Any) -> tuple[int, ...]:
    shape = module.shape if isinstance(module, packed.Packed) else module.weight.shape
    return tuple(shape)


def _weights(
    name: str,
    module: Any,
    shape: tuple[int, ...],
    groups: int,
    window: Window | None,
) -> Node:
    """A node with the weights in the order of its patch."""
    node = Node(name, "dense", (), 0, shape[0], math.prod(shape[1:]), window)
    is_packed = isinstance(module, packed.Packed)
    if is_packed and module.form.plain and groups == 1:
        _set_tile(node, module)
        return node
    if is_packed:
        weight = module.form.dense(module.tensors()).astype(np.float64)
        node.method = "expanded to numbers: no bit kernel for this form"
    else:
        weight = _array(module.weight)
        node.method = "full precision"
    if groups > 1:
        node.kind = "depthwise"
        node.columns = node.rows * node.columns
        node.dense = weight.reshape(node.rows, -1).T
        return node
    if window is not None:
        weight = _last(weight, *_patch(node, window))
    node.dense = weight.reshape(node.rows, node.columns)
    return node


def _patch(node: Node, window: Window) -> tuple[int, tuple[int, int]]:
    """(channels, kernel) of a row of weights."""
    return node.columns // math.prod(window.kernel), window.kernel


def _set_tile(node: Node, module: Any) -> None:
    """Makes a tiled layer of the node."""
    form = module.form
    tensors = module.tensors()
    node.kind = "tiled"
    node.p = form.p
    node.tile = bits.unpack(tensors["tile"], form.q)
    node.alphas = tensors["alphas"].astype(np.float64) if form.scales else np.ones(1)
    node.method = "1 bit" if form.p == 1 else f"tile of {form.q:,} bits, p = {form.p}"
    if form.numel // len(node.alphas) % node.segment:
        raise McuError(
            f"{node.name}: scales that change inside a segment of {node.segment} weights"
        )
    if node.window is None:
        return
    channels, kernel = _patch(node, node.window)
    if channels == 1 or math.prod(kernel) == 1:  # the order of the patch is that of the tile
        return
    if node.segment == node.columns:  # the tile holds whole rows: their columns may be sorted
        node.tile = _last(node.tile, channels, kernel)
    else:
        node.window = replace(node.window, channels_first=True)


def _last(rows: Array, channels: int, kernel: tuple[int, int]) -> Array:
    """(..., channels, kernel) -> (..., kernel, channels), flat."""
    parts = rows.reshape(-1, channels, *kernel)
    return parts.transpose(0, 2, 3, 1).reshape(-1)
