"""Scores across tasks: interquartile mean, bootstrap, performance profile. Pure functions.

The measures are those of Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical
Precipice, NeurIPS 2021. Every task has the same weight here, however many seeds it has. That is
ours; it changes nothing where all tasks have equally many seeds.
"""

from collections.abc import Callable, Sequence

import numpy as np

# (values: (..., n), weights: (n,)) -> (...)
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


def pooled(tasks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(scores of all n runs, their weights), each (n,).

    A run weighs 1 / (number of tasks * runs of its task), so the weights sum to 1.
    tasks: one (runs,) array of scores per task.
    Raises ValueError where there is no task, or a task without a run.
    """
    sizes = [len(scores) for scores in tasks]
    if not sizes or 0 in sizes:
        raise ValueError(f"expected at least one task, each with a run, got {sizes} runs")
    values = []
    weights = []
    for scores in tasks:
        runs = len(scores)
        weight = 1 / (len(tasks) * runs)
        values.append(np.asarray(scores, dtype=float))
        weights.append(np.full(runs, weight))
    return np.concatenate(values), np.concatenate(weights)


def mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over the last axis. values: (..., n), weights: (n,) -> (...)."""
    return values @ weights / weights.sum()


def interquartile_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of the middle half of the weight. values: (..., n), weights: (n,) -> (...).

    The values are sorted, and each counts with the part of its weight between the quarters. With
    equal weights and n a multiple of 4 this is the 25 % trimmed mean.
    """
    order = np.argsort(values, axis=-1, kind="stable")
    above = np.cumsum(weights[order], axis=-1) / weights.sum()
    between = np.clip(above, 0.25, 0.75)
    inside = np.diff(between, axis=-1, prepend=0.25)
    ordered = np.take_along_axis(np.asarray(values, dtype=float), order, -1)
    total = (ordered * inside).sum(axis=-1)
    return total / 0.5


def stratified_bootstrap(
    tasks: Sequence[np.ndarray],
    statistic: Statistic,
    rng: np.random.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> tuple[float, float] | None:
    """Percentile interval (low, high) of a statistic of all runs.

    Within each task the seeds are drawn again, with replacement. The interval says how far other
    seeds would move the number on these tasks. It says nothing of other tasks, and with few seeds
    it is too narrow.
    tasks: one (runs,) array per task. None where a task has one run, because there is nothing to
    draw. Raises ValueError as `pooled` does.
    """
    _, weights = pooled(tasks)
    if min(len(scores) for scores in tasks) < 2:
        return None
    drawn = []
    for scores in tasks:
        runs = len(scores)
        picks = rng.integers(runs, size=(resamples, runs))
        drawn.append(np.asarray(scores, dtype=float)[picks])
    found = statistic(np.concatenate(drawn, axis=1), weights)
    outside = (1 - confidence) / 2
    low, high = np.quantile(found, [outside, (1 + confidence) / 2])
    return float(low), float(high)


def performance_profile(tasks: Sequence[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """Share of runs whose score is above each threshold, averaged over tasks.

    It falls from 1 to 0 and never grows.
    tasks: one (runs,) array per task, thresholds: (k,) -> (k,). Raises ValueError as `pooled` does.
    """
    values, weights = pooled(tasks)
    limits = np.asarray(thresholds, dtype=float)
    above = values > limits[:, None]
    return above @ weights
