"""How fragile is a tiled network? Flipped bits, against BWN at the same rate (robustness)."""

import math
from collections.abc import Callable
from typing import Any

from tbn_bench.records.robustness import RobustnessRecord
from tbn_bench.reporting import names
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.questions import arena
from tbn_bench.reporting.questions.contrast import Contrast, answer, counted, signed
from tbn_bench.reporting.questions.question import NOTHING, Mark, Question
from tbn_bench.scores import FIRST

RATES = (0.001, 0.01)
_METHODS = [arena.tbn(p, layout) for p in arena.TILES for layout in arena.LAYOUTS]


def fragile(records: Records) -> Question:
    """The change of accuracy by flipped stored bits, minus that of BWN."""
    found = _of_arena(records)
    binary = found.get("BWN")
    contrasts = []
    for rate in RATES:
        for name in _METHODS:
            record = found.get(name)
            if record is not None and binary is not None:
                contrasts.append(_contrast(name, record, binary, rate))
    commands: tuple[str, ...] = ()
    if not contrasts:
        spec = arena.spec_of(4)
        contrasts = [Contrast("TBN-4, flipped bits", spec, arena.tbn(4), "BWN")]
        commands = (f"tbn-bench robustness {arena.SWEEP}/ID",)
    return Question(
        "fragile",
        "How fragile is it?",
        _said(contrasts, answer(contrasts)),
        _losses(found),
        tuple(contrasts),
        tuple(_marks(found)),
        commands,
        (f"results/robustness/{arena.SWEEP}",),
        "Intervals are over draws of the flipped bits of one trained network each (the lowest "
        "seed), and the two networks are drawn independently.",
    )


def _said(contrasts: list[Contrast], word: str) -> str:
    if word == "Not run":
        return NOTHING
    counts = counted(contrasts, "a tiled network", ("loses less", "more"))
    return f"Where the same share of stored bits flips, {counts}, with BWN."


def _of_arena(records: Records) -> dict[str, RobustnessRecord]:
    """Display name -> record of the lowest seed of the arena's full network."""
    models = {g.model for g in arena.whole(records).values()}
    found: dict[str, RobustnessRecord] = {}
    for record in sorted(records.robustness, key=lambda one: int(one.info["seed"])):
        if record.sweep == arena.SWEEP and record.info["model"] in models:
            found.setdefault(names.method(record.info["binarizer"]), record)
    return found


def _row(record: RobustnessRecord, rate: float) -> dict[str, Any] | None:
    """Flipped stored bits at one rate, without a code."""
    for row in record.rows:
        if row["fault"] == "bits" and row["rate"] == rate and not row.get("code"):
            return row
    return None


def _change(record: RobustnessRecord, row: dict[str, Any]) -> tuple[float, float]:
    """(points by which the flips change the score, half of the 95 % interval)."""
    change = 100 * (row[FIRST] - record.info[FIRST])
    low, high = row.get("low"), row.get("high")
    half = 0.0 if low is None or high is None else 50 * (high - low)
    return change, half


def _contrast(
    name: str, record: RobustnessRecord, binary: RobustnessRecord, rate: float
) -> Contrast:
    label = f"{name}, 1 in {1 / rate:,.0f}"
    own, other = _row(record, rate), _row(binary, rate)
    if own is None or other is None:
        return Contrast(label, record.info["binarizer"], name, "BWN")
    change, half = _change(record, own)
    base, base_half = _change(binary, other)
    return Contrast(
        label,
        record.info["binarizer"],
        name,
        "BWN",
        change - base,
        math.hypot(half, base_half),
        1,
        planned=1,
        groups=(f"{record.sweep}/{record.run_id}", f"{binary.sweep}/{binary.run_id}"),
        run_ids=(record.run_id, binary.run_id),
        draws=min(own.get("draws") or 0, other.get("draws") or 0),
        words=("loses less", "loses more"),
    )


def _losses(found: dict[str, RobustnessRecord]) -> str:
    """The second sentence: the change at each rate, of BWN and of TBN-4."""
    said = []
    for rate in RATES:
        parts = []
        for name in ("BWN", arena.tbn(4)):
            record = found.get(name)
            row = _row(record, rate) if record else None
            if record is not None and row is not None:
                change, half = _change(record, row)
                parts.append(f"{name} {signed(change, half)}")
        if parts:
            said.append(f"at 1 flip in {1 / rate:,.0f}, {' and '.join(parts)} points")
    return f"Change of top-1 {'; '.join(said)}." if said else ""


def _marks(found: dict[str, RobustnessRecord]) -> list[Mark]:
    marks = []
    for name, record in found.items():
        for row in record.rows:
            if row["fault"] != "bits" or row.get("code") or not row["rate"]:
                continue
            change, half = _change(record, row)
            mark = {
                "kind": "xy",
                "axis_x": "probability that a stored bit flips",
                "axis": "points, change of top-1",
                "log": 10,
                "joined": True,
                "label": name,
                "binarizer": record.info["binarizer"],
                "x": row["rate"],
                "y": change,
                "low": change - half,
                "high": change + half,
                "seeds": 1,
            }
            marks.append(mark)
    return marks


ALL: tuple[Callable[[Records], Question], ...] = (fragile,)
