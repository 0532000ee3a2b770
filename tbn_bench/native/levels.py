"""Instruction sets ("levels") of this build and this CPU, and the choice among them.

The environment variable TBN_BENCH_LEVEL (generic, avx2, avx512, amx) names the level. Without it
the level is the best one that the CPU has and that reproduces the portable level's results.
"""

import functools
import os

import numpy as np

from tbn_bench.native.abi import CONV
from tbn_bench.native.library import NativeUnavailable, load

LEVEL_VARIABLE = "TBN_BENCH_LEVEL"
PRECISIONS = {"f32": 3, "a14": 14, "bf16x2": 2, "bf16": 1}  # name -> Plan.planes of the C library
SELF_TEST_TOLERANCE = 1e-5  # of the largest value, between two float32 summation orders


def all_levels() -> list[str]:
    """Names of the levels of this build, fastest first."""
    lib = load()
    return [lib.tbn_level_name(i).decode() for i in range(lib.tbn_level_count())]


def available_levels() -> list[str]:
    """Names of the levels this CPU can run, fastest first. Raises NativeUnavailable."""
    lib = load()
    names = all_levels()
    return [name for i, name in enumerate(names) if lib.tbn_level_available(i)]


def index_of(name: str) -> int:
    known = all_levels()
    if name not in known:
        built = ", ".join(known)
        raise NativeUnavailable(f"unknown level {name!r}; this build has {built}")
    available = available_levels()
    if name not in available:
        found = ", ".join(available)
        raise NativeUnavailable(f"this CPU cannot run level {name!r}; it has {found}")
    return known.index(name)


@functools.cache
def is_trusted(name: str) -> bool:
    """True where the level reproduces the portable one.

    The convolutions have sizes that meet the level's vector and scalar ends.
    """
    if name == "generic":
        return True
    cases = ((37, 1), (64, 1), (64, 2))
    return all(_agrees(name, channels, stride) for channels, stride in cases)


def _agrees(name: str, channels: int, stride: int) -> bool:
    """Whether a convolution at this level equals the one at the portable level."""
    # imported here, because a program is made for a level
    from tbn_bench.native.program import Op, Program
    from tbn_bench.native.weights import SignWeights

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
        program = Program([conv], shapes, level=level)
        out = program(x)
        assert isinstance(out, np.ndarray)
        found.append(out)
    tested, portable = found
    error = np.abs(tested - portable).max()
    return bool(error <= SELF_TEST_TOLERANCE * np.abs(portable).max())


def level(name: str | None = None) -> str:
    """The level to run: `name`, else $TBN_BENCH_LEVEL, else the best that passes its self-test.

    Raises NativeUnavailable.
    """
    name = name or os.environ.get(LEVEL_VARIABLE)
    if name:
        index_of(name)
        return name
    return next(known for known in available_levels() if is_trusted(known))


def planes_of(level: str, precision: str) -> int:
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise ValueError(f"precision must be one of {known}, got {precision!r}")
    planes = PRECISIONS[precision]
    index = index_of(level)
    if not load().tbn_planes_available(index, planes):
        raise NativeUnavailable(f"level {level} has no precision {precision} on this CPU")
    return planes
