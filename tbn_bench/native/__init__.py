"""libtbn_bench by ctypes: sign convolutions by instruction set ("level"), and whole networks as one call.

The library is optional: without it `load` raises NativeUnavailable and the rest of the package runs on torch. A level is chosen at
run time: the best one the CPU has, after it has reproduced the portable level's results here, or the one named by the environment
variable TBN_BENCH_LEVEL (generic, avx2, avx512, amx). tbn.h states the arithmetic.
"""

import ctypes
import functools
import os
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import numpy as np

LEVEL_VARIABLE = "TBN_BENCH_LEVEL"
LIBRARY_VARIABLE = "TBN_BENCH_LIBRARY"  # path of another build, e.g. one with sanitizers
(
    CONV, ADD, RELU, MAX_POOL, AVG_POOL, MEAN, AFFINE, PAD_CHANNELS, CHW, LAYER_NORM, COPY, EXTREMES, GATHER,
    CLAMP, GELU, ATTENTION, PATCHES, TOKENS, SELECT, GROUP_SUM,
) = range(20)  # fmt: skip
_NAMES = ("libtbn_bench.so", "libtbn_bench.dylib")
PRECISIONS = {"f32": 3, "a14": 14, "bf16x2": 2, "bf16": 1}  # name -> Plan.planes of the C library
SELF_TEST_TOLERANCE = 1e-5  # of the largest value, between two float32 summation orders


class NativeUnavailable(RuntimeError):
    """The compiled library, or the level asked for, is not to be had here; the message says why."""


class _Op(ctypes.Structure):
    _fields_ = [
        *(
            (n, ctypes.c_int32)
            for n in [
                "kind",
                "in_",
                "in2",
                "out",
                "kh",
                "kw",
                "sh",
                "sw",
                "ph",
                "pw",
                "dh",
                "dw",
                "groups",
                "p",
                "relu",
                "R",
            ]
        ),
        *((n, ctypes.c_void_p) for n in ("weights", "scale", "shift")),
        ("eps", ctypes.c_float),
        ("high", ctypes.c_float),
    ]


class _Value(ctypes.Structure):
    _fields_ = [*((n, ctypes.c_int32) for n in ("H", "W", "C", "pad")), ("offset", ctypes.c_int64)]


class _Plan(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_int32) for n in ("ops", "values", "inputs", "outputs", "planes", "level")),
        ("floats", ctypes.c_int64),
        ("group", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        *(
            (n, ctypes.c_void_p)
            for n in ("op", "value", "input", "output", "input_is_nhwc", "output_is_nhwc")
        ),
    ]


def library() -> Path:
    """Path of the library: beside this file, or where the installed package keeps it (an editable install keeps them apart)."""
    if os.environ.get(LIBRARY_VARIABLE):
        return Path(os.environ[LIBRARY_VARIABLE])
    for name in _NAMES:
        if (Path(__file__).parent / name).exists():
            return Path(__file__).parent / name
    try:
        recorded = files("tbn-bench") or []
    except PackageNotFoundError:
        recorded = []
    for entry in recorded:
        if entry.name in _NAMES and Path(str(entry.locate())).exists():
            return Path(str(entry.locate()))
    raise NativeUnavailable(
        "the native kernels were not built (no C++17 compiler at installation?); install one and run: pip install --force-reinstall "
        "--no-deps -e . ; until then every network runs on torch"
    )


@functools.cache
def load() -> ctypes.CDLL:
    """The library, with its signatures set. Raises NativeUnavailable, saying why."""
    path = library()
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeUnavailable(f"{path} cannot be loaded: {error}") from error
    lib.tbn_level_name.restype = ctypes.c_char_p
    lib.tbn_prepare.restype = ctypes.c_void_p
    lib.tbn_prepare.argtypes = [ctypes.c_int] * 6 + [ctypes.c_void_p] * 2
    lib.tbn_free.argtypes = [ctypes.c_void_p]
    lib.tbn_free.restype = None
    lib.tbn_weight_bytes.argtypes = [ctypes.c_void_p]
    lib.tbn_weight_bytes.restype = ctypes.c_int64
    lib.tbn_run.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64, ctypes.c_int]
    lib.tbn_peak.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64]
    lib.tbn_peak.restype = ctypes.c_int64
    lib.tbn_read.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    lib.tbn_read.restype = ctypes.c_double
    same = hasattr(lib, "tbn_op_kinds") and lib.tbn_op_kinds() == GROUP_SUM + 1
    for name, structure in (("op", _Op), ("value", _Value), ("plan", _Plan)):
        same = same and getattr(lib, f"tbn_sizeof_{name}")() == ctypes.sizeof(structure)
    if not same:
        raise NativeUnavailable(
            f"{path} belongs to another version of tbn_bench; reinstall the package (make venv)"
        )
    return lib


def levels() -> list[str]:
    """Names of the levels this CPU can run, fastest first. Raises NativeUnavailable."""
    lib = load()
    return [
        lib.tbn_level_name(i).decode()
        for i in range(lib.tbn_level_count())
        if lib.tbn_level_available(i)
    ]


def _index(name: str) -> int:
    lib = load()
    known = [lib.tbn_level_name(i).decode() for i in range(lib.tbn_level_count())]
    if name not in known:
        raise NativeUnavailable(f"unknown level {name!r}; this build has {', '.join(known)}")
    if name not in levels():
        raise NativeUnavailable(f"this CPU cannot run level {name!r}; it has {', '.join(levels())}")
    return known.index(name)


@functools.cache
def _trusted(name: str) -> bool:
    """True where the level computes what the portable one does, on convolutions that meet its vector and scalar ends."""
    return name == "generic" or all(
        _agrees(name, channels, stride) for channels, stride in ((37, 1), (64, 1), (64, 2))
    )


def _agrees(name: str, channels: int, stride: int) -> bool:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, channels, 9, 11), dtype=np.float32)
    signs = rng.integers(0, 256, (19 * channels * 9 + 7) // 8, dtype=np.uint8)
    shapes = [(9, 11, channels), (8 // stride + 1, 10 // stride + 1, 38)]
    scale, shift = (
        np.linspace(0.5, 1, 38, dtype=np.float32),
        np.linspace(-1, 1, 38, dtype=np.float32),
    )
    found = []
    for level in (name, "generic"):
        weights = SignWeights(signs, 19, channels, 3, 3, level)
        conv = Op(
            CONV, 0, 1, kernel=(3, 3), stride=(stride, stride), padding=(1, 1), p=2, rows=19, weights=[weights], scale=scale, shift=shift
        )  # fmt: skip
        found.append(Plan([conv], shapes, level=level)(x))
    return bool(np.abs(found[0] - found[1]).max() <= SELF_TEST_TOLERANCE * np.abs(found[1]).max())


def level(name: str | None = None) -> str:
    """The level to run: `name`, else $TBN_BENCH_LEVEL, else the best one that passes its self-test. Raises NativeUnavailable."""
    name = name or os.environ.get(LEVEL_VARIABLE)
    if name:
        _index(name)
        return name
    return next(known for known in levels() if _trusted(known))


def padded_size(shape: tuple[int, int, int]) -> int:
    """Floats a value takes in the arena: a whole number of 64-byte lines."""
    return -(-shape[0] * shape[1] * shape[2] // 16) * 16


def _planes(level: str, precision: str) -> int:
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if not load().tbn_planes_available(_index(level), PRECISIONS[precision]):
        raise NativeUnavailable(f"level {level} has no precision {precision} on this CPU")
    return PRECISIONS[precision]


class _Weights:
    def __init__(
        self,
        kind: int,
        rows: int,
        channels: int,
        kh: int,
        kw: int,
        bits: Any,
        dense: Any,
        name: str | None,
    ):
        self.level = level(name)
        self.rows, self.channels, self.kernel = rows, channels, (kh, kw)
        pointers = [None if a is None else a.ctypes.data for a in (bits, dense)]
        self.handle = load().tbn_prepare(
            _index(self.level), kind, rows, channels, kh, kw, *pointers
        )
        if not self.handle:
            raise MemoryError(f"no memory for weights of {rows} x {channels} x {kh} x {kw}")
        weakref.finalize(self, load().tbn_free, self.handle)

    @property
    def nbytes(self) -> int:
        """Bytes this level keeps of the weights."""
        return int(load().tbn_weight_bytes(self.handle))


class SignWeights(_Weights):
    """+-1 weights of shape (rows, channels, kh, kw) from packed bits (bits.py's order), laid out for one level."""

    def __init__(
        self,
        bits: np.ndarray,
        rows: int,
        channels: int,
        kh: int = 1,
        kw: int = 1,
        name: str | None = None,
    ):
        wanted = (rows * channels * kh * kw + 7) // 8
        if bits.dtype != np.uint8 or bits.shape != (wanted,):
            raise ValueError(
                f"expected uint8 bits of shape ({wanted},), got {bits.dtype} {bits.shape}"
            )
        super().__init__(0, rows, channels, kh, kw, np.ascontiguousarray(bits), None, name)


class FloatWeights(_Weights):
    """float32 weights of shape (rows, channels, kh, kw), laid out for one level."""

    def __init__(self, weight: np.ndarray, name: str | None = None):
        if weight.ndim != 4:
            raise ValueError(
                f"expected weights of shape (rows, channels, kh, kw), got {weight.shape}"
            )
        super().__init__(1, *weight.shape, None, np.ascontiguousarray(weight, np.float32), name)


class DepthwiseWeights(_Weights):
    """float32 kernels of shape (channels, 1, kh, kw), one for each channel, laid out for one level."""

    def __init__(self, weight: np.ndarray, name: str | None = None):
        if weight.ndim != 4 or weight.shape[1] != 1:
            raise ValueError(f"expected kernels of shape (channels, 1, kh, kw), got {weight.shape}")
        channels, _, kh, kw = weight.shape
        super().__init__(
            2, channels, channels, kh, kw, None, np.ascontiguousarray(weight, np.float32), name
        )


@dataclass
class Op:
    """One step of a plan: out = kind(in, ...), values by index. Convolutions take the value `residual` too (-1: none).

    coefficients: of GATHER, (rows * pieces,), one for each piece of each row; of TOKENS, (T, C), what is added to all tokens, of which the
    first `rows` are new. CLAMP keeps values between eps and high; ATTENTION has `rows` heads and the scale eps; SELECT takes position `rows`;
    GROUP_SUM sums every p neighbouring channels.
    """

    kind: int
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
    weights: Sequence[_Weights] = field(default_factory=list)  # one per group
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    eps: float = 0.0
    high: float = 0.0
    coefficients: np.ndarray | None = None


class Plan:
    """A network as a list of ops over values; calling it runs the whole network in one native call.

    shapes: (H, W, C) of every value. inputs, outputs: their indices (default: the first and the last). nhwc: the inputs and outputs
    that lie as (n, H, W, C) outside; the others as (n, C, H, W). offsets: float position of each value in the arena of one image.
    group: images that go through the network together. precision of activations where weights are signs: f32 (exact), a14 (rounded to
    14 bits, one step per image; levels avx512, on CPUs with VNNI, and amx), bf16x2, bf16 (level amx).
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
        self.level = globals()["level"](level)
        planes = _planes(self.level, precision)
        self.ops, self.shapes = list(ops), list(shapes)
        self.inputs, self.outputs = (
            [i % len(shapes) for i in inputs],
            [i % len(shapes) for i in outputs],
        )
        self.nhwc = set(nhwc)
        sizes = [padded_size(s) for s in shapes]
        if offsets is None:
            offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        self.floats = max(o + s for o, s in zip(offsets, sizes, strict=True))
        self._keep: list[Any] = []
        values = (_Value * len(shapes))(
            *(_Value(*s, 0, o) for s, o in zip(shapes, offsets, strict=True))
        )
        steps = (_Op * len(ops))(*(self._op(op) for op in ops))
        lists = [
            self.inputs,
            self.outputs,
            [i in self.nhwc for i in self.inputs],
            [i in self.nhwc for i in self.outputs],
        ]
        arrays = [(ctypes.c_int32 * len(entries))(*entries) for entries in lists]
        self._keep += [values, steps, *arrays]
        self._plan = _Plan(
            len(ops), len(shapes), len(self.inputs), len(self.outputs), planes, _index(self.level), self.floats, group, 0,
            *(ctypes.addressof(a) for a in (steps, values, *arrays)),
        )  # fmt: skip

    def _op(self, op: Op) -> _Op:
        handles = (ctypes.c_void_p * max(1, len(op.weights)))(*(w.handle for w in op.weights))
        pointer, channels = ctypes.addressof(handles), self.shapes[op.output][2]
        if op.kind in (GATHER, TOKENS):
            coefficients = self._coefficients(op) if op.kind == GATHER else self._table(op)
            pointer = coefficients.ctypes.data
            self._keep.append(coefficients)
        vectors = []
        for values, default in ((op.scale, 1.0), (op.shift, 0.0)):
            vector = (
                np.full(channels, default, np.float32)
                if values is None
                else np.ascontiguousarray(values, np.float32)
            )
            if vector.shape != (channels,):
                raise ValueError(f"expected {channels} scales and shifts, got {vector.shape}")
            vectors.append(np.concatenate([vector, np.zeros(16, np.float32)]))
        for w in op.weights:
            if w.level != self.level:
                raise ValueError(
                    f"weights are laid out for level {w.level}, the plan runs {self.level}"
                )
            if (
                w.kernel != op.kernel
                or w.rows != op.rows
                or w.channels * len(op.weights) != self.shapes[op.input][2]
            ):
                raise ValueError(f"weights of {w.rows} x {w.channels} x {w.kernel} do not fit {op}")
        if op.kind == CONV and op.rows * op.p * len(op.weights) != channels:
            raise ValueError(
                f"{len(op.weights)} groups of {op.p} x {op.rows} rows do not make {channels} channels"
            )
        if op.kind == GROUP_SUM:
            self._check_group_sum(op)
        self._keep += [handles, *vectors, *op.weights]
        return _Op(
            op.kind, op.input, op.residual, op.output, *op.kernel, *op.stride, *op.padding, *op.dilation,
            max(1, len(op.weights)), op.p, int(op.relu), op.rows, pointer, *(v.ctypes.data for v in vectors),
            op.eps, op.high,
        )  # fmt: skip

    def _check_group_sum(self, op: Op) -> None:
        source, out = self.shapes[op.input], self.shapes[op.output]
        if source != (*out[:2], op.p * out[2]):
            raise ValueError(f"sums of {op.p} channels do not take {source} to {out}")

    def _coefficients(self, op: Op) -> np.ndarray:
        """Of GATHER, checked against its values."""
        (h, w, _), (ho, wo, rows) = self.shapes[op.input], self.shapes[op.output]
        coefficients = np.ascontiguousarray(
            [] if op.coefficients is None else op.coefficients, np.float32
        )
        if h != ho or w % wo or coefficients.shape != (rows * (w // wo),):
            raise ValueError(
                f"{coefficients.shape} coefficients do not take {(h, w)} pieces to {(ho, wo)} times {rows} rows"
            )
        return coefficients

    def _table(self, op: Op) -> np.ndarray:
        """Of TOKENS, checked against its values."""
        table = np.ascontiguousarray([] if op.coefficients is None else op.coefficients, np.float32)
        (_, before, channels), after = self.shapes[op.input], self.shapes[op.output]
        if after != (1, op.rows + before, channels) or table.shape != after[1:]:
            raise ValueError(
                f"a table of {table.shape} does not take {before} tokens and {op.rows} more to {after}"
            )
        return table

    def weight_bytes(self) -> int:
        """Bytes of weights (as laid out) with their scales and shifts."""
        laid_out = sum(w.nbytes for op in self.ops for w in op.weights)
        coefficients = sum(
            4 * op.coefficients.size for op in self.ops if op.coefficients is not None
        )
        return (
            laid_out
            + coefficients
            + sum(
                8 * self.shapes[op.output][2]
                for op in self.ops
                if op.kind in (CONV, AFFINE, LAYER_NORM, EXTREMES, GATHER)
            )
        )

    def run(self, inputs: Sequence[int], outputs: Sequence[int], n: int, threads: int = 1) -> None:
        """By addresses of contiguous float32 arrays of n images. Raises MemoryError."""
        pointers = [
            (ctypes.c_void_p * len(addresses))(*addresses) for addresses in (inputs, outputs)
        ]
        if load().tbn_run(ctypes.byref(self._plan), *pointers, n, threads):
            raise MemoryError("no memory for the activations of this network")

    def outside_shape(self, value: int, n: int) -> tuple[int, ...]:
        """Shape of n images of an input or output as it lies outside."""
        h, w, c = self.shapes[value]
        return (n, h, w, c) if value in self.nhwc else (n, c, h, w)

    def __call__(self, *arrays: np.ndarray, threads: int = 1) -> np.ndarray | list[np.ndarray]:
        """One float32 array per input -> one per output. Raises ValueError for a wrong shape or type."""
        n = len(arrays[0])
        for x, value in zip(arrays, self.inputs, strict=True):
            if x.dtype != np.float32 or x.shape != self.outside_shape(value, n):
                raise ValueError(
                    f"expected float32 input of shape {self.outside_shape(value, n)}, got {x.dtype} {x.shape}"
                )
        arrays = tuple(np.ascontiguousarray(x) for x in arrays)
        out = [np.empty(self.outside_shape(v, n), np.float32) for v in self.outputs]
        self.run([x.ctypes.data for x in arrays], [y.ctypes.data for y in out], n, threads)
        return out[0] if len(out) == 1 else out


def peak(kind: str, name: str | None = None, seconds: float = 0.2) -> float | None:
    """Multiply-adds per second of one thread, in 1e9, with data for free; the best of several tries. kind: "fma", "lookup" (exact table
    lookups of AVX-512), "matrix" or "matrix_a14" (AMX, float32 in three passes, 14 bits in two). None where the level has no such arithmetic."""
    index, number, n, best = (
        _index(level(name)),
        ("fma", "lookup", "matrix", "matrix_a14").index(kind),
        20_000,
        0.0,
    )
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        start = time.thread_time()
        macs = load().tbn_peak(index, number, n)
        if not macs:
            return None
        best = max(best, macs / (time.thread_time() - start) / 1e9)
    return best


def bandwidth(megabytes: float, seconds: float = 0.3) -> float:
    """Gigabytes per second that one thread reads from an array of this size; the best of several tries."""
    array, best = np.ones(int(megabytes * 131072)), 0.0
    stop = time.perf_counter() + seconds
    repeats = max(1, int(64 / megabytes))
    while time.perf_counter() < stop:
        start = time.thread_time()
        load().tbn_read(array.ctypes.data, array.size, repeats)
        best = max(best, repeats * array.nbytes / (time.thread_time() - start) / 1e9)
    return best
