"""The numbers of one run against each other: epochs, scores, stored bits. Used by faults.py.

Each check yields (kind, fault in words).
"""

import math
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tbn_bench import catalog
from tbn_bench.config import RunConfig, make
from tbn_bench.records.files import RecordError, read_file
from tbn_bench.records.schema import parse
from tbn_bench.records.schema import rows as checked_rows
from tbn_bench.records.summary import ALWAYS, FIRST_COSTS
from tbn_bench.scores import SCORES, score_of

Found = Iterator[tuple[str, str]]
Json = dict[str, Any]

# younger than the first records
_YOUNGER_COST = ("codebook_bits", "padding_bits")
_REQUIRED = ("run_id", *ALWAYS, "plan")
_MOST = 2.0**63
_PLAN_ROW = ("numel", "weight_bits", "alpha_bits", "binarized", "stored_bits")
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")
_TOLD = 3  # names in a fault


def missing(summary: Json) -> list[str]:
    """Keys that every summary has and this one lacks."""
    lacking = [key for key in _REQUIRED if key not in summary]
    if "plan" not in summary:
        return lacking
    plan = summary["plan"]
    if not isinstance(plan, list) or not all(isinstance(row, dict) for row in plan):
        return [*lacking, "plan's rows"]
    for key in sorted(_PLAN_ROW):
        if not all(isinstance(row.get(key), int) for row in plan):
            lacking.append(f"plan's {key}")
    return lacking


def config_of(command: Any) -> RunConfig:
    """The config that a recorded `tbn-bench train --key=value ...` makes.

    Raises ValueError for anything else.
    """
    words = shlex.split(str(command))
    if words[:2] != ["tbn-bench", "train"]:
        raise ValueError(f"expected tbn-bench train ..., got {command!r}")
    values = {}
    for word in words[2:]:
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals or not word.startswith("--"):
            raise ValueError(f"expected --key=value, got {word!r}")
        if key not in ("sweep", "plugin"):
            values[key] = value
    return make(values)


def faults(path: Path, config: Json, status: str, summary: Json | None, live: bool) -> Found:
    """Of the run in folder `path`.

    The rows of a live run may end in half a line; those of a diverged one need not be finite.
    """
    file = path / "metrics.jsonl"
    try:
        content = read_file(file) if os.path.lexists(file) else b""
    except RecordError as error:
        yield "unreadable", str(error)
        return
    *lines, torn = content.split(b"\n")
    if torn and not live:
        yield (
            "torn",
            f"metrics.jsonl ends in the middle of a row ({len(torn)} bytes after the last newline)",
        )
    rows: list[Json] = []
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if row is None:
            yield "row", f"line {number} of metrics.jsonl is no JSON object"
            return
        rows.append(row)
    yield from _values(rows)
    yield from _epochs(rows, config.get("epochs") if summary is not None else None)
    if status != "diverged":
        yield from _finite("metrics.jsonl", _named(rows))
    if summary is not None:
        yield from _finite("summary.json", {k: v for k, v in summary.items() if k != "plan"})
        yield from _scores(rows, summary, config)
        yield from _bits(summary)


def _row(line: bytes) -> Json | None:
    try:
        row = parse(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _values(rows: list[Json]) -> Found:
    """Types and ranges of the rows. One fault stands for all: a wrong writer is always wrong."""
    try:
        checked_rows(list(rows))
    except ValueError as error:
        yield "value", f"metrics.jsonl, {error}"


def _epochs(rows: list[Json], wanted: Any) -> Found:
    """0, 1, ... n - 1; of a finished run as many as its config has."""
    epochs = [row.get("epoch") for row in rows]
    for place, epoch in enumerate(epochs):
        if epoch != place or isinstance(epoch, bool):
            kind = "repeats" if epoch in epochs[:place] else "gap"
            where = f"row {place + 1} of metrics.jsonl"
            yield "epochs", f"{where} is epoch {epoch!r}, expected {place} ({kind})"
            return
    if wanted is not None and len(epochs) != wanted:
        yield "epochs", f"metrics.jsonl has {len(epochs)} epochs, the config {wanted}"


def _named(rows: list[Json]) -> Json:
    """'epoch 3: val/loss' -> its value, for all rows."""
    found = {}
    for row in rows:
        for key, value in row.items():
            found[f"epoch {row.get('epoch')}: {key}"] = value
    return found


def _finite(file: str, values: Json) -> Found:
    bad = [name for name, value in values.items() if _is_not_finite(value)]
    if not bad:
        return
    names = ", ".join(bad[:_TOLD])
    rest = len(bad) - _TOLD
    if rest > 0:
        names += f" and {rest} more"
    yield "finite", f"{file} holds what is not finite: {names}"


def _is_not_finite(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    return value in _NOT_FINITE


def _number(value: Any) -> bool:
    """Integers beyond a float do not count: they cannot be divided."""
    if isinstance(value, bool):
        return False
    if not isinstance(value, int | float):
        return False
    return not abs(value) > _MOST


def _scores(rows: list[Json], summary: Json, config: Json) -> Found:
    """Every score of the rows is in the summary; the tested epoch is the one that was chosen."""
    try:
        name = score_of(summary)
    except ValueError as error:
        yield "score", str(error)
        return
    held_out = _holds_out(config)
    lacking = [key for key in _wanted(name, rows, held_out) if not _number(summary.get(key))]
    if lacking:
        yield "score", f"summary.json has no number for {', '.join(lacking)}"
    best = summary["best_epoch"]
    last = len(rows) - 1
    if not isinstance(best, int) or not 0 <= best <= last:
        yield "best_epoch", f"best_epoch {best!r} is none of the {len(rows)} epochs"
        return
    chooses = config.get("select", "best") == "best"
    if not chooses and best != last:
        what = f"epoch {best} was tested, but select=last tests the last, {last}"
        yield "best_epoch", what
    if held_out:
        yield from _held_out(rows, summary, name, chooses)


def _wanted(name: str, rows: list[Json], held_out: bool) -> list[str]:
    """Scores that the summary must have. name: the score that the run is judged by."""
    logged: set[str] = set()
    for row in rows:
        logged.update(row)
    scores = [name]
    for score in SCORES:
        if f"val/{score}" in logged and score != name:
            scores.append(score)
    wanted = [f"test/{score}" for score in scores]
    if held_out:
        wanted.append(f"val/{name}_last")
    return wanted


def _holds_out(config: Json) -> bool:
    """Whether the run's data set leaves samples to validate on: all but those with val_size=0."""
    try:
        options = catalog.parse(str(config.get("data")))[1]
    except ValueError:
        return True
    return options.get("val_size") != 0


def _held_out(rows: list[Json], summary: Json, name: str, chooses: bool) -> Found:
    """chooses: the tested epoch is the best on held-out samples."""
    key = f"val/{name}"
    values = [row[key] for row in rows if _number(row.get(key))]
    if len(values) < len(rows):
        lacking = len(rows) - len(values)
        yield "score", f"metrics.jsonl has no {key} in {lacking} of {len(rows)} rows"
        return
    best = summary["best_epoch"]
    signed = [SCORES[name].signed(value) for value in values]
    if chooses and signed[best] < max(signed):
        what = f"epoch {best} has {key} {values[best]:.6g}, another has a better one"
        yield "best_epoch", what
    last = summary.get(f"{key}_last")
    if _number(last) and last != values[-1]:
        yield "score", f"{key}_last is {last:.6g}, the last row says {values[-1]:.6g}"


def _bits(summary: Json) -> Found:
    """The parts of the stored bits add up, in the totals and over the plan."""
    known = [key for key in (*FIRST_COSTS, *_YOUNGER_COST) if key in summary]
    bad = [key for key in known if not _number(summary[key])]
    if bad:
        yield "bits", f"{', '.join(bad)} must be numbers"
        return
    for key, value in _sums(summary).items():
        if summary[key] != value:
            yield "bits", f"{key} is {summary[key]}, its parts add up to {value}"
    stored = summary["stored_bits_weights"]
    if sum(row["stored_bits"] for row in summary["plan"]) != stored:
        what = "the rows of the plan add up to another number"
        yield "bits", f"stored_bits_weights is {stored}, {what}"
    weights = summary["weights"]
    per_weight = summary["bits_per_weight"]
    if weights and not math.isclose(per_weight, stored / weights):
        what = "stored_bits_weights / weights is another number"
        yield "bits", f"bits_per_weight is {per_weight}, {what}"


def _sums(summary: Json) -> dict[str, Any]:
    """Total -> the sum of its parts."""
    plan = summary["plan"]
    codebook = summary.get("codebook_bits", 0)
    side = summary["bias_bits"] + summary["norm_bits"] + summary["other_bits"]
    kept = sum(row["weight_bits"] for row in plan if not row["binarized"])
    sums = {
        "stored_bits": summary["stored_bits_weights"] + side,
        "stored_bits_weights": summary["tile_bits"] + summary["alpha_bits"] + codebook + kept,
        "weights": sum(row["numel"] for row in plan),
        "tile_bits": sum(row["weight_bits"] for row in plan if row["binarized"]),
        "alpha_bits": sum(row["alpha_bits"] for row in plan),
    }
    if "padding_bits" in summary:
        sums["stored_bytes"] = (summary["stored_bits"] + summary["padding_bits"]) / 8
    return sums
