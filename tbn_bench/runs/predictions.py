"""tbn-bench runs predictions RUN [RUN]: a confusion matrix, or the samples on which two differ."""

from typing import Any

import numpy as np
from scipy.stats import binomtest

from tbn_bench.records import predictions
from tbn_bench.records.files import RecordError
from tbn_bench.records.predictions import Predictions
from tbn_bench.records.run import RunRecord
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell

_SHOWN = 20  # samples on which two networks differ; the JSON has all


def run(store: RunStore, name: str, other: str | None = None) -> dict[str, Any]:
    """Raises RecordError where a run has no predictions, or the runs have other test samples."""
    record = store.find(name)
    found = _of(record)
    if other is None:
        return _one(record, found)
    second = store.find(other)
    theirs = _of(second)
    return _two(record, found, second, theirs)


def _of(record: RunRecord) -> Predictions:
    found = predictions.read(record.path)
    if found is None:
        raise RecordError(
            f"run {record.run_id} has no {predictions.NAME}: it was trained by an earlier version, "
            "by several processes, or is no classification; train it again with --restart"
        )
    return found


def _one(record: RunRecord, found: Predictions) -> dict[str, Any]:
    counts = found.confusion()
    width = max(5, len(str(counts.max())) + 1)
    heads = "".join(f"{k:>{width}}" for k in range(len(counts)))
    tell(f"rows: true class; columns: predicted class ({len(found.labels)} test samples)")
    tell(f"class{heads}  right %")
    for k, row in enumerate(counts):
        cells = "".join(f"{count:>{width}}" for count in row)
        share = 100 * row[k] / max(1, row.sum())
        tell(f"{k:>5}{cells}  {share:7.2f}")
    return {
        "run": record.run_id,
        "samples": len(found.labels),
        "correct": int(found.correct.sum()),
        "confusion": counts.tolist(),
    }


def _two(a: RunRecord, ours: Predictions, b: RunRecord, theirs: Predictions) -> dict[str, Any]:
    """McNemar's exact test (Psychometrika 12, 1947): of the samples that one network alone gets
    right, each network is as likely to be the right one."""
    if not np.array_equal(ours.labels, theirs.labels):
        raise RecordError(
            f"runs {a.run_id} and {b.run_id} were tested on other samples; "
            "compare runs of one data set"
        )
    only_a = np.flatnonzero(ours.correct & ~theirs.correct)
    only_b = np.flatnonzero(theirs.correct & ~ours.correct)
    both = int((ours.correct & theirs.correct).sum())
    alone = len(only_a) + len(only_b)
    p = float(binomtest(len(only_a), alone).pvalue) if alone else 1.0
    total = len(ours.labels)
    tell(f"both right: {both} of {total}; both wrong: {total - both - alone}")
    tell(f"only {a.run_id} right: {len(only_a)}, samples {_list(only_a)}")
    tell(f"only {b.run_id} right: {len(only_b)}, samples {_list(only_b)}")
    tell(f"McNemar's exact p: {p:.3g} (these two networks; it says nothing of other seeds)")
    return {
        "runs": [a.run_id, b.run_id],
        "samples": total,
        "both_right": both,
        "only_first": only_a.tolist(),
        "only_second": only_b.tolist(),
        "p": p,
    }


def _list(samples: np.ndarray) -> str:
    shown = ", ".join(map(str, samples[:_SHOWN])) or "none"
    if len(samples) > _SHOWN:
        return f"{shown}, ..."
    return shown
