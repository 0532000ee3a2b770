"""libtbn_bench by ctypes: sign convolutions by instruction set ("level"), and whole networks.

The library is optional: without it `load` raises NativeUnavailable and the rest of the package runs
on torch. The environment variable TBN_BENCH_LEVEL (generic, avx2, avx512, amx) names the level.
Without it the level is chosen at run time: the best one the CPU has, after it has reproduced the
portable level's results. tbn.h states the arithmetic.
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
# kinds of an op, OpKind of plan.cpp
CONV = 0
ADD = 1
RELU = 2
MAX_POOL = 3
AVG_POOL = 4
MEAN = 5
AFFINE = 6
PAD_CHANNELS = 7
CHW = 8
LAYER_NORM = 9
COPY = 10
EXTREMES = 11
GATHER = 12
CLAMP = 13
GELU = 14
ATTENTION = 15
PATCHES = 16
TOKENS = 17
SELECT = 18
GROUP_SUM = 19
_NAMES = ("libtbn_bench.so", "libtbn_bench.dylib")
PRECISIONS = {"f32": 3, "a14": 14, "bf16x2": 2, "bf16": 1}  # name -> Plan.planes of the C library
SELF_TEST_TOLERANCE = 1e-5  # of the largest value, between two float32 summation orders


class NativeUnavailable(RuntimeError):
    """The compiled library, or the level asked for, is not to be had here; the message says why."""


_INT = ctypes.c_int32
_LONG = ctypes.c_int64
_FLOAT = ctypes.c_float
_POINTER = ctypes.c_void_p


class _Op(ctypes.Structure):
    _fields_ = (
        ("kind", _INT),
        ("in_", _INT),
        ("in2", _INT),
        ("out", _INT),
        ("kh", _INT),
        ("kw", _INT),
        ("sh", _INT),
        ("sw", _INT),
        ("ph", _INT),
        ("pw", _INT),
        ("dh", _INT),
        ("dw", _INT),
        ("groups", _INT),
        ("p", _INT),
        ("relu", _INT),
        ("R", _INT),
        ("weights", _POINTER),
        ("scale", _POINTER),
        ("shift", _POINTER),
        ("eps", _FLOAT),
        ("high", _FLOAT),
    )


class _Value(ctypes.Structure):
    _fields_ = (
        ("H", _INT),
        ("W", _INT),
        ("C", _INT),
        ("pad", _INT),
        ("offset", _LONG),
    )


class _Plan(ctypes.Structure):
    _fields_ = (
        ("ops", _INT),
        ("values", _INT),
        ("inputs", _INT),
        ("outputs", _INT),
        ("planes", _INT),
        ("level", _INT),
        ("floats", _LONG),
        ("group", _INT),
        ("reserved", _INT),
        ("op", _POINTER),
        ("value", _POINTER),
        ("input", _POINTER),
        ("output", _POINTER),
        ("input_is_nhwc", _POINTER),
        ("output_is_nhwc", _POINTER),
    )


def library() -> Path:
    """Path of the library: beside this file, or in the installed package.

    An editable install keeps the two apart.
    """
    given = os.environ.get(LIBRARY_VARIABLE)
    if given:
        return Path(given)
    for name in _NAMES:
        path = Path(__file__).parent / name
        if path.exists():
            return path
    try:
        recorded = files("tbn-bench") or []
    except PackageNotFoundError:
        recorded = []
    for entry in recorded:
        if entry.name not in _NAMES:
            continue
        path = Path(str(entry.locate()))
        if path.exists():
            return path
    raise NativeUnavailable(
        "the native kernels were not built (no C++17 compiler at installation?); "
        "install one and run: pip install --force-reinstall --no-deps -e . ; "
        "until then every network runs on torch"
    )


@functools.cache
def load() -> ctypes.CDLL:
    """The library, with its signatures set. Raises NativeUnavailable, saying why."""
    path = library()
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeUnavailable(f"{path} cannot be loaded: {error}") from error
    if not _is_ours(lib):
        raise NativeUnavailable(
            f"{path} belongs to another version of tbn_bench; reinstall the package (make venv)"
        )
    _set_signatures(lib)
    return lib


def _is_ours(lib: ctypes.CDLL) -> bool:
    """True where the library has this version's kinds and structures."""
    if not hasattr(lib, "tbn_op_kinds") or lib.tbn_op_kinds() != GROUP_SUM + 1:
        return False
    structures = {"op": _Op, "value": _Value, "plan": _Plan}
    for name, structure in structures.items():
        size = getattr(lib, f"tbn_sizeof_{name}")()
        if size != ctypes.sizeof(structure):
            return False
    return True


def _set_signatures(lib: ctypes.CDLL) -> None:
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


def _all_levels() -> list[str]:
    """Names of the levels of this build, fastest first."""
    lib = load()
    return [lib.tbn_level_name(i).decode() for i in range(lib.tbn_level_count())]


def levels() -> list[str]:
    """Names of the levels this CPU can run, fastest first. Raises NativeUnavailable."""
    lib = load()
    names = _all_levels()
    return [name for i, name in enumerate(names) if lib.tbn_level_available(i)]


def _index(name: str) -> int:
    known = _all_levels()
    if name not in known:
        raise NativeUnavailable(f"unknown level {name!r}; this build has {', '.join(known)}")
    available = levels()
    if name not in available:
        found = ", ".join(available)
        raise NativeUnavailable(f"this CPU cannot run level {name!r}; it has {found}")
    return known.index(name)


@functools.cache
def _trusted(name: str) -> bool:
    """True where the level reproduces the portable one.

    The convolutions have sizes that meet the level's vector and scalar ends.
    """
    if name == "generic":
        return True
    cases = ((37, 1), (64, 1), (64, 2))
    return all(_agrees(name, channels, stride) for channels, stride in cases)


def _agrees(name: str, channels: int, stride: int) -> bool:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, channels, 9, 11), dtype=np.float32)
    num_bytes = (19 * channels * 9 + 7) // 8
    signs = rng.integers(0, 256, num_bytes, dtype=np.uint8)
    shapes = [(9, 11, channels), (8 // stride + 1, 10 // stride + 1, 38)]
    found = []
    for level in (name, "generic"):
        conv = Op(
            CONV,
            input=0,
            output=1,
            kernel=(3, 3),
            stride=(stride, stride),
            padding=(1, 1),
            p=2,
            rows=19,
            weights=[SignWeights(signs, 19, channels, 3, 3, level)],
            scale=np.linspace(0.5, 1, 38, dtype=np.float32),
            shift=np.linspace(-1, 1, 38, dtype=np.float32),
        )
        plan = Plan([conv], shapes, level=level)
        found.append(plan(x))
    tested, portable = found
    error = np.abs(tested - portable).max()
    return bool(error <= SELF_TEST_TOLERANCE * np.abs(portable).max())


def level(name: str | None = None) -> str:
    """The level to run: `name`, else $TBN_BENCH_LEVEL, else the best that passes its self-test.

    Raises NativeUnavailable.
    """
    name = name or os.environ.get(LEVEL_VARIABLE)
    if name:
        _index(name)
        return name
    return next(known for known in levels() if _trusted(known))


def padded_size(shape: tuple[int, int, int]) -> int:
    """Floats a value takes in the arena: a whole number of 64-byte lines."""
    height, width, channels = shape
    lines = -(-height * width * channels // 16)
    return lines * 16


def _planes(level: str, precision: str) -> int:
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise ValueError(f"precision must be one of {known}, got {precision!r}")
    planes = PRECISIONS[precision]
    if not load().tbn_planes_available(_index(level), planes):
        raise NativeUnavailable(f"level {level} has no precision {precision} on this CPU")
    return planes


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
        self.rows = rows
        self.channels = channels
        self.kernel = (kh, kw)
        self.handle = load().tbn_prepare(
            _index(self.level),
            kind,
            rows,
            channels,
            kh,
            kw,
            _address(bits),
            _address(dense),
        )
        if not self.handle:
            raise MemoryError(f"no memory for weights of {rows} x {channels} x {kh} x {kw}")
        weakref.finalize(self, load().tbn_free, self.handle)

    @property
    def nbytes(self) -> int:
        """Bytes this level keeps of the weights."""
        return int(load().tbn_weight_bytes(self.handle))


def _address(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


class SignWeights(_Weights):
    """+-1 weights of shape (rows, channels, kh, kw), laid out for one level.

    From packed bits, in the order of bits.py.
    """

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
        packed = np.ascontiguousarray(bits)
        super().__init__(0, rows, channels, kh, kw, packed, None, name)


class FloatWeights(_Weights):
    """float32 weights of shape (rows, channels, kh, kw), laid out for one level."""

    def __init__(self, weight: np.ndarray, name: str | None = None):
        if weight.ndim != 4:
            raise ValueError(
                f"expected weights of shape (rows, channels, kh, kw), got {weight.shape}"
            )
        rows, channels, kh, kw = weight.shape
        dense = np.ascontiguousarray(weight, np.float32)
        super().__init__(1, rows, channels, kh, kw, None, dense, name)


class DepthwiseWeights(_Weights):
    """float32 kernels of shape (channels, 1, kh, kw), one per channel, laid out for one level."""

    def __init__(self, weight: np.ndarray, name: str | None = None):
        if weight.ndim != 4 or weight.shape[1] != 1:
            raise ValueError(f"expected kernels of shape (channels, 1, kh, kw), got {weight.shape}")
        channels, _, kh, kw = weight.shape
        dense = np.ascontiguousarray(weight, np.float32)
        super().__init__(2, channels, channels, kh, kw, None, dense, name)


@dataclass
class Op:
    """One step of a plan: out = kind(in, ...), values by index.

    Convolutions take the value `residual` too (-1: none). coefficients: of GATHER, (rows *
    pieces,), one for each piece of each row; of TOKENS, (T, C), added to all tokens, of which the
    first `rows` are new. CLAMP keeps values between eps and high; ATTENTION has `rows` heads and
    the scale eps; SELECT takes position `rows`; GROUP_SUM sums every p neighbouring channels.
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
        self.level = globals()["level"](level)
        planes = _planes(self.level, precision)
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
        values = _array(_Value, [_Value(*shape, 0, offset) for shape, offset in places])
        # native arrays that must live as long as the plan
        self._keep: list[Any] = []
        steps = _array(_Op, [self._op(op) for op in self.ops])
        lists = [
            _array(_INT, self.inputs),
            _array(_INT, self.outputs),
            _array(_INT, [i in self.nhwc for i in self.inputs]),
            _array(_INT, [i in self.nhwc for i in self.outputs]),
        ]
        pointers = [ctypes.addressof(array) for array in (steps, values, *lists)]
        self._keep += [values, steps, *lists]
        self._plan = _Plan(
            len(ops),
            len(shapes),
            len(self.inputs),
            len(self.outputs),
            planes,
            _index(self.level),
            self.floats,
            group,
            0,
            *pointers,
        )

    def _op(self, op: Op) -> _Op:
        groups = max(1, len(op.weights))
        if op.kind in (GATHER, TOKENS):
            coefficients = self._coefficients(op) if op.kind == GATHER else self._table(op)
            pointer = coefficients.ctypes.data
            self._keep.append(coefficients)
        else:
            handles = (_POINTER * groups)(*(weights.handle for weights in op.weights))
            pointer = ctypes.addressof(handles)
            self._keep.append(handles)
        scale = self._vector(op, op.scale, 1.0)
        shift = self._vector(op, op.shift, 0.0)
        self._check(op)
        self._keep += [scale, shift, *op.weights]
        return _Op(
            op.kind,
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
                    f"weights are laid out for level {w.level}, the plan runs {self.level}"
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
        sources = _array(_POINTER, inputs)
        targets = _array(_POINTER, outputs)
        failed = load().tbn_run(ctypes.byref(self._plan), sources, targets, n, threads)
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


def _array(kind: Any, entries: Sequence[Any]) -> Any:
    """A native array."""
    return (kind * len(entries))(*entries)


def _float32(values: np.ndarray | None) -> np.ndarray:
    """In float32; None as (0,)."""
    return np.ascontiguousarray([] if values is None else values, np.float32)


_PEAKS = ("fma", "lookup", "matrix", "matrix_a14")  # Peak of tbn.h
_STEPS = 20_000  # of one try


def peak(kind: str, name: str | None = None, seconds: float = 0.2) -> float | None:
    """Multiply-adds per second of one thread, in 1e9, without memory traffic.

    The best of many tries. kind: "fma", "lookup" (exact table lookups of AVX-512), "matrix" or
    "matrix_a14" (AMX, float32 in three passes, 14 bits in two). None where the level has no such
    arithmetic.
    """
    index = _index(level(name))
    number = _PEAKS.index(kind)
    best = 0.0
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        start = time.thread_time()
        macs = load().tbn_peak(index, number, _STEPS)
        if not macs:
            return None
        elapsed = time.thread_time() - start
        best = max(best, macs / elapsed / 1e9)
    return best


def bandwidth(megabytes: float, seconds: float = 0.3) -> float:
    """Gigabytes per second that one thread reads from an array of this size.

    The best of many tries.
    """
    array = np.ones(int(megabytes * 131072))
    repeats = max(1, int(64 / megabytes))
    best = 0.0
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        start = time.thread_time()
        load().tbn_read(array.ctypes.data, array.size, repeats)
        elapsed = time.thread_time() - start
        best = max(best, repeats * array.nbytes / elapsed / 1e9)
    return best
