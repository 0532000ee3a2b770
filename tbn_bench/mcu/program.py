"""From a graph to the program of the C runtime.

Byte activations ("u8") have integer tables, float activations ("f32") have float tables.

u8: an activation is a byte u for the real value s * (u - z). With acc the sum of weights (+-1, or
int8) times bytes, an output is

    y = clamp((sum_i acc_i * M_i + B * bias_unit + 2^31) >> 32)
    M_i = round(alpha_i * scale * s_in / s_out * 2^32)

where B holds the shift, -z_in times the row's weights, and z_out. An output is rounded once. This
file proves |M_i| < 2^31, and that no int64 overflows. The last layer's outputs are int32 with
s_out = 4 * s_in * max |alpha * scale|, which costs the lowest two bits.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbn_bench.compiler.geometry import Window
from tbn_bench.mcu import layout, reference
from tbn_bench.mcu.graph import Graph, McuError, Node

Array = NDArray[Any]
ACTIVATIONS = ("u8", "f32")
_LARGEST = 0.499999  # of M / 2^32


@dataclass(frozen=True)
class Quant:
    """The real value of a byte u: scale * (u - offset).

    The input's offset may be a fraction: z = 255 * mean.
    """

    scale: float
    offset: float = 0.0

    @property
    def zero(self) -> int:
        """The byte that stands for 0."""
        nearest = np.round(self.offset)
        return int(np.clip(nearest, 0, 255))


@dataclass(frozen=True)
class Piece:
    """Segments [start, start + length) of one row's inputs, which share the scale alphas[alpha]."""

    row: int
    start: int
    length: int
    alpha: int


@dataclass
class Op:
    """One tbn_op.

    weights, scales, biases: words of the table as int64 or float32. memory.py sets the sizes and
    the offsets in the arena, in bytes.
    """

    node: Node
    function: str  # tbn_linear, tbn_window_op, tbn_add_*
    row: str
    weights: Array
    scales: Array
    biases: Array | None
    run: int = 1
    per_row: bool = False
    bias_unit: int = 1
    wide: bool = False
    pad: int = 0
    in_at: int = 0
    out_at: int = 0
    scratch_at: int = 0
    patch_at: int = 0
    in_bytes: int = 0
    out_bytes: int = 0

    @property
    def table(self) -> Array:
        """(words,) uint32: weights, scales, biases in the order of the C array."""
        parts = [_bits(self.weights), _bits(self.scales)]
        if self.biases is not None:
            parts.append(_bits(self.biases))
        return np.concatenate(parts)


@dataclass
class Program:
    """Everything that an exported folder contains.

    input: the quantisation of the input (u8). output_scale: the real value of an output unit.
    """

    graph: Graph
    activations: str
    layout: str
    ops: list[Op]
    input: Quant
    output_scale: float
    arena_bytes: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def table(self) -> Array:
        """(words,) uint32 of all ops."""
        empty = np.zeros(0, np.uint32)
        return np.concatenate([empty, *(op.table for op in self.ops)])

    @property
    def input_len(self) -> int:
        return self.graph.size(0)

    @property
    def output_len(self) -> int:
        return self.graph.size(self.graph.output)

    @property
    def output_op(self) -> Op:
        output = self.graph.output
        return next(op for op in self.ops if op.node.output == output)

    @property
    def element(self) -> int:
        """Bytes of an activation."""
        return 1 if self.activations == "u8" else 4


def _bits(values: Array) -> Array:
    """Any table as uint32 words: float32 by their bits, integers modulo 2^32."""
    if values.dtype == np.float32:
        return values.view(np.uint32).reshape(-1)
    low = values.astype(np.int64) & 0xFFFFFFFF
    return low.astype(np.uint32).reshape(-1)


def pieces(node: Node) -> list[Piece]:
    """The terms of every output of a tiled layer, in the order in which the C code adds them up."""
    assert node.alphas is not None
    per_row = node.per_input
    per_alpha = node.rows * per_row // len(node.alphas)
    found = []
    for row in range(node.rows):
        start = 0
        while start < per_row:
            alpha, used = divmod(row * per_row + start, per_alpha)
            length = min(per_row - start, per_alpha - used)
            found.append(Piece(row, start, length, alpha))
            start += length
    return found


def build(
    graph: Graph,
    activations: str,
    form: str,
    calibration: Array,
    source: Quant | None,
) -> Program:
    """calibration: (B, h, w, c) of inputs as the model sees them.

    source: the real values of raw bytes; None takes the range of the calibration inputs. Raises
    McuError for a layer whose numbers do not fit.
    """
    if activations not in ACTIVATIONS:
        raise McuError(f"--activations must be u8 or f32, got {activations!r}")
    if activations == "f32":
        ops = [_float_op(node) for node in graph.nodes]
        return Program(graph, "f32", "nat", ops, input=Quant(1.0), output_scale=1.0)
    _end_in_numbers(graph)
    values = reference.forward(graph, calibration)
    first = source or _range(values[0])
    quants = {0: first}
    ops = []
    for node in graph.nodes:
        op, quants[node.output] = _byte_op(graph, node, quants, values, form)
        ops.append(op)
    output_scale = quants[graph.output].scale
    return Program(graph, "u8", form, ops, input=first, output_scale=output_scale)


def _end_in_numbers(graph: Graph) -> None:
    """Appends an affine node where the last node cannot put out int32."""
    last = next(node for node in graph.nodes if node.output == graph.output)
    is_linear = last.has_weights or last.kind == "affine"
    if is_linear and not last.relu:
        return
    shape = graph.shapes[graph.output]
    height, width, channels = shape
    node = Node(
        "output",
        "affine",
        inputs=(graph.output,),
        output=len(graph.shapes),
        rows=channels,
        columns=channels,
        window=Window(shape, (1, 1), (height, width)),
        scale=np.ones(channels),
        shift=np.zeros(channels),
    )
    graph.shapes.append(shape)
    graph.nodes.append(node)
    graph.output = node.output


def _range(values: Array) -> Quant:
    low = min(0.0, float(values.min()))
    high = max(0.0, float(values.max()))
    scale = max(high - low, 1e-30) / 255
    return Quant(scale, float(np.round(-low / scale)))


# -- bytes


def _byte_op(
    graph: Graph,
    node: Node,
    quants: dict[int, Quant],
    values: list[Array],
    form: str,
) -> tuple[Op, Quant]:
    """(the op, the quantisation of its output)."""
    source = quants[node.inputs[0]]
    if node.kind in ("max", "mean"):
        return _byte_pool(node), source
    if node.kind == "pad":
        return _byte_pad(node, source), source
    if node.kind == "add":
        first, second = (quants[i] for i in node.inputs)
        target = _sum_target(values[node.output], first, second)
        return _add_op(node, first, second, target), target

    last = node.output == graph.output
    weights = _integers(node)
    multipliers = weights.real * source.scale
    target = _target(values[node.output], multipliers, last, node)
    scales = _multipliers(node, multipliers, target)
    bias = _real_bias(node, weights, source) / target.scale
    if not last:
        bias = bias + target.offset
    biases, unit = _fixed(bias, node.name)
    op = Op(
        node,
        function=_function(node),
        row=_ROWS[node.kind].format(form=form),
        weights=_stored(node, weights.whole, form),
        scales=scales,
        biases=biases,
        run=weights.run,
        per_row=weights.per_row,
        bias_unit=unit,
        wide=last,
        pad=source.zero,
    )
    _prove(op)
    return op, target


def _function(node: Node) -> str:
    return "tbn_linear" if node.window is None else "tbn_window_op"


def _byte_pool(node: Node) -> Op:
    positions = node.columns // node.rows
    scales = [] if node.kind == "max" else [round(2**32 / positions)]
    return Op(
        node,
        function="tbn_window_op",
        row=f"tbn_{node.kind}_u8",
        weights=np.zeros(0, np.int64),
        scales=np.array(scales, np.int64),
        biases=None,
    )


def _byte_pad(node: Node, source: Quant) -> Op:
    none = np.zeros(0, np.int64)
    return Op(
        node,
        function="tbn_window_op",
        row="tbn_pad_u8",
        weights=none,
        scales=none,
        biases=None,
        run=node.front,
        bias_unit=source.zero,
    )


def _multipliers(node: Node, multipliers: Array, target: Quant) -> Array:
    """M of the formula above, as int64. Raises McuError where one does not fit in 32 bits."""
    places = 24 if node.kind == "affine" else 32
    found: Array = np.round(multipliers / target.scale * 2.0**places).astype(np.int64)
    if not np.abs(found).max() < 2**31:
        largest = np.abs(multipliers).max() / target.scale
        raise McuError(f"{node.name}: a scale of {largest:.3g} output units per step does not fit")
    return found


def _real_bias(node: Node, weights: "_Weights", source: Quant) -> Array:
    """The shift, less the real value of the byte that stands for 0 times the row's weights."""
    assert node.shift is not None
    sums = _row_sums(node, weights)
    bias: Array = node.shift - source.offset * source.scale * sums
    return bias


_ROWS = {
    "tiled": "tbn_tiled_u8_{form}",
    "dense": "tbn_dense_i8",
    "depthwise": "tbn_depthwise_i8",
    "affine": "tbn_affine_u8",
}


@dataclass(frozen=True)
class _Weights:
    """A layer's weights as integers.

    whole: the integers, in the shape of the node's weights. real: the real value of a step of each
    scale in the table. per_row: one scale for each row. run: segments under a scale.
    """

    whole: Array
    real: Array
    per_row: bool
    run: int


def _integers(node: Node) -> _Weights:
    assert node.scale is not None
    if node.kind == "affine":
        return _Weights(np.zeros(0, np.int64), node.scale, per_row=True, run=1)
    if node.kind == "tiled":
        scales = _tiled_scales(node)
        assert node.tile is not None
        return _Weights(node.tile, scales.values, scales.per_row, scales.run)
    assert node.dense is not None
    # one row of weights for each output
    rows = node.dense.T if node.kind == "depthwise" else node.dense
    steps = np.array([_step(row) for row in rows])
    divisors = np.where(steps, steps, 1.0)
    whole = np.round(rows / divisors[:, None]).astype(np.int64)
    if node.kind == "depthwise":
        whole = whole.T
    return _Weights(whole, steps * node.scale, per_row=True, run=1)


def _step(row: Array) -> float:
    """int8 per row, symmetric; a row of one magnitude (and zeros) is exact."""
    sizes = np.abs(row[row != 0])
    if not len(sizes):
        return 0.0  # or its scale would be the layer's largest
    if np.all(sizes == sizes[0]):
        return float(sizes[0])
    return float(sizes.max() / 127)


@dataclass(frozen=True)
class _Scales:
    """Scales of a tiled layer: one for each piece of each row, or one for each run of segments."""

    values: Array
    per_row: bool
    run: int


def _tiled_scales(node: Node) -> _Scales:
    assert node.alphas is not None
    assert node.scale is not None
    run = node.rows * node.per_input // len(node.alphas)
    # tbn_rt.c changes the scale of whole rows between copies of the tile only
    between_copies = node.per_input > 1 or run % node.per_tile == 0
    is_uniform = bool(np.all(node.scale == node.scale[0]))
    if is_uniform and between_copies:
        return _Scales(node.alphas * node.scale[0], per_row=False, run=run)
    found = []
    for piece in pieces(node):
        alpha = node.alphas[piece.alpha]
        found.append(alpha * node.scale[piece.row])
    return _Scales(np.array(found), per_row=True, run=run)


def _target(values: Array, multipliers: Array, last: bool, node: Node) -> Quant:
    """How a layer's outputs are stored: by their range, but no finer than the layer's own steps.

    The last layer's outputs keep the layer's steps.
    """
    largest = float(np.abs(multipliers).max())
    is_affine = node.kind == "affine"
    if last:
        steps = largest / 64 if is_affine else 4 * largest
        largest_value = float(np.abs(values).max())
        return Quant(steps or largest_value / 2**20 or 1.0)
    finest = largest / (64 if is_affine else _LARGEST)
    return _no_finer(_range(values), finest)


def _no_finer(found: Quant, scale: float) -> Quant:
    """found, or the same range in steps of `scale`.

    Values that hardly vary would need a multiplier that does not fit.
    """
    if found.scale >= scale:
        return found
    offset = np.round(found.offset * found.scale / scale)
    return Quant(scale, float(offset))


def _row_sums(node: Node, weights: _Weights) -> Array:
    """For each output the sum over its weights, of the real values of the integers."""
    if node.kind == "affine":
        return weights.real
    if node.kind == "tiled":
        assert node.scale is not None
        found: Array = reference.dense(node).sum(1) * node.scale
        return found
    axis = 0 if node.kind == "depthwise" else 1
    sums: Array = weights.whole.sum(axis) * weights.real
    return sums


def _fixed(bias: Array, name: str) -> tuple[Array | None, int]:
    """(B, bias_unit): biases in output units as int32, with as many binary places as fit.

    B is None where all are 0.
    """
    if not bias.any():
        return None, 1
    for shift in (8, 16, 24, 30):
        found = np.round(bias * 2.0 ** (32 - shift))
        if np.abs(found).max() < 2**31:
            return found.astype(np.int64), 1 << shift
    largest = np.abs(bias).max()
    raise McuError(f"{name}: a bias of {largest:.3g} output units does not fit in 32 bits")


def _prove(op: Op) -> None:
    """No sum of the op can leave int64, and no output can leave int32. Raises McuError."""
    node = op.node
    bound = _largest_sum(node)
    if bound >= 2**31:
        raise McuError(f"{node.name}: {node.columns} inputs overflow a 32-bit sum")
    scale = int(np.abs(op.scales).max())
    bias = 0
    if op.biases is not None:
        bias = int(np.abs(op.biases).max()) * op.bias_unit
    if _terms(op) * bound * scale + bias + 2**31 >= 2**63:
        raise McuError(f"{node.name}: scales and biases overflow a 64-bit sum")


def _largest_sum(node: Node) -> int:
    """Bound of the sum of weights times bytes."""
    if node.kind == "affine":
        return 255 * 256
    weight = 1 if node.kind == "tiled" else 127
    return 255 * node.columns * weight


def _terms(op: Op) -> int:
    """Bound of the number of scaled sums that make an output."""
    if op.node.kind != "tiled":
        return 1
    return op.node.per_input if op.per_row else len(op.scales)


def _sum_target(values: Array, first: Quant, second: Quant) -> Quant:
    """How the sum of two values is stored."""
    finest = max(first.scale, second.scale) / 64
    return _no_finer(_range(values), finest)


def _add_op(node: Node, first: Quant, second: Quant, target: Quant) -> Op:
    steps = np.array([first.scale, second.scale])
    scales = np.round(steps / target.scale * 2.0**24).astype(np.int64)
    zeros = first.scale * first.offset + second.scale * second.offset
    bias = target.offset - zeros / target.scale
    biases, unit = _fixed(np.array([bias]), node.name)
    if np.abs(scales).max() >= 2**31:
        raise McuError(f"{node.name}: the summands' scales do not fit")
    return Op(
        node,
        function="tbn_add_u8",
        row="",
        weights=np.zeros(0, np.int64),
        scales=scales,
        biases=biases,
        bias_unit=unit,
    )


def _stored(node: Node, weights: Array, form: str) -> Array:
    """Integer weights as table words."""
    if node.kind == "tiled":
        return layout.pack(weights, node.segment, form).astype(np.int64)
    if node.kind == "dense":
        rows, columns = weights.shape
        padded = np.pad(weights, ((0, 0), (0, -columns % 4)))
        words = _four(padded).reshape(rows, -1)
        return _by_four_rows(words)
    flat = weights.reshape(-1)
    return _four(np.pad(flat, (0, -len(flat) % 4)))


def _four(weights: Array) -> Array:
    """int8 values, four to a word, the first lowest."""
    parts = (weights.reshape(-1, 4) & 255).astype(np.int64)
    places = 8 * np.arange(4)
    found: Array = (parts << places).sum(1)
    return found


def _by_four_rows(words: Array) -> Array:
    """(rows, n) -> flat: element by element of four rows, then the remaining rows."""
    block = len(words) // 4 * 4
    fours = words[:block].reshape(-1, 4, words.shape[1])
    mixed = fours.transpose(0, 2, 1).reshape(-1)
    rest = words[block:].reshape(-1)
    return np.concatenate([mixed, rest])


# -- floats


def _float_op(node: Node) -> Op:
    if node.kind in ("max", "mean", "pad", "add"):
        return _float_op_without_weights(node)
    assert node.scale is not None
    assert node.shift is not None
    biases = None
    if node.shift.any() or node.kind == "affine":
        biases = node.shift.astype(np.float32)
    if node.kind == "tiled":
        assert node.tile is not None
        tiled = _tiled_scales(node)
        return Op(
            node,
            function=_function(node),
            row="tbn_tiled_f32_nat",
            weights=layout.pack(node.tile, node.segment, "nat").astype(np.int64),
            scales=tiled.values.astype(np.float32),
            biases=biases,
            run=tiled.run,
            per_row=tiled.per_row,
        )
    scales, per_row = _float_scales(node)
    return Op(
        node,
        function=_function(node),
        row=f"tbn_{node.kind}_f32",
        weights=_float_weights(node),
        scales=scales,
        biases=biases,
        per_row=per_row,
    )


def _float_op_without_weights(node: Node) -> Op:
    none = np.zeros(0, np.float32)
    op = Op(
        node,
        function="tbn_window_op",
        row=f"tbn_{node.kind}_f32",
        weights=none,
        scales=none,
        biases=None,
    )
    if node.kind == "max":
        op.pad = int(np.float32(-np.inf).view(np.uint32))
    elif node.kind == "mean":
        op.scales = np.array([node.rows / node.columns], np.float32)
    elif node.kind == "pad":
        op.run = node.front
    else:
        op.function = "tbn_add_f32"
        op.row = ""
    return op


def _float_scales(node: Node) -> tuple[Array, bool]:
    """(scales, one for each row?). Equal scales of a layer with weights are stored once."""
    assert node.scale is not None
    scales = node.scale.astype(np.float32)
    is_uniform = bool(np.all(node.scale == node.scale[0]))
    if is_uniform and node.kind != "affine":
        return scales[:1], False
    return scales, True


def _float_weights(node: Node) -> Array:
    if node.kind == "affine":
        return np.zeros(0, np.float32)
    assert node.dense is not None
    weights = node.dense.astype(np.float32)
    if node.kind == "depthwise":
        return weights.reshape(-1)
    return _by_four_rows(weights)
