"""From the graph of a network to its program."""

import numpy as np

from tbn_bench.compiler.geometry import Window
from tbn_bench.mcu import reference
from tbn_bench.mcu.byte_ops import byte_op
from tbn_bench.mcu.float_ops import float_op
from tbn_bench.mcu.graph import Array, Graph, McuError, Node
from tbn_bench.mcu.program import ACTIVATIONS, Program, Quant
from tbn_bench.mcu.ranges import range_of


def build_program(
    graph: Graph, activations: str, bit_order: str, calibration: Array, source: Quant | None
) -> Program:
    """bit_order: of the weights (layout.py).

    calibration: (B, h, w, c) of inputs as the model sees them.

    source: the real values of raw bytes; None takes the range of the calibration inputs. Raises
    McuError for a layer whose numbers do not fit.
    """
    if activations not in ACTIVATIONS:
        raise McuError(f"--activations must be u8 or f32, got {activations!r}")
    if activations == "f32":
        ops = [float_op(node) for node in graph.nodes]
        return Program(graph, "f32", "nat", ops, input=Quant(1.0), output_scale=1.0)
    _end_in_numbers(graph)
    values = reference.forward(graph, calibration)
    first = source or range_of(values[0])
    quants = {0: first}
    ops = []
    for node in graph.nodes:
        op, quants[node.output] = byte_op(graph, node, quants, values, bit_order)
        ops.append(op)
    output_scale = quants[graph.output].scale
    return Program(graph, "u8", bit_order, ops, input=first, output_scale=output_scale)


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
