"""Held-out score by epoch: mean over seeds, band = Student's 95 % interval (no band for one seed)."""

import functools
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.reporting import style
from tbn_bench.reporting.figures import _panels
from tbn_bench.reporting.load import Records
from tbn_bench.scores import SCORES

TITLE = "Training curves"


@functools.lru_cache(maxsize=1)  # print, page and sidecar ask
def frame(records: Records) -> pd.DataFrame:
    """A row per panel, method and epoch that at least one run reached: mean, low, high as shown, n. Runs without a result are drawn too."""
    names, shown = style.labels(records.runs["binarizer"]), _panels.drawn(records, unfinished=True)
    rows: list[dict[str, Any]] = []
    found = _panels.by_epoch(records, "val/score", [g for _, gs in shown for g in gs])
    for title, g in ((title, g) for title, gs in shown for g in gs):
        factor = SCORES[g.score].factor
        for epoch, mean, half, n in found.get((g.sweep, g.group_id), []):
            rows.append({"panel": title, "method": names[g.binarizer], "binarizer": g.binarizer, "line": g.group_id, "x": epoch + 1, "y": factor * mean,
                         "low": factor * (mean - half), "high": factor * (mean + half), "axis": f"held-out {SCORES[g.score].axis}", "seeds": n,
                         "runs": f"{g.sweep}/{g.group_id}"})  # fmt: skip
    return _panels.frame(rows)


def limits(panel: pd.DataFrame) -> tuple[float, float]:
    """From just under the lowest means to just over the highest; the worst of the first epochs may lie outside. Percentages end at 100."""
    if "%" not in panel["axis"].iloc[0]:
        low, high = float(panel["low"].min()), float(panel["y"].quantile(0.97))
        margin = 0.05 * ((high - low) or high or 1.0)
        return max(0.0, low - margin), high + margin
    low = max(0.0, float(panel["y"].quantile(0.03)) - 5)
    return low, min(100.0, float(panel["high"].max()) + 1)


def print_figure(records: Records) -> Figure | None:
    return _panels.print_panels(
        frame(records),
        style.methods(records.runs["binarizer"]),
        "epoch",
        joined=True,
        limits=limits,
    )


def chart(records: Records) -> Any:
    return _panels.chart_panels(
        frame(records),
        style.methods(records.runs["binarizer"]),
        "epoch",
        joined=True,
        limits=limits,
        thin=True,
    )
