"""tbn-bench runs show RUN: all of its record."""

import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tbn_bench import fingerprint
from tbn_bench.config import make, plugin_flags
from tbn_bench.records.files import RecordError, read_json
from tbn_bench.records.run import RunRecord
from tbn_bench.records.store import RunStore
from tbn_bench.records.summary import COSTS
from tbn_bench.runs import text
from tbn_bench.runs.index import FIELDS
from tbn_bench.runs.lock import live_status
from tbn_bench.scores import FIRST, SCORES

Pairs = list[tuple[str, str]]

_COUNTS = ("best_epoch", "test_samples", "train_samples", "seconds")


def run(store: RunStore, name: str) -> dict[str, Any]:
    record = store.find(name)
    text.say(_lines(store, record))
    summary = record.summary or {}
    scores = {key: value for key, value in summary.items() if key.startswith("test/")}
    return {
        "sweep": record.sweep,
        "run_id": record.run_id,
        "status": live_status(record),
        "path": str(record.path),
        **scores,
    }


def _lines(store: RunStore, record: RunRecord) -> Iterator[str]:
    parts = {
        "": _state(record),
        "config": _config(record.config),
        "scores": _scores(record),
        "curves": _curves(record),
        "cost": _cost(record),
        "provenance": flat(record.provenance),
        "files": _files(store, record),
    }
    for title, pairs in parts.items():
        if not pairs:
            continue
        if title:
            yield ""
            yield title
        yield from text.align([(f"  {key}", value) for key, value in pairs])


def log_of(store: RunStore, record: RunRecord) -> Path:
    """Where a sweep puts what the process of the run prints."""
    folder = store.root / "logs" / record.sweep
    return folder / f"{record.run_id}.txt"


def _state(record: RunRecord) -> Pairs:
    status = live_status(record)
    if status == "dead":
        status = "dead: it says running, but no process holds it; the command below goes on with it"
    pairs = [("run", f"{record.sweep}/{record.run_id}"), ("status", status)]
    if record.error is not None:
        pairs.append(("error", text.word(record.error)))
    pairs.append(("ended", _ended(record)))
    pairs.append(("again", command(record)))
    pairs.append(("code", _code(record)))
    return pairs


def _code(record: RunRecord) -> str:
    """Whether the code that decides the run's numbers is that of this version."""
    try:
        changed = fingerprint.changed(record.fingerprint, make(record.config))
    except ValueError:
        changed = None
    if changed is None:
        return "unknown: the record has no fingerprint, or its code is not here"
    if changed:
        return (
            f"stale: {', '.join(changed)} changed since; --restart trains the run again, "
            "`tbn-bench runs repeat` compares its first epochs"
        )
    return "as it is here"


def _ended(record: RunRecord) -> str:
    try:
        return text.word(read_json(record.path / "run.json").get("ended"))
    except RecordError:
        return text.word(None)


def command(record: RunRecord) -> str:
    """The command that makes the run again, from its config.

    As recorded where this version refuses the config.
    """
    try:
        own = make(record.config)
    except ValueError:
        return text.word(record.provenance.get("command"))
    if own.given:
        return own.command_in(record.sweep)
    return f"{own.command} --sweep={shlex.quote(record.sweep)}{plugin_flags(record.plugins)}"


def _config(config: dict[str, Any]) -> Pairs:
    """What differs from the defaults first."""
    changed = []
    default = []
    for name, value in config.items():
        shown = text.word(value)
        if name in FIELDS and shown == text.word(FIELDS[name]):
            default.append((name, f"{shown}  (default)"))
        else:
            changed.append((name, shown))
    return changed + default


def _scores(record: RunRecord) -> Pairs:
    summary = record.summary or {}
    pairs = []
    for key, value in summary.items():
        split, _, name = key.partition("/")
        if split in ("test", "val") and name:
            name = name.removesuffix("_last")
            pairs.append((key, text.score(name, value)))
    for key in _COUNTS:
        if key in summary:
            pairs.append((key, text.word(summary[key])))
    return pairs


def _curves(record: RunRecord) -> Pairs:
    """First, best and last epoch of the losses and of the score that the epoch is chosen by."""
    try:
        rows = record.rows()
    except RecordError as error:
        return [("damaged", str(error))]
    epochs = record.config.get("epochs", text.UNKNOWN)
    done = f"{len(rows)} of {epochs}"
    pairs = [("epochs", done)]
    for name in _curve_names(record, rows):
        points = _points(name, rows)
        if points:
            curve = _curve(name, points)
            pairs.append((name, curve))
    return pairs


def _points(name: str, rows: list[dict[str, Any]]) -> list[tuple[Any, float]]:
    """(epoch, value) of every row with a finite value of that name."""
    points = []
    for row in rows:
        value: Any = row.get(name)
        if _finite(value):
            points.append((row.get("epoch"), value))
    return points


def _curve_names(record: RunRecord, rows: list[dict[str, Any]]) -> list[str]:
    scores = list(SCORES)
    if record.summary is not None:
        scores = [record.summary.get("score", FIRST)]
    names = ["train/loss", "val/loss"]
    for score in scores:
        name = f"val/{score}"
        if _is_logged(name, rows):
            names.append(name)
    names.append("tile/flip_rate")
    return names


def _is_logged(name: str, rows: list[dict[str, Any]]) -> bool:
    return any(name in row for row in rows)


def _finite(value: Any) -> bool:
    if isinstance(value, int | float):
        return math.isfinite(value)
    return False


def _curve(name: str, points: list[tuple[Any, float]]) -> str:
    """points: (epoch, value)."""
    score = name.partition("/")[2]
    shown = {"first": points[0]}
    if score == "loss" or score in SCORES:
        goal = SCORES[score].goal if score in SCORES else "min"
        pick = max if goal == "max" else min
        shown["best"] = pick(points, key=lambda point: point[1])
    shown["last"] = points[-1]
    words = []
    for label, (epoch, value) in shown.items():
        words.append(f"{label} {text.score(score, value)} (epoch {epoch})")
    return text.GAP.join(words)


def _cost(record: RunRecord) -> Pairs:
    summary = record.summary or {}
    pairs = []
    for name in COSTS:
        if name not in summary:
            continue
        value = summary[name]
        shown = text.word(value)
        if isinstance(value, int):
            shown = f"{value:,}"
        pairs.append((name, shown))
    return pairs


def flat(value: dict[str, Any], above: str = "") -> Pairs:
    """Nested objects as dotted names: versions.torch."""
    pairs: Pairs = []
    for key, inner in value.items():
        name = f"{above}{key}"
        if isinstance(inner, dict):
            pairs += flat(inner, f"{name}.")
            continue
        word = text.word(inner)
        pairs.append((name, word))
    return pairs


def _files(store: RunStore, record: RunRecord) -> Pairs:
    found = [path for path in sorted(record.path.rglob("*")) if path.is_file()]
    log = log_of(store, record)
    if log.exists():
        found.append(log)
    pairs = []
    for path in found:
        try:
            size = path.stat().st_size
        except OSError:  # a live run replaces its files
            continue
        pairs.append((str(path), text.size(size)))
    return pairs
