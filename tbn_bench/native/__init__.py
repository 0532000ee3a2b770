"""libtbn_bench by ctypes: sign convolutions by instruction set ("level"), and whole networks.

The library is optional: without it `load` raises NativeUnavailable and the rest of the package runs
on torch. tbn.h states the arithmetic.
"""

from tbn_bench.native.abi import (
    ADD,
    AFFINE,
    ATTENTION,
    AVG_POOL,
    CAUSAL_ATTENTION,
    CHW,
    CLAMP,
    CONV,
    COPY,
    EXTREMES,
    GATHER,
    GROUP_SUM,
    LAYER_NORM,
    MAX_POOL,
    MEAN,
    PAD_CHANNELS,
    PATCHES,
    RELU,
    SELECT,
    TOKENS,
)
from tbn_bench.native.ceilings import bandwidth, peak
from tbn_bench.native.levels import LEVEL_VARIABLE, PRECISIONS, available_levels, level
from tbn_bench.native.library import LIBRARY_VARIABLE, NativeUnavailable, library_path, load
from tbn_bench.native.program import Op, Program, padded_size
from tbn_bench.native.weights import DepthwiseWeights, FloatWeights, SignWeights

__all__ = [
    "ADD",
    "AFFINE",
    "ATTENTION",
    "AVG_POOL",
    "CAUSAL_ATTENTION",
    "CHW",
    "CLAMP",
    "CONV",
    "COPY",
    "EXTREMES",
    "GATHER",
    "GROUP_SUM",
    "LAYER_NORM",
    "LEVEL_VARIABLE",
    "LIBRARY_VARIABLE",
    "MAX_POOL",
    "MEAN",
    "PAD_CHANNELS",
    "PATCHES",
    "PRECISIONS",
    "RELU",
    "SELECT",
    "TOKENS",
    "DepthwiseWeights",
    "FloatWeights",
    "NativeUnavailable",
    "Op",
    "Program",
    "SignWeights",
    "available_levels",
    "bandwidth",
    "level",
    "library_path",
    "load",
    "padded_size",
    "peak",
]
