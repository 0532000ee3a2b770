"""What this machine could do at best: the ceilings that a kernel's speed is a share of."""

import functools
from typing import Any

from tbn_bench import native


@functools.cache
def ceilings() -> dict[str, Any]:
    """Of one thread: multiply-adds (1e9 / s) by FMA, by table lookup and by the matrix unit (None: this level has none), read bandwidth
    (GB / s) by size; {} without the native library."""
    try:
        level = native.level()
    except native.NativeUnavailable:
        return {}
    return {
        "level": level,
        "levels": native.levels(),
        "fma_gmacs": native.peak("fma"),
        "lookup_gmacs": native.peak("lookup"),
        "matrix_gmacs": native.peak("matrix"),
        "matrix_a14_gmacs": native.peak("matrix_a14"),
        "read_gb_s": {f"{mb:g} MB": round(native.bandwidth(mb), 1) for mb in (0.25, 8, 256)},
    }
