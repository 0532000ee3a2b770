"""A trial: one run of a sweep as the planner sees it. Trials against each other."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tbn_bench.config import RunConfig
from tbn_bench.sweep.schema import Hyperband, Metric

STATES = ("finished", "failed", "stopped", "diverged")


@dataclass
class Trial:
    """One run of a sweep.

    number: from 0. values: one per metric of the sweep, once it has ended. reports: epoch -> the
    first metric.
    """

    number: int
    config: RunConfig
    state: str = "running"
    values: tuple[float | None, ...] = ()
    reports: dict[int, float] = field(default_factory=dict)

    def value(self, place: int) -> float | None:
        """Of the metric in this place of the sweep's metrics."""
        if place >= len(self.values):
            return None
        return self.values[place]


@dataclass(frozen=True)
class PastTrial:
    """A run's record, as Planner.replay takes it.

    For grid and random the config gives the number; a search needs the number it was asked by.
    state: one of STATES, or anything else (running, interrupted) for a run to be asked again.
    """

    config: RunConfig
    state: str
    rows: list[dict[str, Any]]
    summary: dict[str, Any] = field(default_factory=dict)
    number: int | None = None


def is_behind(trial: Trial, every: Iterable[Trial], rule: Hyperband, sign: int) -> bool:
    """Whether Hyperband stops the trial (W&B's hyperband_stopping.py).

    At its last bracket, n trials have a value. The trial is behind if its own value is worse than
    number int(n / eta) of them, counted from 0. Its own value is that at the bracket, or without
    rule.strict its best so far. sign: of the metric.
    """
    if not trial.reports:
        return False
    newest = max(trial.reports)
    reached = [bracket for bracket in rule.brackets if bracket - 1 <= newest]
    if not reached:
        return False
    epoch = max(reached) - 1
    if epoch not in trial.reports:
        return False
    there = []
    for other in every:
        if epoch in other.reports:
            there.append(sign * other.reports[epoch])
    there.sort()
    own = sign * trial.reports[epoch]
    if not rule.strict:
        own = min(sign * value for value in trial.reports.values())
    place = int(1 / rule.eta * len(there))
    last = len(there) - 1
    return own > there[min(place, last)]


def has_reached(trial: Trial, place: int, metric: Metric) -> bool:
    """Whether a trial has reached the target of the metric in this place of the sweep's metrics."""
    if metric.target is None:
        return False
    seen = [] if place else list(trial.reports.values())
    own = trial.value(place)
    if own is not None:
        seen.append(own)
    return any(metric.sign * (value - metric.target) <= 0 for value in seen)


def finished_scores(trials: Iterable[Trial], metrics: tuple[Metric, ...]) -> dict[int, list[float]]:
    """Number -> values of the finished trials that have all values; lower is better."""
    found = {}
    for trial in trials:
        values = [value for value in trial.values if value is not None]
        complete = values and len(values) == len(trial.values)
        if trial.state == "finished" and complete:
            pairs = zip(metrics, values, strict=True)
            found[trial.number] = [metric.sign * value for metric, value in pairs]
    return found


def beats(a: list[float], b: list[float]) -> bool:
    """At least as good in every value, and better in one; lower is better."""
    for own, other in zip(a, b, strict=True):
        if own > other:
            return False
    return a != b
