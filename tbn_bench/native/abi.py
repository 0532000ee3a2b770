"""The binary interface of libtbn_bench: kinds of ops and structures, as in plan.cpp and tbn.h."""

import ctypes
from collections.abc import Sequence
from typing import Any

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

INT = ctypes.c_int32
LONG = ctypes.c_int64
FLOAT = ctypes.c_float
POINTER = ctypes.c_void_p


class OpStruct(ctypes.Structure):
    _fields_ = (
        ("kind", INT),
        ("in_", INT),
        ("in2", INT),
        ("out", INT),
        ("kh", INT),
        ("kw", INT),
        ("sh", INT),
        ("sw", INT),
        ("ph", INT),
        ("pw", INT),
        ("dh", INT),
        ("dw", INT),
        ("groups", INT),
        ("p", INT),
        ("relu", INT),
        ("R", INT),
        ("weights", POINTER),
        ("scale", POINTER),
        ("shift", POINTER),
        ("eps", FLOAT),
        ("high", FLOAT),
    )


class ValueStruct(ctypes.Structure):
    _fields_ = (
        ("H", INT),
        ("W", INT),
        ("C", INT),
        ("pad", INT),
        ("offset", LONG),
    )


class ProgramStruct(ctypes.Structure):
    _fields_ = (
        ("ops", INT),
        ("values", INT),
        ("inputs", INT),
        ("outputs", INT),
        ("planes", INT),
        ("level", INT),
        ("floats", LONG),
        ("group", INT),
        ("reserved", INT),
        ("op", POINTER),
        ("value", POINTER),
        ("input", POINTER),
        ("output", POINTER),
        ("input_is_nhwc", POINTER),
        ("output_is_nhwc", POINTER),
    )


def native_array(kind: Any, entries: Sequence[Any]) -> Any:
    """A native array."""
    return (kind * len(entries))(*entries)
