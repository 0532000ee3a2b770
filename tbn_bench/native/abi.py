"""The binary interface of libtbn_bench: names of ops, and structures as in plan.cpp and tbn.h."""

import ctypes
from collections.abc import Sequence
from typing import Any

# The kinds of ops that Python makes, by their names in ops.inc; library.py asks for the numbers.
# Further activation functions are named by compiler/rules/activations.py alone.
CONV = "conv"
ADD = "add"
RELU = "relu"
MAX_POOL = "max_pool"
AVG_POOL = "avg_pool"
MEAN = "mean"
AFFINE = "affine"
PAD_CHANNELS = "pad_channels"
CHW = "chw"
LAYER_NORM = "layer_norm"
COPY = "copy"
EXTREMES = "extremes"
GATHER = "gather"
CLAMP = "clamp"
ATTENTION = "attention"
CAUSAL_ATTENTION = "causal_attention"
PATCHES = "patches"
TOKENS = "tokens"
SELECT = "select"
GROUP_SUM = "group_sum"

KINDS = (
    CONV,
    ADD,
    RELU,
    MAX_POOL,
    AVG_POOL,
    MEAN,
    AFFINE,
    PAD_CHANNELS,
    CHW,
    LAYER_NORM,
    COPY,
    EXTREMES,
    GATHER,
    CLAMP,
    ATTENTION,
    CAUSAL_ATTENTION,
    PATCHES,
    TOKENS,
    SELECT,
    GROUP_SUM,
)

INT = ctypes.c_int32
LONG = ctypes.c_int64
FLOAT = ctypes.c_float
DOUBLE = ctypes.c_double
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


class NormStruct(ctypes.Structure):
    """NormCall of training.inc; all but sizes, flags and eps are addresses."""

    _fields_ = (
        ("rows", LONG),
        ("channels", INT),
        ("p", INT),
        ("half", INT),
        ("relu", INT),
        ("mixed", INT),
        ("unused", INT),
        ("t", POINTER),
        ("parts", POINTER),
        ("residual", POINTER),
        ("out", POINTER),
        ("passes", POINTER),
        ("a", POINTER),
        ("b", POINTER),
        ("gradient", POINTER),
        ("masked", POINTER),
        ("total", POINTER),
        ("center", POINTER),
        ("sums", POINTER),
        ("products", POINTER),
        ("k0", POINTER),
        ("k1", POINTER),
        ("k2", POINTER),
        ("full", POINTER),
        ("small", POINTER),
        ("alpha", POINTER),
        ("gamma", POINTER),
        ("beta", POINTER),
        ("mean", POINTER),
        ("variance", POINTER),
        ("channel_mean", POINTER),
        ("channel_variance", POINTER),
        ("eps", DOUBLE),
        ("d_alpha", POINTER),
        ("d_gamma", POINTER),
        ("d_beta", POINTER),
    )


class SignConvStruct(ctypes.Structure):
    """SignConvCall of training.inc; the first five are addresses."""

    _fields_ = (
        ("x", POINTER),
        ("g", POINTER),
        ("out", POINTER),
        ("tile", POINTER),
        ("images", LONG),
        ("H", INT),
        ("W", INT),
        ("C", INT),
        ("Ho", INT),
        ("Wo", INT),
        ("R", INT),
        ("kh", INT),
        ("kw", INT),
        ("stride", INT),
        ("pad", INT),
        ("groups", INT),
        ("threads", INT),
        ("mixed", INT),
        ("unused", INT),
    )


class HadamardStruct(ctypes.Structure):
    """HadamardCall of training.inc; the first two are addresses."""

    _fields_ = (
        ("weight", POINTER),
        ("tile", POINTER),
        ("rows", LONG),
        ("length", LONG),
        ("p", LONG),
    )


def native_array(kind: Any, entries: Sequence[Any]) -> Any:
    """A native array."""
    return (kind * len(entries))(*entries)
