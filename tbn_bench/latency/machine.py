"""The best speeds of this machine: the ceilings that a kernel's speed is a share of."""

import functools
from typing import Any

from tbn_bench import native


@functools.cache
def ceilings() -> dict[str, Any]:
    """Of one thread; {} without the native library.

    Multiply-adds (1e9 / s) by FMA, by table lookup and by the matrix unit (None: this level has
    none), and read bandwidth (GB / s) by size.
    """
    try:
        level = native.level()
    except native.NativeUnavailable:
        return {}
    return {
        "level": level,
        "levels": native.available_levels(),
        "fma_gmacs": native.peak("fma"),
        "lookup_gmacs": native.peak("lookup"),
        "matrix_gmacs": native.peak("matrix"),
        "matrix_a14_gmacs": native.peak("matrix_a14"),
        "read_gb_s": _bandwidths(),
    }


def _bandwidths() -> dict[str, float]:
    """GB / s by the size of the block that is read."""
    found = {}
    for mb in (0.25, 8, 256):
        found[f"{mb:g} MB"] = round(native.bandwidth(mb), 1)
    return found
