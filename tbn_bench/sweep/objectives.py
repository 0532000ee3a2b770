"""Metrics of a sweep: whether the runs will log such a number, and which direction is better.

W&B minimises every metric whose goal is left out. Here such a goal comes from scores.py, with a
warning where W&B would do otherwise. A goal that contradicts scores.py is a warning and not an
error: W&B's format allows it, and "which settings are worst?" is a question.
"""

import difflib
from collections.abc import Iterable

from tbn_bench.catalog import short
from tbn_bench.records.summary import goal_of, row_fields, summary_fields
from tbn_bench.scores import TASKS
from tbn_bench.sweep.schema import Metric

_GOALS = {"min": "minimize", "max": "maximize"}
_NEAR = 0.75  # likeness of two words above which one is a misspelling of the other


def name_faults(metrics: Iterable[Metric], tasks: list[str]) -> list[str]:
    """One line for each metric that not every run of these tasks logs, with a suggestion."""
    known = _common([(*row_fields(task), *summary_fields(task)) for task in tasks])
    of = f"every run of {' and '.join(tasks)}" if len(tasks) > 1 else f"a run of {tasks[0]}"
    faults = []
    for name in (metric.name for metric in metrics):
        if name not in known:
            hint = f"{_meant(name, known, tasks)} Known: {', '.join(known)}"
            faults.append(f"metric {short(name)} is no number that {of} logs{hint}")
    return faults


def early_fault(metric: Metric, tasks: list[str]) -> str:
    """Why early_terminate could never stop a run by this metric, or ''."""
    rows = _common([row_fields(task) for task in tasks])
    if metric.name in rows:
        return ""
    return (
        f"early_terminate needs a metric that every epoch logs, got {short(metric.name)}, "
        f"which only a finished run has; use one of {', '.join(rows)}"
    )


def directed(metric: Metric) -> tuple[Metric, str]:
    """(the metric with a goal, a warning or ''). Raises ValueError where no goal can be known."""
    better = _GOALS.get(goal_of(metric.name) or "")
    if metric.goal is None and better is None:
        raise ValueError(
            f"metric {short(metric.name)} has no better direction by itself; "
            "add goal: minimize or maximize"
        )
    if metric.goal is None:
        return metric.model_copy(update={"goal": better}), _undirected(metric.name, str(better))
    if better in (None, metric.goal):
        return metric, ""
    return metric, (
        f"metric {short(metric.name)}: goal: {metric.goal} looks for the WORST runs; "
        f"write goal: {better} unless that is the question"
    )


def _undirected(name: str, better: str) -> str:
    if better == "minimize":  # W&B's default too
        return ""
    return (
        f"metric {short(name)} has no goal, so it is maximised here, "
        "but `wandb sweep` would minimise it. Write goal: maximize"
    )


def _common(fields: list[tuple[str, ...]]) -> list[str]:
    """What is in all of them, in the order of the first, each once."""
    first, *others = fields
    found = []
    for name in dict.fromkeys(first):
        if all(name in other for other in others):
            found.append(name)
    return found


def _meant(name: str, known: list[str], tasks: list[str]) -> str:
    """', did you mean ...?': the nearest name, else the score that these tasks are judged by."""
    split = "test" if name.startswith("test") else "val"
    judged = [f"{split}/{TASKS[task][0]}" for task in tasks if task in TASKS]
    near = difflib.get_close_matches(name, known, n=1, cutoff=_NEAR)
    hints = near or [hint for hint in judged if hint in known]
    return f", did you mean {hints[0]!r}?" if hints else "."
