"""Each method against its baseline, paired by seed: mean difference with its interval, an exact test and its correction within the panel."""

from typing import Any

from tbn_bench.reporting import style, tracks
from tbn_bench.reporting.groups import Group, groups
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.stats import (
    MAX_PAIRS,
    holm,
    paired_differences,
    paired_interval,
    sign_flip_p,
    smallest_p,
)
from tbn_bench.reporting.write import Column, Table, column
from tbn_bench.scores import SCORES


def differences(records: Records) -> Table | None:
    """A row per method and baseline with at least two seeds in common; None where there is none."""
    panels: dict[tuple[str, str, str], list[Group]] = {}
    for g in groups(records):
        panels.setdefault(g.panel, []).append(g)
    rows, few = list[dict[str, Any]](), 0
    for found in panels.values():
        own = [_row(g, base) for g in found for base in _baselines(g, found)]
        kept = [row for row in own if row["n"] > 1]
        few += len(own) - len(kept)
        tested = [row for row in kept if row["p"] is not None]
        for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["p_holm"] = float(p)
        rows += kept
    if not rows:
        return None
    names = style.labels(records.runs["binarizer"])
    columns = [
        column("data", "data", numeric=False), column("model", "model", numeric=False),
        *([column("track", "track", numeric=False)] if len({row["track"] for row in rows}) > 1 else []),
        Column("binarizer", "method", lambda r: names[r["binarizer"]], numeric=False),
        Column("baseline", "baseline", lambda r: names[r["baseline"]], numeric=False),
        Column("score", "score", lambda r: SCORES[r["score"]].label.removesuffix(" %"), numeric=False),
        Column("difference", "difference (95 % interval)", _difference), column("n", "pairs", "d"),
        column("p", "exact p", ".3g"), column("p_holm", "p, Holm", ".3g"),
    ]  # fmt: skip
    ids = sorted({run_id for row in rows for run_id in row["run_ids"]})
    raw = ("sweep", "data", "model", "track", "binarizer", "baseline", "score", "difference", "difference_half", "n", "p", "p_holm")  # fmt: skip
    return Table(
        "Differences from the baselines, paired by seed",
        columns,
        rows,
        _note(rows, few),
        ids,
        raw=raw,
    )


def _baselines(g: Group, found: list[Group]) -> list[Group]:
    """Full precision, and bwn for methods under one bit, of the same panel. None of a name that has several configurations there: which
    one is meant is not known."""
    sub_bit = (g.first["bits_per_binarized_weight"] or 1) < 1 and g.track == tracks.WEIGHTS_ONLY
    out = []
    for name in ("full_precision", *(["bwn"] if sub_bit else [])):
        named = [base for base in found if base.binarizer == name and base.score == g.score]
        out += named if len(named) == 1 and g.binarizer != name else []
    return out


def _row(g: Group, base: Group) -> dict[str, Any]:
    d = paired_differences(g.by_seed, base.by_seed)
    interval = paired_interval(d)
    return {
        "sweep": g.sweep, "data": g.data, "model": g.model, "track": g.track, "binarizer": g.binarizer, "baseline": base.binarizer,
        "score": g.score, "difference": interval and interval.mean, "difference_half": interval and interval.half, "n": len(d),
        "p": sign_flip_p(d), "p_holm": None, "run_ids": g.run_ids + base.run_ids,
    }  # fmt: skip


def _difference(row: dict[str, Any]) -> str:
    """In percentage points, or in the unit of an error."""
    score = SCORES[row["score"]]
    shown = f"{score.factor * row['difference']:+.{score.digits}f} ± {score.text(row['difference_half'], False)}"
    return shown.replace("-", "\u2212")


def _note(rows: list[dict[str, Any]], few: int) -> str:
    limits = "; ".join(
        f"with {n} pairs never under {smallest_p(n):.3g}"
        for n in sorted({row["n"] for row in rows})
        if n <= MAX_PAIRS
    )
    note = (
        "Method minus baseline over the seeds that both have, with Student's 95 % interval: of accuracies and overlaps in percentage "
        "points, where above 0 is better; of MSE as it is, where under 0 is better. Baselines: full precision of the same sweep, data and "
        "model, and bwn (one bit per weight and a scale) for methods that keep under one bit per binarized weight. "
        f"Exact p: two-sided, over all 2^n flips of sign; {limits}; under 0.05 it takes 6. Holm: corrected for all rows of the same sweep, "
        "data and model. An interval over few seeds rests on normal differences."
    )
    return note + (
        f" Left out: {few} comparisons with fewer than two seeds in common." if few else ""
    )
