"""The program of the C runtime: operations with their tables, in order."""

from dataclasses import dataclass, field

import numpy as np

from tbn_bench.mcu.graph import Array, Graph, Node

ACTIVATIONS = ("u8", "f32")


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


@dataclass
class Op:
    """One tbn_op.

    weights, scales, biases: words of the table as int64 or float32. run: consecutive segments under
    one scale (of a pad: channels of zeros before the input's). per_row: each output has a scale of
    its own. bias_unit: the real bias is biases * bias_unit / 2^32 output units (of a pad: the byte
    that stands for 0). wide: outputs are int32. pad: the element outside a map. memory.py sets the
    sizes and the offsets in the arena, in bytes.
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
    bit_order: str
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


def function_of(node: Node) -> str:
    """The C function that runs a node with inputs from one pixel or from a window."""
    return "tbn_linear" if node.window is None else "tbn_window_op"


def _bits(values: Array) -> Array:
    """Any table as uint32 words: float32 by their bits, integers modulo 2^32."""
    if values.dtype == np.float32:
        return values.view(np.uint32).reshape(-1)
    low = values.astype(np.int64) & 0xFFFFFFFF
    return low.astype(np.uint32).reshape(-1)
