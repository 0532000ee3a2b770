"""Intervals and tests over seeds of one task. Pure functions; spread.py is across tasks."""

from collections.abc import Mapping, Sequence
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


def half_widths(deviations: np.ndarray, counts: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """t_interval's half for many groups at once; 0 where a group has one value. deviations: (m,), with n - 1; counts: (m,) -> (m,)."""
    many = counts > 1
    freedom = np.where(many, counts - 1, 1)
    return np.where(
        many,
        stdtrit(freedom, (1 + confidence) / 2)
        * np.nan_to_num(deviations)
        / np.sqrt(np.maximum(counts, 1)),
        0.0,
    )


MAX_PAIRS = 20  # 2^20 sign patterns are 8 MB
_EQUAL = 1e-9  # relative; sums that differ by rounding alone


def paired_differences(method: Mapping[int, float], baseline: Mapping[int, float]) -> np.ndarray:
    """method - baseline by seed: (n,), over the seeds that both have, in growing order. The seed sets the start, the order and the
    augmentation of the data, so what these do alike to both cancels."""
    return np.array(
        [method[seed] - baseline[seed] for seed in sorted(method.keys() & baseline.keys())],
        dtype=float,
    )


def paired_interval(differences: Sequence[float] | np.ndarray) -> Interval | None:
    """Student's 95 % interval of the mean of paired differences; None for fewer than two, of which nothing can be said.

    differences: (n,). Raises ValueError where one is not finite.
    """
    return t_interval(list(differences)) if len(differences) > 1 else None


def sign_flip_p(differences: Sequence[float] | np.ndarray) -> float | None:
    """Exact two-sided p of Fisher's sign-flip test (The Design of Experiments, 1935, section 21): the share of the 2^n sign patterns
    whose |sum_i s_i d_i| is at least |sum_i d_i|. Null: which of a pair is the method's is a coin toss.

    differences: (n,). None where n < 2, or n > MAX_PAIRS, which is not enumerated. Raises ValueError where one is not finite.
    """
    d = np.asarray(differences, dtype=float)
    if not np.isfinite(d).all():
        raise ValueError(f"expected finite differences, got {d.tolist()}")
    if not 2 <= d.size <= MAX_PAIRS:
        return None
    sums = np.zeros(1)
    for value in d:
        sums = np.concatenate([sums + value, sums - value])
    return float((np.abs(sums) >= abs(d.sum()) - _EQUAL * np.abs(d).sum()).mean())


def smallest_p(n: int) -> float:
    """What sign_flip_p can at best be with n pairs, all of one sign: 2 / 2^n. 0.25 for 3, under 0.05 from 6 on."""
    return 2.0 / 2**n


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """p adjusted for m tests, so that p <= a keeps the chance of any false find under a: the i-th smallest (i from 0) becomes the largest
    of (m - j) p_j over j <= i, at most 1 (Holm, Scandinavian Journal of Statistics 6, 1979).

    p: (m,) in [0, 1]; returns (m,) in the same order. Raises ValueError for what is no probability.
    """
    x = np.asarray(p, dtype=float)
    if not ((x >= 0) & (x <= 1)).all():
        raise ValueError(f"expected probabilities in [0, 1], got {x.tolist()}")
    order = np.argsort(x, kind="stable")
    out = np.empty_like(x)
    out[order] = np.minimum(np.maximum.accumulate((x.size - np.arange(x.size)) * x[order]), 1)
    return out


def separated(a: Mapping[int, float], b: Mapping[int, float]) -> bool:
    """Whether the 95 % interval of a - b, paired by seed, lies above 0. False for fewer than two pairs, and where all differences are
    the same number: scores are counts of few test samples, so that is chance, not certainty."""
    interval = paired_interval(paired_differences(a, b))
    return (
        interval is not None
        and interval.half > _EQUAL * abs(interval.mean)
        and interval.mean > interval.half
    )


def leaders(scores: Sequence[Mapping[int, float]]) -> list[int]:
    """Indices of the best and the second best of scores by seed (more is better), as far as they are told apart: [] or [best] or both.

    The best must be separated from every other, the second from all but the best. That each claim holds against every rival at once
    is why the 95 % need no correction for their number (intersection-union test: Berger, Technometrics 24, 1982). The rule is ours.
    """
    order = sorted(
        (i for i, own in enumerate(scores) if own), key=lambda i: -np.mean(list(scores[i].values()))
    )
    out: list[int] = []
    for rank, i in enumerate(order[:2]):
        rivals = order[rank + 1 :]
        if not rivals or not all(separated(scores[i], scores[j]) for j in rivals):
            break
        out.append(i)
    return out
