"""Held-out score by epoch.

Lines are means over seeds, bands are Student's 95 % intervals (no band for one seed).
"""

import functools
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.reporting.figures import _chart, _panels, _print
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records
from tbn_bench.scores import SCORES

TITLE = "Training curves"


def _drawn(records: Records) -> list[tuple[str, Group]]:
    """(panel, group), also of groups without a result."""
    found = []
    for title, gs in _panels.drawn(records, unfinished=True):
        found += [(title, g) for g in gs]
    return found


@functools.lru_cache(maxsize=1)  # print, page and sidecar ask
def frame(records: Records) -> pd.DataFrame:
    """A row per panel, method and epoch that at least one run reached: mean, low, high as shown, n.

    Runs without a result are drawn too.
    """
    drawn = _drawn(records)
    curves = _panels.by_epoch(records, "val/score", [g for _, g in drawn])
    rows: list[dict[str, Any]] = []
    for title, g in drawn:
        score = SCORES[g.score]
        same = _panels.named(g) | {
            "panel": title,
            "line": g.group_id,
            "axis": f"held-out {score.axis}",
            "runs": f"{g.sweep}/{g.group_id}",
        }
        epochs = curves.get((g.sweep, g.group_id), [])
        rows += [same | epoch.shown(score.factor) for epoch in epochs]
    return _panels.telling(_panels.frame(rows), _panels.is_short_curve)


def limits(panel: pd.DataFrame) -> tuple[float, float]:
    """From just under the lowest means to just over the highest. Percentages end at 100.

    The worst means of the first epochs may be outside.
    """
    if "%" in panel["axis"].iloc[0]:
        low = float(panel["y"].quantile(0.03))
        high = float(panel["high"].max())
        return max(0.0, low - 5), min(100.0, high + 1)
    low = float(panel["low"].min())
    high = float(panel["y"].quantile(0.97))
    span = (high - low) or high or 1.0
    margin = 0.05 * span
    return max(0.0, low - margin), high + margin


NEEDS = "an epoch"
_LAYOUT = _panels.Layout("epoch", joined=True, limits=limits, thin=True)


def print_panel(panel: pd.DataFrame, width: float) -> Figure:
    return _print.panel_figure(panel, width, _LAYOUT)


def chart(records: Records) -> Any:
    return _chart.chart_panels(frame(records), _LAYOUT)
