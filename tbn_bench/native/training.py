"""Batch norm of training behind a tile (training.inc), by addresses of the caller's memory."""

import ctypes

from tbn_bench.native.abi import NormStruct
from tbn_bench.native.levels import index_of
from tbn_bench.native.library import NativeUnavailable, load


def takes(channels: int, p: int) -> bool:
    """Whether there is code for p copies of `channels` channels.

    False where the library was not built.
    """
    try:
        lib = load()
    except NativeUnavailable:
        return False
    return bool(lib.tbn_norm_takes(channels, p))


def forward(call: NormStruct, level: str) -> None:
    """Writes mean, variance, channel_mean, channel_variance and out."""
    load().tbn_norm_forward(index_of(level), ctypes.byref(call))


def backward(call: NormStruct, level: str) -> None:
    """Writes the gradients that have an address."""
    load().tbn_norm_backward(index_of(level), ctypes.byref(call))
