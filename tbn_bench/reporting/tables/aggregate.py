"""Across tasks: the interquartile mean and the mean of scores relative to full precision.

Only methods that ran on the same tasks are compared.
"""

import numpy as np

from tbn_bench.reporting import style, tracks
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.spread import (
    Statistic,
    interquartile_mean,
    mean,
    pooled,
    stratified_bootstrap,
)
from tbn_bench.reporting.table import Column, Row, Table, column, method_column
from tbn_bench.reporting.task_sets import TaskSet, task_sets

STATISTICS: dict[str, Statistic] = {"iqm": interquartile_mean, "mean": mean}


def aggregate(records: Records) -> Table | None:
    """A row per task set and method; None if no method ran on two tasks with full precision."""
    sets = task_sets(records)
    rows = []
    for number, task_set in enumerate(sets, 1):
        for spec in task_set.scores:
            if spec != "full_precision":
                rows.append(_row(number, task_set, spec))
    if not rows:
        return None

    columns = [
        column("task_set", "task set", "d"),
        Column("track", "track", _track, numeric=False),
        method_column(records.runs["binarizer"]),
        column("tasks", "tasks", "d"),
        column("runs", "runs", "d"),
        _interval("iqm", "IQM, % of full precision (95 % bootstrap)"),
        _interval("mean", "mean, % of full precision (95 % bootstrap)"),
    ]
    ids = set[str]().union(*(task_set.run_ids for task_set in sets))

    return Table(
        "Across tasks, relative to full precision",
        columns,
        rows,
        _note(sets),
        sorted(ids),
    )


def _row(number: int, task_set: TaskSet, spec: str) -> Row:
    scores = task_set.scores[spec]
    row: Row = {
        "task_set": number,
        "track": task_set.track,
        "binarizer": spec,
        "tasks": len(scores),
        "runs": sum(map(len, scores)),
    }
    for name, statistic in STATISTICS.items():
        values, weights = pooled(scores)
        row[name] = float(statistic(values, weights))
        rng = np.random.default_rng(0)
        row[f"{name}_interval"] = stratified_bootstrap(scores, statistic, rng)
    return row


def _track(row: Row) -> str:
    return tracks.title(row["track"])


def _interval(name: str, header: str) -> Column:
    """A statistic, and its bounds where it has them."""

    def show(row: Row) -> str:
        value = style.text(row[name], "%")
        bounds = row[f"{name}_interval"]
        if not bounds:
            return value
        low, high = bounds
        return f"{value} [{style.text(low, '%')}, {style.text(high, '%')}]"

    return Column(name, header, show)


def _note(sets: list[TaskSet]) -> str:
    listed = [f"Task set {number}: {task_set.names}." for number, task_set in enumerate(sets, 1)]
    note = (
        "A task is a sweep, data set and model with full precision. A method is its whole spec. "
        "Compare only methods of one task set, because they ran on the same tasks. Each run's "
        "score (top-1, mIoU) is divided by the mean of full precision over seeds in the same "
        "task; this mean is treated as exact. Forecasting is left out, because lower errors are "
        "better. Every task has the same weight. IQM: mean of the middle half. Interval: seeds "
        "are drawn again within each task, 2,000 times. There is no interval if a task has one "
        "run. With few seeds it is too narrow, and it says nothing about other tasks."
    )
    return f"{note} {' '.join(listed)}"
