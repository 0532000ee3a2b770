"""tbn-bench runs show RUN: all that its record says."""

import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tbn_bench.config import make
from tbn_bench.records.store import RecordError, RunRecord, RunStore, read_json
from tbn_bench.runs import text
from tbn_bench.runs.index import COSTS, FIELDS
from tbn_bench.runs.lock import held
from tbn_bench.scores import FIRST, SCORES

Pairs = list[tuple[str, str]]


def run(store: RunStore, name: str) -> dict[str, Any]:
    record = store.find(name)
    text.say(_lines(store, record))
    status = record.status if record.status != "running" or held(record.path) else "dead"
    scores = {k: v for k, v in (record.summary or {}).items() if k.startswith("test/")}
    return {
        "sweep": record.sweep,
        "run_id": record.run_id,
        "status": status,
        "path": str(record.path),
        **scores,
    }


def _lines(store: RunStore, record: RunRecord) -> Iterator[str]:
    parts = {
        "": _state(record), "config": _config(record.config), "scores": _scores(record), "curves": _curves(record), "cost": _cost(record),
        "provenance": flat(record.provenance), "files": _files(store, record),
    }  # fmt: skip
    for title, pairs in parts.items():
        if pairs:
            yield from ["", title] if title else []
            yield from text.align([(f"  {key}", value) for key, value in pairs])


def log_of(store: RunStore, record: RunRecord) -> Path:
    """Where a sweep puts what the process of the run prints."""
    return store.root / "logs" / record.sweep / f"{record.run_id}.txt"


def _state(record: RunRecord) -> Pairs:
    live = record.status != "running" or held(record.path)
    status = (
        record.status
        if live
        else "dead: it says running, but no process holds it; the command below goes on with it"
    )
    pairs = [
        ("run", f"{record.sweep}/{record.run_id}"),
        ("status", status),
        ("error", text.word(record.error)),
    ]
    return [
        *pairs[: 2 if record.error is None else 3],
        ("ended", _ended(record)),
        ("again", command(record)),
    ]


def _ended(record: RunRecord) -> str:
    try:
        return text.word(read_json(record.path / "run.json").get("ended"))
    except RecordError:
        return text.word(None)


def command(record: RunRecord) -> str:
    """The command that makes the run again, from its config; as recorded where this version refuses the config."""
    try:
        own = make(record.config).command
    except ValueError:
        return text.word(record.provenance.get("command"))
    return f"{own} --sweep={shlex.quote(record.sweep)}"


def _config(config: dict[str, Any]) -> Pairs:
    """What differs from the defaults first."""
    shown = [(k, text.word(v)) for k, v in config.items()]
    changed = [(k, v) for k, v in shown if k not in FIELDS or v != text.word(FIELDS[k])]
    return changed + [(k, f"{v}  (default)") for k, v in shown if (k, v) not in changed]


def _scores(record: RunRecord) -> Pairs:
    summary = record.summary or {}
    keys = [k for k in summary if k.startswith(("test/", "val/"))]
    pairs = [(k, text.score(k.partition("/")[2].removesuffix("_last"), summary[k])) for k in keys]
    return [
        *pairs,
        *(
            (k, text.word(summary[k]))
            for k in ("best_epoch", "test_samples", "train_samples", "seconds")
            if k in summary
        ),
    ]


def _curves(record: RunRecord) -> Pairs:
    """First, best and last epoch of the losses and of the score that the epoch is chosen by."""
    try:
        rows = record.rows()
    except RecordError as error:
        return [("damaged", str(error))]
    found = (
        (name, [(row.get("epoch"), row[name]) for row in rows if _finite(row.get(name))])
        for name in _curve_names(record, rows)
    )
    return [
        ("epochs", f"{len(rows)} of {record.config.get('epochs', '—')}"),
        *((name, _curve(name, points)) for name, points in found if points),
    ]


def _curve_names(record: RunRecord, rows: list[dict[str, Any]]) -> list[str]:
    judged = f"val/{(record.summary or {}).get('score', FIRST)}"
    every = [f"val/{name}" for name in SCORES] if record.summary is None else [judged]
    return [
        "train/loss",
        "val/loss",
        *(name for name in every if any(name in row for row in rows)),
        "tile/flip_rate",
    ]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _curve(name: str, points: list[tuple[Any, float]]) -> str:
    score = name.partition("/")[2]
    pick = max if score in SCORES and SCORES[score].goal == "max" else min
    best = (
        [("best", pick(points, key=lambda point: point[1]))]
        if score == "loss" or score in SCORES
        else []
    )
    shown = [("first", points[0]), *best, ("last", points[-1])]
    return text.GAP.join(
        f"{label} {text.score(score, value)} (epoch {epoch})" for label, (epoch, value) in shown
    )


def _cost(record: RunRecord) -> Pairs:
    summary = record.summary or {}
    return [
        (k, f"{summary[k]:,}" if isinstance(summary[k], int) else text.word(summary[k]))
        for k in COSTS
        if k in summary
    ]


def flat(value: dict[str, Any], above: str = "") -> Pairs:
    """Nested objects as dotted names: versions.torch."""
    pairs: Pairs = []
    for key, inner in value.items():
        pairs += (
            flat(inner, f"{above}{key}.")
            if isinstance(inner, dict)
            else [(f"{above}{key}", text.word(inner))]
        )
    return pairs


def _files(store: RunStore, record: RunRecord) -> Pairs:
    found = [path for path in sorted(record.path.rglob("*")) if path.is_file()]
    log = log_of(store, record)
    pairs = []
    for path in [*found, *([log] if log.exists() else [])]:
        try:
            pairs.append((str(path), text.size(path.stat().st_size)))
        except OSError:  # a live run replaces its files
            continue
    return pairs
