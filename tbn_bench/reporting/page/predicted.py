"""The test samples that each network of "two methods, paired by seed" gets wrong.

The page lists those on which two methods differ.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tbn_bench.records import predictions
from tbn_bench.records.files import RecordError
from tbn_bench.records.predictions import Predictions
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.page import pairs
from tbn_bench.reporting.page.packing import compact, packed

MOST_BYTES = 200_000  # packed; of more runs, tbn-bench runs predictions compares any two
_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"  # of classes


def predicted(records: Records, results: Path) -> str:
    """Packed JSON: a value per task of pairs.compared, null where it has no predictions.

    labels: a letter per test sample. wrong: method -> seed -> [samples since the last wrong one,
    letters of the predicted classes]. Empty where no task has any, or all take too many bytes.
    """
    found = [_of_task(records, results, task) for task in pairs.compared(records)]
    if not any(found):
        return ""
    text = packed(compact(found))
    return text if len(text) <= MOST_BYTES else ""


def _of_task(records: Records, results: Path, task: pairs.Task) -> dict[str, Any] | None:
    labels = None
    wrong: dict[str, dict[int, Any]] = {}
    for name, g in task.methods.items():
        for seed, run in _runs(records, results, g).items():
            if labels is None:
                labels = run.labels
            if not np.array_equal(labels, run.labels):  # of other samples
                continue
            wrong.setdefault(name, {})[seed] = _wrong(run)
    if labels is None:
        return None
    return {"labels": _lettered(labels), "wrong": wrong}


def _runs(records: Records, results: Path, g: Group) -> dict[int, Predictions]:
    """Seed -> predictions, of runs that have them and few classes."""
    runs = records.runs
    own = runs[runs["run_id"].isin(g.run_ids) & (runs["sweep"] == g.sweep)]
    found = {}
    for run_id, seed in zip(own["run_id"], own["seed"], strict=True):
        try:
            run = predictions.read(results / "runs" / g.sweep / run_id)
        except RecordError:  # named by the run's own view
            continue
        if run is not None and max(run.labels.max(), run.predicted.max()) < len(_LETTERS):
            found[int(seed)] = run
    return found


def _wrong(run: Predictions) -> list[Any]:
    samples = np.flatnonzero(~run.correct)
    since = np.diff(samples, prepend=0)
    return [since.tolist(), _lettered(run.predicted[samples])]


def _lettered(classes: np.ndarray) -> str:
    return "".join(_LETTERS[k] for k in classes.tolist())
