"""Intervals over seeds. Pure functions of one-dimensional arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit


@dataclass(frozen=True)
class Interval:
    """mean +- half (95 %) of n values; half is None where n < 2: one run has no interval."""

    mean: float
    half: float | None
    n: int


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's interval of the mean: t_{(1 + confidence) / 2, n - 1} * s / sqrt(n), s with n - 1 degrees of freedom.

    values: (n,) finite numbers. Raises ValueError for none.
    """
    x = np.asarray(values, dtype=float)
    if x.size == 0 or not np.isfinite(x).all():
        raise ValueError(f"expected at least one value, all finite, got {list(values)!r}")
    if x.size == 1:
        return Interval(float(x[0]), None, 1)
    half = float(stdtrit(x.size - 1, (1 + confidence) / 2) * x.std(ddof=1) / np.sqrt(x.size))
    return Interval(float(x.mean()), half, x.size)
