"""Intervals and tests over seeds of one task. Pure functions; spread.py is across tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit


@dataclass(frozen=True)
class Interval:
    """mean +- half (95 %) of n values; half is None if n < 2, because one run has no interval."""

    mean: float
    half: float | None
    n: int


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's interval of the mean: t_{(1 + confidence) / 2, n - 1} * s / sqrt(n).

    s has n - 1 degrees of freedom. values: (n,) finite numbers. Raises ValueError if there is no
    value, or one is not finite.
    """
    x = np.asarray(values, dtype=float)
    n = x.size
    if n == 0 or not np.isfinite(x).all():
        raise ValueError(f"expected at least one value, all finite, got {list(values)!r}")
    mean = float(x.mean())
    if n == 1:
        return Interval(mean, None, 1)
    quantile = stdtrit(n - 1, (1 + confidence) / 2)
    half = quantile * x.std(ddof=1) / np.sqrt(n)
    return Interval(mean, float(half), n)


def half_widths(deviations: np.ndarray, counts: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """t_interval's half for many groups at once; 0 for a group of one value.

    deviations: (m,), with n - 1 degrees of freedom; counts: (m,). Returns (m,).
    """
    has_interval = counts > 1
    freedom = np.where(has_interval, counts - 1, 1)
    quantile = stdtrit(freedom, (1 + confidence) / 2)
    deviations = np.nan_to_num(deviations)
    root = np.sqrt(np.maximum(counts, 1))
    half = quantile * deviations / root
    return np.where(has_interval, half, 0.0)


LEAST = 3  # seeds that decide something; an interval of two is as wide as chance has it
MAX_PAIRS = 20  # 2^20 sign patterns are 8 MB
_EQUAL = 1e-9  # relative difference of sums that is due to rounding


def paired_differences(method: Mapping[int, float], baseline: Mapping[int, float]) -> np.ndarray:
    """method - baseline by seed: (n,), over the seeds that both have, in growing order.

    The seed sets the start, the order and the augmentation of the data. Their common effect on both
    cancels.
    """
    differences = []
    for seed in sorted(method.keys() & baseline.keys()):
        difference = method[seed] - baseline[seed]
        differences.append(difference)
    return np.array(differences, dtype=float)


def paired_interval(differences: Sequence[float] | np.ndarray) -> Interval | None:
    """Student's 95 % interval of the mean of paired differences; None for fewer than two.

    differences: (n,). Raises ValueError if one is not finite.
    """
    if len(differences) < 2:
        return None
    return t_interval(list(differences))


def sign_flip_p(differences: Sequence[float] | np.ndarray) -> float | None:
    """Exact two-sided p of Fisher's sign-flip test (The Design of Experiments, 1935, section 21).

    p is the share of the 2^n sign patterns s whose |sum_i s_i d_i| is at least |sum_i d_i|. Under
    the null hypothesis a coin toss decides which value of a pair is the method's.

    differences: (n,). None if n < 2, or if n > MAX_PAIRS: those patterns are not enumerated. Raises
    ValueError if one is not finite.
    """
    d = np.asarray(differences, dtype=float)
    if not np.isfinite(d).all():
        raise ValueError(f"expected finite differences, got {d.tolist()}")
    if not 2 <= d.size <= MAX_PAIRS:
        return None
    sums = np.zeros(1)
    for value in d:
        sums = np.concatenate([sums + value, sums - value])
    observed = abs(d.sum())
    rounding = _EQUAL * np.abs(d).sum()
    is_as_extreme = np.abs(sums) >= observed - rounding
    return float(is_as_extreme.mean())


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """p adjusted for m tests (Holm, Scandinavian Journal of Statistics 6, 1979).

    If p <= a is the criterion, the chance of any false positive stays under a. The i-th smallest p
    (i from 0) becomes the largest of (m - j) p_j over j <= i, at most 1.

    p: (m,) in [0, 1]; returns (m,) in the same order. Raises ValueError for a number outside.
    """
    x = np.asarray(p, dtype=float)
    if not ((x >= 0) & (x <= 1)).all():
        raise ValueError(f"expected probabilities in [0, 1], got {x.tolist()}")
    order = np.argsort(x, kind="stable")
    tests_left = x.size - np.arange(x.size)
    rising = np.maximum.accumulate(tests_left * x[order])
    adjusted = np.empty_like(x)
    adjusted[order] = np.minimum(rising, 1)
    return adjusted


def separated(a: Mapping[int, float], b: Mapping[int, float]) -> bool:
    """Whether the 95 % interval of a - b, paired by seed, is above 0.

    False for fewer than LEAST pairs. False if all differences are the same number: scores are
    counts of few test samples, so equal differences are chance, not certainty.
    """
    interval = paired_interval(paired_differences(a, b))
    if interval is None or interval.half is None or interval.n < LEAST:
        return False
    return is_spread(interval.mean, interval.half) and interval.mean > interval.half


def is_spread(mean: float, half: float) -> bool:
    """Whether differences vary by more than rounding."""
    return half > _EQUAL * abs(mean)


def leaders(scores: Sequence[Mapping[int, float]]) -> list[int]:
    """Indices of the best and the second best of scores by seed, where separated: at most two.

    More is better. The best must be separated from every other, the second from all but the best.
    The claim holds against every rival at once, so the 95 % need no correction for the number of
    rivals (intersection-union test: Berger, Technometrics 24, 1982). The rule is ours.
    """

    def mean(i: int) -> float:
        values = list(scores[i].values())
        return float(np.mean(values))

    known = [i for i, own in enumerate(scores) if own]
    order = sorted(known, key=mean, reverse=True)
    ahead: list[int] = []
    for rank, i in enumerate(order[:2]):
        rivals = [scores[j] for j in order[rank + 1 :]]
        if not rivals:
            break
        if not all(separated(scores[i], rival) for rival in rivals):
            break
        ahead.append(i)
    return ahead
