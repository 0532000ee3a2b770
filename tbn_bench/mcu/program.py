"""From a graph to what the C runtime executes: integer tables for byte activations ("u8"), float tables for float activations ("f32").

u8: an activation is a byte u for the real value s * (u - z). With acc the sum of weights (+-1, or int8) times bytes, an output is

    y = clamp((sum_i acc_i * M_i + B * bias_unit + 2^31) >> 32),   M_i = round(alpha_i * scale * s_in / s_out * 2^32)

where B holds the shift, -z_in times the row's weights, and z_out. One rounding; |M_i| < 2^31 is proved here, and that no int64 overflows.
The last layer's outputs are int32 with s_out = 4 * s_in * max |alpha * scale|, which costs the lowest two bits.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbn_bench.mcu import layout, reference
from tbn_bench.mcu.graph import Graph, McuError, Node, Window

Array = NDArray[Any]
ACTIVATIONS = ("u8", "f32")
_LARGEST = 0.499999  # of M / 2^32


@dataclass(frozen=True)
class Quant:
    """The real value of a byte u: scale * (u - offset). offset need not be whole for the input (z = 255 * mean)."""

    scale: float
    offset: float = 0.0

    @property
    def zero(self) -> int:
        """The byte that stands for 0."""
        return int(np.clip(np.round(self.offset), 0, 255))


@dataclass(frozen=True)
class Piece:
    """Segments [start, start + length) of one row's inputs, which share one scale: alphas[alpha]."""

    row: int
    start: int
    length: int
    alpha: int


@dataclass
class Op:
    """One tbn_op. weights, scales, biases: words of the table as int64 or float32; offsets (bytes in the arena) are set by memory.py."""

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
        """(words,) uint32: weights, scales, biases as they lie in the C array."""
        return np.concatenate(
            [_bits(v) for v in (self.weights, self.scales, self.biases) if v is not None]
        )


@dataclass
class Program:
    """Everything an exported folder says. input: its quantisation (u8); output_scale: real value of an output unit."""

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
        return np.concatenate([op.table for op in self.ops] or [np.zeros(0, np.uint32)])

    @property
    def input_len(self) -> int:
        return self.graph.size(0)

    @property
    def output_len(self) -> int:
        return self.graph.size(self.graph.output)

    @property
    def output_op(self) -> Op:
        return next(op for op in self.ops if op.node.output == self.graph.output)

    @property
    def element(self) -> int:
        return 1 if self.activations == "u8" else 4


def _bits(values: Array) -> Array:
    """Any table as uint32 words: float32 by their bits, integers modulo 2^32."""
    if values.dtype == np.float32:
        return values.view(np.uint32).reshape(-1)
    return (values.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32).reshape(-1)


def pieces(node: Node) -> list[Piece]:
    """The terms of every output of a tiled layer, in the order in which the C code adds them up."""
    assert node.alphas is not None
    per_alpha, s = node.rows * node.per_input // len(node.alphas), node.per_input
    found = []
    for row in range(node.rows):
        start = 0
        while start < s:
            position = row * s + start
            length = min(s - start, per_alpha - position % per_alpha)
            found.append(Piece(row, start, length, position // per_alpha))
            start += length
    return found


def build(
    graph: Graph, activations: str, form: str, calibration: Array, source: Quant | None
) -> Program:
    """calibration: (B, h, w, c) of inputs as the model sees them; source: how raw bytes stand for them, None: by their range.

    Raises McuError for a layer whose numbers do not fit.
    """
    if activations not in ACTIVATIONS:
        raise McuError(f"--activations must be u8 or f32, got {activations!r}")
    if activations == "f32":
        return Program(
            graph, "f32", "nat", [_float_op(node) for node in graph.nodes], Quant(1.0), 1.0
        )
    _end_in_numbers(graph)
    values = reference.forward(graph, calibration)
    quants: dict[int, Quant | None] = {0: source or _range(values[0])}
    ops = [_byte_op(graph, node, quants, values, form) for node in graph.nodes]
    first, last = quants[0], quants[graph.output]
    assert first is not None
    assert last is not None
    return Program(graph, "u8", form, ops, first, last.scale)


def _end_in_numbers(graph: Graph) -> None:
    """The last node puts out int32: one that cannot is followed by an affine one."""
    last = next(node for node in graph.nodes if node.output == graph.output)
    if (last.has_weights or last.kind == "affine") and not last.relu:
        return
    h, w, c = shape = graph.shapes[graph.output]
    graph.shapes.append(shape)
    node = Node(
        "output",
        "affine",
        (graph.output,),
        len(graph.shapes) - 1,
        c,
        c,
        Window(shape, (1, 1), (h, w)),
    )
    node.scale, node.shift = np.ones(c), np.zeros(c)
    graph.nodes.append(node)
    graph.output = node.output


def _range(values: Array) -> Quant:
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    scale = max(high - low, 1e-30) / 255
    return Quant(scale, float(np.round(-low / scale)))


# -- bytes


def _byte_op(
    graph: Graph, node: Node, quants: dict[int, Quant | None], values: list[Array], form: str
) -> Op:
    source = quants[node.inputs[0]]
    assert source is not None
    last = node.output == graph.output
    if node.kind in ("max", "mean"):
        quants[node.output] = source
        count = node.columns // node.rows
        scales = (
            np.array([], np.int64)
            if node.kind == "max"
            else np.array([round(2**32 / count)], np.int64)
        )
        return Op(node, "tbn_window_op", f"tbn_{node.kind}_u8", np.zeros(0, np.int64), scales, None)
    if node.kind == "pad":
        quants[node.output] = source
        none = np.zeros(0, np.int64)
        return Op(
            node,
            "tbn_window_op",
            "tbn_pad_u8",
            none,
            none,
            None,
            run=node.front,
            bias_unit=source.zero,
        )
    if node.kind == "add":
        return _add_op(node, quants, values)
    weights, real, per_row, run = _integers(node, form)
    multipliers = real * source.scale
    fixed = 24 if node.kind == "affine" else 32
    quants[node.output] = target = _target(values[node.output], multipliers, last, node)
    scales = np.round(multipliers / target.scale * 2.0**fixed).astype(np.int64)
    if not np.abs(scales).max() < 2**31:
        raise McuError(
            f"{node.name}: a scale of {np.abs(multipliers).max() / target.scale:.3g} output units per step does not fit"
        )
    assert node.shift is not None
    sums = _row_sums(node, weights, real)
    bias = (node.shift - source.offset * source.scale * sums) / target.scale + (
        0 if last else target.offset
    )
    biases, unit = _fixed(bias, node.name)
    op = Op(node, "tbn_linear" if node.window is None else "tbn_window_op", _ROWS[node.kind].format(form=form), _stored(node, weights, form),
            scales, biases, run, per_row, unit, last, source.zero)  # fmt: skip
    _prove(op)
    return op


_ROWS = {
    "tiled": "tbn_tiled_u8_{form}",
    "dense": "tbn_dense_i8",
    "depthwise": "tbn_depthwise_i8",
    "affine": "tbn_affine_u8",
}


def _integers(node: Node, form: str) -> tuple[Array, Array, bool, int]:
    """(integer weights, real multiplier of each scale of the table, a scale per row?, segments under a scale)."""
    assert node.scale is not None
    if node.kind == "affine":
        return np.zeros(0, np.int64), node.scale, True, 1
    if node.kind == "tiled":
        real, per_row, run = _tiled_scales(node)
        assert node.tile is not None
        return node.tile, real, per_row, run
    assert node.dense is not None
    rows = node.dense.T if node.kind == "depthwise" else node.dense  # a row of weights per output
    step = np.array([_step(row) for row in rows])
    whole = np.round(rows / np.where(step, step, 1.0)[:, None]).astype(np.int64)
    return (whole.T if node.kind == "depthwise" else whole), step * node.scale, True, 1


def _step(row: Array) -> float:
    """int8 per row, symmetric; a row of one magnitude (and zeros) is exact."""
    sizes = np.abs(row[row != 0])
    if not len(sizes):
        return 0.0  # or its scale would be the layer's largest
    return float(sizes[0] if np.all(sizes == sizes[0]) else sizes.max() / 127)


def _tiled_scales(node: Node) -> tuple[Array, bool, int]:
    assert node.alphas is not None
    assert node.scale is not None
    run = node.rows * node.per_input // len(node.alphas)
    whole = (
        node.per_input > 1 or run % node.per_tile == 0
    )  # tbn_rt.c changes the scale of whole rows between copies of the tile only
    if np.all(node.scale == node.scale[0]) and whole:
        return node.alphas * node.scale[0], False, run
    return np.array([node.alphas[p.alpha] * node.scale[p.row] for p in pieces(node)]), True, run


def _target(values: Array, multipliers: Array, last: bool, node: Node) -> Quant:
    """How a layer's outputs are stored: by their range, but no finer than its own steps; the last one's as they come."""
    largest = float(np.abs(multipliers).max())
    if last:
        steps = 4 * largest if node.kind != "affine" else largest / 64
        return Quant(steps or float(np.abs(values).max()) / 2**20 or 1.0)
    return _no_finer(_range(values), largest / (_LARGEST if node.kind != "affine" else 64))


def _no_finer(found: Quant, scale: float) -> Quant:
    """found, or the same range in steps of `scale`: values that hardly vary need no multiplier that does not fit."""
    return (
        found
        if found.scale >= scale
        else Quant(scale, float(np.round(found.offset * found.scale / scale)))
    )


def _row_sums(node: Node, weights: Array, real: Array) -> Array:
    """Per output: the sum over its weights of their real values, as the integers say them."""
    if node.kind == "affine":
        return real
    if node.kind == "tiled":
        assert node.scale is not None
        found: Array = reference.dense(node).sum(1) * node.scale
        return found
    return weights.sum(0 if node.kind == "depthwise" else 1) * real


def _fixed(bias: Array, name: str) -> tuple[Array | None, int]:
    """(B, bias_unit): biases in output units as int32, with as many binary places as fit; None where all are 0."""
    if not bias.any():
        return None, 1
    for shift in (8, 16, 24, 30):
        found = np.round(bias * 2.0 ** (32 - shift))
        if np.abs(found).max() < 2**31:
            return found.astype(np.int64), 1 << shift
    raise McuError(
        f"{name}: a bias of {np.abs(bias).max():.3g} output units does not fit in 32 bits"
    )


def _prove(op: Op) -> None:
    """No sum of the op can leave int64, nor an output int32. Raises McuError."""
    node = op.node
    bound = (
        255 * 256
        if node.kind == "affine"
        else 255 * node.columns * (1 if node.kind == "tiled" else 127)
    )
    if bound >= 2**31:
        raise McuError(f"{node.name}: {node.columns} inputs overflow a 32-bit sum")
    terms = (
        len(op.scales)
        if node.kind == "tiled" and not op.per_row
        else node.per_input
        if node.kind == "tiled"
        else 1
    )
    bias = 0 if op.biases is None else int(np.abs(op.biases).max()) * op.bias_unit
    if terms * bound * int(np.abs(op.scales).max()) + bias + 2**31 >= 2**63:
        raise McuError(f"{node.name}: scales and biases overflow a 64-bit sum")


def _add_op(node: Node, quants: dict[int, Quant | None], values: list[Array]) -> Op:
    a, b = (quants[i] for i in node.inputs)
    assert a is not None
    assert b is not None
    target = quants[node.output] = _no_finer(
        _range(values[node.output]), max(a.scale, b.scale) / 64
    )
    scales = np.round(np.array([a.scale, b.scale]) / target.scale * 2.0**24).astype(np.int64)
    bias = target.offset - (a.scale * a.offset + b.scale * b.offset) / target.scale
    biases, unit = _fixed(np.array([bias]), node.name)
    if np.abs(scales).max() >= 2**31:
        raise McuError(f"{node.name}: the summands' scales do not fit")
    return Op(node, "tbn_add_u8", "", np.zeros(0, np.int64), scales, biases, bias_unit=unit)


def _stored(node: Node, weights: Array, form: str) -> Array:
    """Integer weights as table words."""
    if node.kind == "tiled":
        return layout.pack(weights, node.segment, form).astype(np.int64)
    if node.kind == "dense":
        padded = np.pad(weights, ((0, 0), (0, -weights.shape[1] % 4)))
        return _by_four_rows(_four(padded).reshape(len(weights), -1))
    flat = weights.reshape(-1)
    return _four(np.pad(flat, (0, -len(flat) % 4)))


def _four(weights: Array) -> Array:
    """int8 values, four to a word, the first lowest."""
    parts = (weights.reshape(-1, 4) & 255).astype(np.int64)
    found: Array = (parts << (8 * np.arange(4))).sum(1)
    return found


def _by_four_rows(words: Array) -> Array:
    """(rows, n) -> flat: element by element of four rows, then the remaining rows."""
    block = len(words) // 4 * 4
    mixed = words[:block].reshape(-1, 4, words.shape[1]).transpose(0, 2, 1)
    return np.concatenate([mixed.reshape(-1), words[block:].reshape(-1)])


# -- floats


def _float_op(node: Node) -> Op:
    none = np.zeros(0, np.float32)
    if node.kind == "max":
        return Op(
            node,
            "tbn_window_op",
            "tbn_max_f32",
            none,
            none,
            None,
            pad=int(np.float32(-np.inf).view(np.uint32)),
        )
    if node.kind == "mean":
        return Op(
            node,
            "tbn_window_op",
            "tbn_mean_f32",
            none,
            np.array([node.rows / node.columns], np.float32),
            None,
        )
    if node.kind == "pad":
        return Op(node, "tbn_window_op", "tbn_pad_f32", none, none, None, run=node.front)
    if node.kind == "add":
        return Op(node, "tbn_add_f32", "", none, none, None)
    assert node.scale is not None
    assert node.shift is not None
    biases = node.shift.astype(np.float32) if node.shift.any() or node.kind == "affine" else None
    function = "tbn_linear" if node.window is None else "tbn_window_op"
    if node.kind == "tiled":
        real, per_row, run = _tiled_scales(node)
        assert node.tile is not None
        words = layout.pack(node.tile, node.segment, "nat").astype(np.int64)
        return Op(
            node,
            function,
            "tbn_tiled_f32_nat",
            words,
            real.astype(np.float32),
            biases,
            run,
            per_row,
        )
    if node.kind == "affine":
        return Op(
            node, function, "tbn_affine_f32", none, node.scale.astype(np.float32), biases, 1, True
        )
    assert node.dense is not None
    same = bool(np.all(node.scale == node.scale[0]))
    scales = (node.scale[:1] if same else node.scale).astype(np.float32)
    weights = node.dense.astype(np.float32)
    stored = weights.reshape(-1) if node.kind == "depthwise" else _by_four_rows(weights)
    return Op(node, function, f"tbn_{node.kind}_f32", stored, scales, biases, 1, not same)
