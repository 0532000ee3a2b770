"""The numbers of one run against each other: epochs, scores, stored bits. Used by verify."""

import math
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tbn_bench import catalog
from tbn_bench.config import RunConfig, make
from tbn_bench.records.schema import parse
from tbn_bench.records.schema import rows as checked_rows
from tbn_bench.records.store import RecordError, read_file
from tbn_bench.scores import SCORES, score_of

Found = Iterator[tuple[str, str]]  # (kind, what is wrong)
_COST = (
    "weights", "stored_bits", "stored_bits_weights", "tile_bits", "alpha_bits", "bias_bits", "norm_bits", "other_bits", "stored_bytes",
    "bits_per_weight", "macs", "distinct_macs",
)  # fmt: skip
_REQUIRED = (
    "run_id",
    "best_epoch",
    "epochs",
    "test_samples",
    "train_samples",
    "seconds",
    "test/loss",
    *_COST,
    "plan",
)
_MOST = 2.0**63
_PLAN_ROW = ("numel", "weight_bits", "alpha_bits", "binarized", "stored_bits")


def missing(summary: dict[str, Any]) -> list[str]:
    """Keys that every summary has and this one lacks. codebook_bits and padding_bits are younger than the first records."""
    lacking = [key for key in _REQUIRED if key not in summary]
    plan = summary.get("plan")
    if isinstance(plan, list) and all(isinstance(row, dict) for row in plan):
        lacking += sorted(
            {
                f"plan's {key}"
                for row in plan
                for key in _PLAN_ROW
                if not isinstance(row.get(key), int)
            }
        )
    elif "plan" in summary:
        lacking.append("plan's rows")
    return lacking


def config_of(command: Any) -> RunConfig:
    """The config that a recorded `tbn-bench train --key=value ...` makes. Raises ValueError for anything else."""
    words = shlex.split(str(command))
    if words[:2] != ["tbn-bench", "train"]:
        raise ValueError(f"expected tbn-bench train ..., got {command!r}")
    pairs = [word.removeprefix("--").split("=", 1) for word in words[2:]]
    if bad := [
        word
        for word, pair in zip(words[2:], pairs, strict=True)
        if not word.startswith("--") or len(pair) != 2
    ]:
        raise ValueError(f"expected --key=value, got {bad[0]!r}")
    return make({k: v for k, v in pairs if k != "sweep"})


def faults(
    path: Path, config: dict[str, Any], status: str, summary: dict[str, Any] | None, live: bool
) -> Found:
    """Of the run in folder `path`. Rows of a live run may end in half a line; a diverged one may hold what is not finite."""
    file = path / "metrics.jsonl"
    try:
        content = read_file(file) if os.path.lexists(file) else b""
    except RecordError as error:
        yield "unreadable", str(error)
        return
    lines, torn = content.split(b"\n")[:-1], content.rpartition(b"\n")[2]
    if torn and not live:
        yield (
            "torn",
            f"metrics.jsonl ends in the middle of a row ({len(torn)} bytes after the last newline)",
        )
    rows = list[dict[str, Any]]()
    for number, line in enumerate(lines, 1):
        try:
            row = parse(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            yield "row", f"line {number} of metrics.jsonl is no JSON object"
            return
        rows.append(row)
    yield from _values(rows)
    yield from _epochs(rows, config.get("epochs") if summary is not None else None)
    if status != "diverged":
        yield from _finite(
            "metrics.jsonl",
            {f"epoch {row.get('epoch')}: {k}": v for row in rows for k, v in row.items()},
        )
    if summary is not None:
        yield from _finite("summary.json", {k: v for k, v in summary.items() if k != "plan"})
        yield from _scores(rows, summary, config)
        yield from _bits(summary)


def _values(rows: list[dict[str, Any]]) -> Found:
    """Types and ranges of the rows. One fault stands for all: a writer that is wrong is wrong in every epoch."""
    try:
        checked_rows(list(rows))
    except ValueError as error:
        yield "value", f"metrics.jsonl, {error}"


def _epochs(rows: list[dict[str, Any]], wanted: Any) -> Found:
    """0, 1, ... n - 1; of a finished run as many as its config has."""
    epochs = [row.get("epoch") for row in rows]
    for place, epoch in enumerate(epochs):
        if epoch != place or isinstance(epoch, bool):
            kind = "repeats" if epoch in epochs[:place] else "gap"
            yield (
                "epochs",
                f"row {place + 1} of metrics.jsonl is epoch {epoch!r}, expected {place} ({kind})",
            )
            return
    if wanted is not None and len(epochs) != wanted:
        yield "epochs", f"metrics.jsonl has {len(epochs)} epochs, the config {wanted}"


def _finite(file: str, values: dict[str, Any]) -> Found:
    bad = [
        k
        for k, v in values.items()
        if v in ("NaN", "Infinity", "-Infinity") or (isinstance(v, float) and not math.isfinite(v))
    ]
    if bad:
        yield (
            "finite",
            f"{file} holds what is not finite: {', '.join(bad[:3])}{f' and {len(bad) - 3} more' if len(bad) > 3 else ''}",
        )


def _number(value: Any) -> bool:
    """Integers beyond a float are none: they cannot be divided."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and not abs(value) > _MOST


def _scores(rows: list[dict[str, Any]], summary: dict[str, Any], config: dict[str, Any]) -> Found:
    """Every score of the validation rows is in the summary for the test set; the tested epoch is the one that `select` names."""
    try:
        name = score_of(summary)
    except ValueError as error:
        yield "score", str(error)
        return
    held_out = _holds_out(config)
    logged = [score for score in SCORES if any(f"val/{score}" in row for row in rows)]
    wanted = [f"test/{name}", *(f"test/{score}" for score in logged)]
    if held_out:
        wanted.append(f"val/{name}_last")
    if lacking := [key for key in dict.fromkeys(wanted) if not _number(summary.get(key))]:
        yield "score", f"summary.json has no number for {', '.join(lacking)}"
    best = summary["best_epoch"]
    if not isinstance(best, int) or not 0 <= best < len(rows):
        yield "best_epoch", f"best_epoch {best!r} is none of the {len(rows)} epochs"
        return
    chooses = config.get("select", "best") == "best"
    if not chooses and best != len(rows) - 1:
        yield (
            "best_epoch",
            f"epoch {best} was tested, but select=last tests the last, {len(rows) - 1}",
        )
    if held_out:
        yield from _held_out(rows, summary, name, chooses)


def _holds_out(config: dict[str, Any]) -> bool:
    """Whether the run's data set leaves samples to validate on: all but those called with val_size=0."""
    try:
        options = catalog.parse(str(config.get("data")))[1]
    except ValueError:
        return True
    return options.get("val_size") != 0


def _held_out(
    rows: list[dict[str, Any]], summary: dict[str, Any], name: str, chooses: bool
) -> Found:
    """chooses: the tested epoch is the best on held-out samples."""
    values = [row[f"val/{name}"] for row in rows if _number(row.get(f"val/{name}"))]
    if len(values) < len(rows):
        yield (
            "score",
            f"metrics.jsonl has no val/{name} in {len(rows) - len(values)} of {len(rows)} rows",
        )
        return
    best = summary["best_epoch"]
    if chooses and SCORES[name].signed(values[best]) < max(map(SCORES[name].signed, values)):
        yield (
            "best_epoch",
            f"epoch {best} has val/{name} {values[best]:.6g}, another has a better one",
        )
    if _number(last := summary.get(f"val/{name}_last")) and last != values[-1]:
        yield "score", f"val/{name}_last is {last:.6g}, the last row says {values[-1]:.6g}"


def _bits(summary: dict[str, Any]) -> Found:
    """The parts of the stored bits add up, in the totals and over the plan."""
    plan, codebook = summary["plan"], summary.get("codebook_bits", 0)
    if bad := [
        k
        for k in (*_COST, "codebook_bits", "padding_bits")
        if k in summary and not _number(summary[k])
    ]:
        yield "bits", f"{', '.join(bad)} must be numbers"
        return
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
    yield from (
        ("bits", f"{k} is {summary[k]}, its parts add up to {v}")
        for k, v in sums.items()
        if summary[k] != v
    )
    if sum(row["stored_bits"] for row in plan) != summary["stored_bits_weights"]:
        yield (
            "bits",
            f"stored_bits_weights is {summary['stored_bits_weights']}, the rows of the plan add up to another number",
        )
    if summary["weights"] and not math.isclose(
        summary["bits_per_weight"], summary["stored_bits_weights"] / summary["weights"]
    ):
        yield (
            "bits",
            f"bits_per_weight is {summary['bits_per_weight']}, stored_bits_weights / weights is another number",
        )
