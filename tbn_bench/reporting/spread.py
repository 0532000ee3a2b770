"""Scores across tasks: interquartile mean, bootstrap, performance profile. Pure functions; every task weighs the same, whatever its seeds.

The measures are those of Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS 2021; the equal
weight of tasks with unequal numbers of seeds is ours (with equal numbers it changes nothing).
"""

from collections.abc import Callable, Sequence

import numpy as np

Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(values: (..., n), weights: (n,)) -> (...)"""


def pooled(tasks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All runs and their weights, each (n,) for n runs: 1 / (tasks * runs of its task), which sums to 1.

    tasks: one (runs,) array of scores per task. Raises ValueError where there is no task or a task has no run.
    """
    if not tasks or not all(len(scores) for scores in tasks):
        raise ValueError(
            f"expected at least one task, each with a run, got {[len(scores) for scores in tasks]} runs"
        )
    weights = [np.full(len(scores), 1 / (len(tasks) * len(scores))) for scores in tasks]
    return np.concatenate([np.asarray(scores, dtype=float) for scores in tasks]), np.concatenate(
        weights
    )


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over the last axis. values: (..., n), weights: (n,); returns (...)."""
    return values @ weights / weights.sum()


def interquartile_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of the middle half of the weight: sorted values, each counted by how much of its weight lies between the quarters.

    With equal weights and n a multiple of 4 this is the 25 % trimmed mean. values: (..., n), weights: (n,); returns (...).
    """
    order = np.argsort(values, axis=-1, kind="stable")
    above = np.cumsum(weights[order], axis=-1) / weights.sum()
    inside = np.diff(np.clip(above, 0.25, 0.75), axis=-1, prepend=0.25)
    return (np.take_along_axis(np.asarray(values, dtype=float), order, -1) * inside).sum(
        axis=-1
    ) / 0.5


def stratified_bootstrap(
    tasks: Sequence[np.ndarray],
    statistic: Statistic,
    rng: np.random.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> tuple[float, float] | None:
    """Percentile interval (low, high) of a statistic of all runs, the seeds being drawn again, with replacement, within each task.

    It says how far other seeds would move the number on these tasks, nothing of other tasks; with few seeds it is too narrow.
    tasks: one (runs,) array per task. None where a task has one run, which cannot be drawn otherwise. Raises ValueError as `pooled`.
    """
    _, weights = pooled(tasks)
    if min(len(scores) for scores in tasks) < 2:
        return None
    drawn = [
        np.asarray(scores, dtype=float)[rng.integers(len(scores), size=(resamples, len(scores)))]
        for scores in tasks
    ]
    found = statistic(np.concatenate(drawn, axis=1), weights)
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def performance_profile(tasks: Sequence[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """Share of runs whose score is above each threshold, averaged over tasks: never growing, from 1 to 0.

    tasks: one (runs,) array per task, thresholds: (k,); returns (k,). Raises ValueError as `pooled`.
    """
    values, weights = pooled(tasks)
    return (values > np.asarray(thresholds, dtype=float)[:, None]) @ weights
