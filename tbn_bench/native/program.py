"""Whole networks: a program is a list of ops over values, which one native call runs."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tbn_bench.native.abi import (
    AFFINE,
    CONV,
    EXTREMES,
    GATHER,
    GROUP_SUM,
    INT,
    LAYER_NORM,
    POINTER,
    TOKENS,
    OpStruct,
    ProgramStruct,
    ValueStruct,
    native_array,
)
from tbn_bench.native.levels import index_of, planes_of
from tbn_bench.native.levels import level as chosen_level
from tbn_bench.native.library import kind_numbers, load
from tbn_bench.native.weights import Weights


def padded_size(shape: tuple[int, int, int]) -> int:
    """Floats a value takes in the arena: a whole number of 64-byte lines."""
    height, width, channels = shape
    lines = -(-height * width * channels // 16)
    return lines * 16


@dataclass
class Op:
    """One step of a program: out = kind(in, ...), values by index.

    Convolutions take the value `residual` too (-1: none). coefficients: of GATHER, (rows *
    pieces,), one for each piece of each row; of TOKENS, (T, C), added to all tokens, of which the
    first `rows` are new. CLAMP keeps values between eps and high; ATTENTION and CAUSAL_ATTENTION
    have `rows` heads and the scale eps; SELECT takes position `rows`; GROUP_SUM sums every p
    neighbouring channels.
    """

    kind: str
    input: int
    output: int
    residual: int = -1
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    p: int = 1
    rows: int = 0
    relu: bool = False
    weights: Sequence[Weights] = field(default_factory=list)  # one per group
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    eps: float = 0.0
    high: float = 0.0
    coefficients: np.ndarray | None = None


class Program:
    """A network as a list of ops over values; calling it runs the whole network in one native call.

    shapes: (H, W, C) of every value. inputs, outputs: their indices (default: the first and the
    last). nhwc: the inputs and outputs that the caller keeps as (n, H, W, C); the others are
    (n, C, H, W). offsets: float position of each value in the arena of one image. group: images
    that go through the network together.

    precision of activations where weights are signs: f32 (exact), a14 (rounded to 14 bits, one
    step per image; levels avx512, on CPUs with VNNI, and amx), bf16x2, bf16 (level amx).
    """

    def __init__(
        self,
        ops: Sequence[Op],
        shapes: Sequence[tuple[int, int, int]],
        inputs: Sequence[int] = (0,),
        outputs: Sequence[int] = (-1,),
        nhwc: Sequence[int] = (),
        offsets: Sequence[int] | None = None,
        level: str | None = None,
        group: int = 1,
        precision: str = "f32",
    ):
        self.level = chosen_level(level)
        planes = planes_of(self.level, precision)
        self.ops = list(ops)
        self.shapes = list(shapes)
        self.inputs = [i % len(shapes) for i in inputs]
        self.outputs = [i % len(shapes) for i in outputs]
        self.nhwc = set(nhwc)
        sizes = [padded_size(shape) for shape in shapes]
        if offsets is None:
            offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
        self.floats = max(ends)

        places = zip(self.shapes, offsets, strict=True)
        values = native_array(
            ValueStruct, [ValueStruct(*shape, 0, offset) for shape, offset in places]
        )
        # native arrays that must live as long as the program
        self._keep: list[Any] = []
        steps = native_array(OpStruct, [self._op(op) for op in self.ops])
        lists = [
            native_array(INT, self.inputs),
            native_array(INT, self.outputs),
            native_array(INT, [i in self.nhwc for i in self.inputs]),
            native_array(INT, [i in self.nhwc for i in self.outputs]),
        ]
        pointers = [ctypes.addressof(array) for array in (steps, values, *lists)]
        self._keep += [values, steps, *lists]
        self._program = ProgramStruct(
            len(ops),
            len(shapes),
            len(self.inputs),
            len(self.outputs),
            planes,
            index_of(self.level),
            self.floats,
            group,
            0,
            *pointers,
        )

    def _op(self, op: Op) -> OpStruct:
        groups = max(1, len(op.weights))
        if op.kind in (GATHER, TOKENS):
            coefficients = self._coefficients(op) if op.kind == GATHER else self._table(op)
            pointer = coefficients.ctypes.data
            self._keep.append(coefficients)
        else:
            handles = (POINTER * groups)(*(weights.handle for weights in op.weights))
            pointer = ctypes.addressof(handles)
            self._keep.append(handles)
        scale = self._vector(op, op.scale, 1.0)
        shift = self._vector(op, op.shift, 0.0)
        self._check(op)
        self._keep += [scale, shift, *op.weights]
        return OpStruct(
            kind_numbers()[op.kind],
            op.input,
            op.residual,
            op.output,
            *op.kernel,
            *op.stride,
            *op.padding,
            *op.dilation,
            groups,
            op.p,
            int(op.relu),
            op.rows,
            pointer,
            scale.ctypes.data,
            shift.ctypes.data,
            op.eps,
            op.high,
        )

    def _vector(self, op: Op, values: np.ndarray | None, default: float) -> np.ndarray:
        """Scales or shifts: (channels,), with the 16 floats behind them that kernels may read."""
        channels = self.shapes[op.output][2]
        if values is None:
            vector = np.full(channels, default, np.float32)
        else:
            vector = np.ascontiguousarray(values, np.float32)
        if vector.shape != (channels,):
            raise ValueError(f"expected {channels} scales and shifts, got {vector.shape}")
        return np.concatenate([vector, np.zeros(16, np.float32)])

    def _check(self, op: Op) -> None:
        """The weights must fit the op, its values and the level."""
        groups = len(op.weights)
        in_channels = self.shapes[op.input][2]
        channels = self.shapes[op.output][2]
        for w in op.weights:
            if w.level != self.level:
                raise ValueError(
                    f"weights are laid out for level {w.level}, the program runs {self.level}"
                )
            is_op_shape = w.kernel == op.kernel and w.rows == op.rows
            if not is_op_shape or w.channels * groups != in_channels:
                raise ValueError(f"weights of {w.rows} x {w.channels} x {w.kernel} do not fit {op}")
        if op.kind == CONV and op.rows * op.p * groups != channels:
            raise ValueError(
                f"{groups} groups of {op.p} x {op.rows} rows do not make {channels} channels"
            )
        if op.kind == GROUP_SUM:
            self._check_group_sum(op)

    def _check_group_sum(self, op: Op) -> None:
        source = self.shapes[op.input]
        out = self.shapes[op.output]
        height, width, channels = out
        if source != (height, width, op.p * channels):
            raise ValueError(f"sums of {op.p} channels do not take {source} to {out}")

    def _coefficients(self, op: Op) -> np.ndarray:
        """Of GATHER, checked against its values."""
        h, w, _ = self.shapes[op.input]
        ho, wo, rows = self.shapes[op.output]
        coefficients = _float32(op.coefficients)
        expected = (rows * (w // wo),)
        if h != ho or w % wo or coefficients.shape != expected:
            raise ValueError(
                f"{coefficients.shape} coefficients do not take {(h, w)} pieces to {(ho, wo)} "
                f"times {rows} rows"
            )
        return coefficients

    def _table(self, op: Op) -> np.ndarray:
        """Of TOKENS, checked against its values."""
        table = _float32(op.coefficients)
        _, before, channels = self.shapes[op.input]
        after = self.shapes[op.output]
        if after != (1, op.rows + before, channels) or table.shape != after[1:]:
            raise ValueError(
                f"a table of {table.shape} does not take {before} tokens and {op.rows} more "
                f"to {after}"
            )
        return table

    def weight_bytes(self) -> int:
        """Bytes of weights (as laid out) with their scales and shifts."""
        total = 0
        for op in self.ops:
            total += sum(weights.nbytes for weights in op.weights)
            if op.coefficients is not None:
                total += 4 * op.coefficients.size
            if op.kind in (CONV, AFFINE, LAYER_NORM, EXTREMES, GATHER):
                total += 8 * self.shapes[op.output][2]
        return total

    def run(self, inputs: Sequence[int], outputs: Sequence[int], n: int, threads: int = 1) -> None:
        """By addresses of contiguous float32 arrays of n images. Raises MemoryError."""
        sources = native_array(POINTER, inputs)
        targets = native_array(POINTER, outputs)
        failed = load().tbn_run(ctypes.byref(self._program), sources, targets, n, threads)
        if failed:
            raise MemoryError("no memory for the activations of this network")

    def outside_shape(self, value: int, n: int) -> tuple[int, ...]:
        """Shape of n images of an input or output, as the caller keeps them."""
        h, w, c = self.shapes[value]
        if value in self.nhwc:
            return n, h, w, c
        return n, c, h, w

    def __call__(self, *arrays: np.ndarray, threads: int = 1) -> np.ndarray | list[np.ndarray]:
        """One float32 array per input -> one per output.

        Raises ValueError for a wrong shape or type.
        """
        n = len(arrays[0])
        sources = []
        for x, value in zip(arrays, self.inputs, strict=True):
            shape = self.outside_shape(value, n)
            if x.dtype != np.float32 or x.shape != shape:
                raise ValueError(
                    f"expected float32 input of shape {shape}, got {x.dtype} {x.shape}"
                )
            sources.append(np.ascontiguousarray(x))
        out = []
        for value in self.outputs:
            shape = self.outside_shape(value, n)
            out.append(np.empty(shape, np.float32))
        inputs = [x.ctypes.data for x in sources]
        outputs = [y.ctypes.data for y in out]
        self.run(inputs, outputs, n, threads)
        return out[0] if len(out) == 1 else out


def _float32(values: np.ndarray | None) -> np.ndarray:
    """In float32; None as (0,)."""
    if values is None:
        return np.empty(0, np.float32)
    return np.ascontiguousarray(values, np.float32)
