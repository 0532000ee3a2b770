"""Operations on byte activations: integer tables.

An activation is a byte u for the real value s * (u - z). With acc the sum of weights (+-1, or
int8) times bytes, an output is

    y = clamp((sum_i acc_i * M_i + B * bias_unit + 2^31) >> 32)
    M_i = round(alpha_i * scale * s_in / s_out * 2^32)

where B holds the shift, -z_in times the row's weights, and z_out. An output is rounded once. This
file proves |M_i| < 2^31, and that no int64 overflows. The last layer's outputs are int32 with
s_out = 4 * s_in * max |alpha * scale|, which costs the lowest two bits.
"""

import numpy as np

from tbn_bench.mcu import reference
from tbn_bench.mcu.graph import Array, Graph, Kind, McuError, Node
from tbn_bench.mcu.integers import IntegerWeights, integers, row_sums
from tbn_bench.mcu.program import Op, Quant, function_of
from tbn_bench.mcu.ranges import range_of, sum_target, target_of
from tbn_bench.mcu.words import stored


def byte_op(
    graph: Graph,
    node: Node,
    quants: dict[int, Quant],
    values: list[Array],
    bit_order: str,
) -> tuple[Op, Quant]:
    """(the op, the quantisation of its output)."""
    source = quants[node.inputs[0]]
    if node.kind in ("max", "mean"):
        return _byte_pool(node), source
    if node.kind == "pad":
        return _byte_pad(node, source), source
    if node.kind == "lookup":
        target = range_of(values[node.output])
        return _byte_lookup(node, source, target), target
    if node.kind == "add":
        first, second = (quants[i] for i in node.inputs)
        target = sum_target(values[node.output], first, second)
        return _add_op(
            node,
            first,
            second,
            target,
        ), target

    last = node.output == graph.output
    weights = integers(node)
    multipliers = weights.real * source.scale
    target = target_of(
        values[node.output],
        multipliers,
        last,
        node,
    )
    scales = _multipliers(node, multipliers, target)
    bias = _real_bias(node, weights, source) / target.scale
    if not last:
        bias = bias + target.offset
    biases, unit = _fixed(bias, node.name)
    op = Op(
        node,
        function=function_of(node),
        row=_ROWS[node.kind].format(bit_order=bit_order),
        weights=stored(node, weights.whole, bit_order),
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


def _byte_lookup(node: Node, source: Quant, target: Quant) -> Op:
    """The output's byte for each of the 256 bytes of an input, four to a word."""
    inputs = source.scale * (np.arange(256) - source.offset)
    outputs = reference.function_values(node, inputs)
    steps = np.round(outputs / target.scale + target.offset)
    table = np.clip(steps, 0, 255).astype(np.uint8)
    return Op(
        node,
        function="tbn_window_op",
        row="tbn_lookup_u8",
        weights=table.view("<u4").astype(np.int64),
        scales=np.zeros(0, np.int64),
        biases=None,
    )


def _multipliers(node: Node, multipliers: Array, target: Quant) -> Array:
    """M of the formula above, as int64. Raises McuError where one does not fit in 32 bits."""
    places = 24 if node.kind == "affine" else 32
    found: Array = np.round(multipliers / target.scale * 2.0**places).astype(np.int64)
    if not np.abs(found).max() < 2**31:
        largest = np.abs(multipliers).max() / target.scale
        raise McuError(f"{node.name}: a scale of {largest:.3g} output units per step does not fit")
    return found


def _real_bias(node: Node, weights: "IntegerWeights", source: Quant) -> Array:
    """The shift of each output, corrected for the offset of the input's bytes.

    A byte u stands for scale * (u - offset), so each sum of weights times bytes is too large by
    offset * scale * (sum of the row's weights).
    """
    sums = row_sums(node, weights)
    bias: Array = node.shift - source.offset * source.scale * sums
    return bias


_ROWS: dict[Kind, str] = {
    "tiled": "tbn_tiled_u8_{bit_order}",
    "dense": "tbn_dense_i8",
    "depthwise": "tbn_depthwise_i8",
    "affine": "tbn_affine_u8",
}


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


def _add_op(
    node: Node,
    first: Quant,
    second: Quant,
    target: Quant,
) -> Op:
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
