"""The most that one thread can do here: multiply-adds per second and bytes read per second."""

import time

import numpy as np

from tbn_bench.native.levels import index_of, level
from tbn_bench.native.library import load

_PEAKS = ("fma", "lookup", "matrix", "matrix_a14")  # Peak of tbn.h
_STEPS = 20_000  # of one try


def peak(kind: str, name: str | None = None, seconds: float = 0.2) -> float | None:
    """Multiply-adds per second of one thread, in 1e9, without memory traffic.

    The best of many tries. kind: "fma", "lookup" (exact table lookups of AVX-512), "matrix" or
    "matrix_a14" (AMX, float32 in three passes, 14 bits in two). None where the level has no such
    arithmetic.
    """
    index = index_of(level(name))
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
