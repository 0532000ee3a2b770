"""Each method against its baseline, paired by seed.

Mean difference with its interval, an exact test, and its correction within the panel.
"""

import statistics

from tbn_bench.reporting import names, tracks
from tbn_bench.reporting.groups import Group, groups, panel_titles
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.stats import (
    holm,
    paired_differences,
    paired_interval,
    sign_flip_p,
)
from tbn_bench.reporting.table import (
    Column,
    Row,
    Table,
    column,
    run_ids,
    text_column,
)
from tbn_bench.scores import SCORES

LEAST_PAIRS = 6  # of fewer, no p can be under 0.05
_RAW = (
    "sweep",
    "data",
    "model",
    "track",
    "binarizer",
    "baseline",
    "score",
    "difference",
    "difference_half",
    "n",
    "p",
    "p_holm",
)


def differences(records: Records) -> Table | None:
    """A row per method and baseline with at least two seeds in common; None if there is none."""
    panels: dict[tuple[str, str, str], list[Group]] = {}
    for g in groups(records):
        panels.setdefault(g.panel, []).append(g)
    titles = panel_titles(panels)
    rows: list[Row] = []
    few = 0
    for panel, found in panels.items():
        compared = [row | {"panel": titles[panel]} for row in _compared(found)]
        kept = [row for row in compared if row["n"] > 1]
        few += len(compared) - len(kept)
        _correct(kept)
        rows += kept
    if not rows:
        return None
    columns = [
        text_column("panel", "data and network"),
        *_track_columns(rows),
        text_column("method", "method"),
        Column("baseline", "baseline", _baseline, numeric=False),
        Column("score", "score", _label, numeric=False),
        Column("difference", "difference (95 % interval)", _difference),
        column("n", "pairs", "d"),
    ]
    if any(row["p"] is not None for row in rows):
        columns += [column("p", "exact p", ".3g"), column("p_holm", "p, Holm", ".3g")]

    return Table(
        "Differences from the baselines, paired by seed",
        columns,
        rows,
        _note(rows, few),
        run_ids(rows),
        raw=_RAW,
    )


def _compared(found: list[Group]) -> list[Row]:
    """A row per group of one panel and baseline."""
    rows = []
    for g in found:
        for base in _baselines(g, found):
            rows.append(_row(g, base))
    return rows


def _correct(rows: list[Row]) -> None:
    """Adds Holm's correction over the tests of one panel."""
    tested = []
    p_values = []
    for row in rows:
        if row["p"] is not None:
            tested.append(row)
            p_values.append(row["p"])
    for row, adjusted in zip(tested, holm(p_values), strict=True):
        row["p_holm"] = float(adjusted)


def _track_columns(rows: list[Row]) -> list[Column]:
    """The track, if the table has several."""
    found = {row["track"] for row in rows}
    if len(found) < 2:
        return []
    return [text_column("track", "track")]


def _baselines(g: Group, found: list[Group]) -> list[Group]:
    """Full precision, and bwn for methods under one bit, of the same panel.

    A name with several configurations in the panel gives none, because nothing says which one is
    meant.
    """
    names = ["full_precision"]
    bits = g.first["bits_per_binarized_weight"] or 1
    if bits < 1 and g.track == tracks.WEIGHTS_ONLY:
        names.append("bwn")
    baselines = []
    for name in names:
        named = [base for base in found if base.binarizer == name and base.score == g.score]
        if len(named) == 1 and g.binarizer != name:
            baselines += named
    return baselines


def _row(g: Group, base: Group) -> Row:
    paired = paired_differences(g.by_seed, base.by_seed)
    interval = paired_interval(paired)
    return {
        "sweep": g.sweep,
        "data": g.data,
        "model": g.model,
        "track": g.track,
        "method": g.label,
        "binarizer": g.binarizer,
        "baseline": base.binarizer,
        "score": g.score,
        "difference": interval and interval.mean,
        "difference_half": interval and interval.half,
        "n": len(paired),
        "p": sign_flip_p(paired) if len(paired) >= LEAST_PAIRS else None,
        "p_holm": None,
        "run_ids": g.run_ids + base.run_ids,
    }


def _baseline(row: Row) -> str:
    return names.method(row["baseline"])


def _label(row: Row) -> str:
    """The score without its unit: differences are in percentage points."""
    score = SCORES[row["score"]]
    return score.label.removesuffix(" %")


def _difference(row: Row) -> str:
    """In percentage points, or in the unit of an error."""
    score = SCORES[row["score"]]
    scaled = score.factor * row["difference"]
    mean = f"{scaled:+.{score.digits}f}"
    half = score.text(row["difference_half"], False)
    shown = f"{mean} ± {half}"
    return shown.replace("-", "\u2212")


def _note(rows: list[Row], few: int) -> str:
    note = (
        "Method minus baseline over the seeds that both have, with Student's 95 % interval. "
        "Accuracies and overlaps differ in percentage points, and above 0 is better; for MSE, "
        "below 0 is better. Baselines: full precision of the same sweep, data and model; also BWN "
        "(one bit per weight and a scale) for methods with less than one bit per binarized weight. "
        "An interval over few seeds assumes normally distributed differences."
    )
    note += _resolution(rows)
    if any(row["p"] is not None for row in rows):
        note += (
            " Exact p: two-sided, over all 2^n flips of sign, from 6 pairs on. Holm: corrected for "
            "all rows of the same sweep, data and model."
        )
    if few:
        note += f" Left out: {few} comparisons with fewer than two seeds in common."
    return note


def _resolution(rows: list[Row]) -> str:
    """How small a difference the seeds can separate: the median half width per number of pairs."""
    by_pairs: dict[int, list[float]] = {}
    for row in rows:
        if SCORES[row["score"]].factor == 100:
            by_pairs.setdefault(row["n"], []).append(100 * row["difference_half"])
    said = ""
    for n, halves in sorted(by_pairs.items()):
        said += f" {n} seeds can separate about {statistics.median(halves):.1f} points."
    return said
