"""Across tasks: interquartile mean and mean of scores relative to full precision, among methods that ran on the same tasks."""

from typing import Any

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
from tbn_bench.reporting.task_sets import TaskSet, task_sets
from tbn_bench.reporting.write import Column, Table, column

STATISTICS: dict[str, Statistic] = {"iqm": interquartile_mean, "mean": mean}


def aggregate(records: Records) -> Table | None:
    """A row per task set and method; None where no method ran on two tasks with full precision."""
    found = task_sets(records)
    rows = [
        _row(i, group, spec)
        for i, group in enumerate(found, 1)
        for spec in group.scores
        if spec != "full_precision"
    ]
    if not rows:
        return None
    names = style.labels(records.runs["binarizer"])
    columns = [
        column("task_set", "task set", "d"), Column("track", "track", lambda r: tracks.title(r["track"]), numeric=False),
        Column("binarizer", "method", lambda r: names[r["binarizer"]], numeric=False),
        column("tasks", "tasks", "d"), column("runs", "runs", "d"),
        _interval("iqm", "IQM, % of full precision (95 % bootstrap)"), _interval("mean", "mean, % of full precision (95 % bootstrap)"),
    ]  # fmt: skip
    ids = sorted({run_id for group in found for run_id in group.run_ids})
    return Table("Across tasks, relative to full precision", columns, rows, _note(found), ids)


def _row(number: int, group: TaskSet, spec: str) -> dict[str, Any]:
    scores = group.scores[spec]
    row: dict[str, Any] = {
        "task_set": number,
        "track": group.track,
        "binarizer": spec,
        "tasks": len(scores),
        "runs": sum(map(len, scores)),
    }
    for name, statistic in STATISTICS.items():
        row[name] = float(statistic(*pooled(scores)))
        row[f"{name}_interval"] = stratified_bootstrap(scores, statistic, np.random.default_rng(0))
    return row


def _interval(name: str, header: str) -> Column:
    def show(row: dict[str, Any]) -> str:
        bounds = row[f"{name}_interval"]
        return style.text(row[name], "%") + (
            f" [{style.text(bounds[0], '%')}, {style.text(bounds[1], '%')}]" if bounds else ""
        )

    return Column(name, header, show)


def _note(found: list[TaskSet]) -> str:
    sets = " ".join(f"Task set {i}: {group.names}." for i, group in enumerate(found, 1))
    return (
        "A task is a sweep, data set and model with full precision; a method is its whole spec; only methods of one task set ran on the same "
        "tasks, so only these compare. Each run's score (top-1, mIoU) is divided by the mean of full precision over seeds in the same task, "
        "which is taken as known. Forecasting is left out: its errors are better when lower. Every task weighs the same. IQM: mean of the "
        "middle half. Interval: seeds drawn again within each task, 2,000 times; none where a task has one run, too narrow with few seeds, "
        "and silent about other tasks. " + sets
    )
