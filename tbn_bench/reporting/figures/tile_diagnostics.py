"""How a tile settles: share of its signs that flipped since the epoch before, and of weights close to a flip, by epoch; mean over seeds,
band = Student's 95 % interval."""

import functools
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tbn_bench import catalog
from tbn_bench.reporting import style
from tbn_bench.reporting.figures import _panels
from tbn_bench.reporting.load import Records

TITLE = "Tile diagnostics"
_METHODS = (
    "tbn",
    "frozen_tile",
    "repeated_filters",
    "bwn",
)  # those with a tile, and what a tile of p = 1 is
_SHOWN = {"tile/flip_rate": "signs flipped, %", "tile/near_zero": "weights near zero, %"}


@functools.lru_cache(maxsize=1)  # print, page and sidecar ask
def frame(records: Records) -> pd.DataFrame:
    names = style.labels(records.runs["binarizer"])
    shown = [
        (title, [g for g in gs if catalog.parse(g.binarizer)[0] in _METHODS])
        for title, gs in _panels.drawn(records)
    ]
    rows: list[dict[str, Any]] = []
    for key, axis in _SHOWN.items():
        found = _panels.by_epoch(records, key, [g for _, gs in shown for g in gs])
        for title, g in ((title, g) for title, gs in shown for g in gs):
            for epoch, mean, half, n in found.get((g.sweep, g.group_id), []):
                rows.append({"panel": f"{title}: {axis.removesuffix(', %')}", "method": names[g.binarizer], "binarizer": g.binarizer, "line": g.group_id,
                             "x": epoch + 1, "y": 100 * mean, "low": 100 * (mean - half), "high": 100 * (mean + half), "axis": axis, "seeds": n,
                             "runs": f"{g.sweep}/{g.group_id}"})  # fmt: skip
    return _panels.frame(rows)


def print_figure(records: Records) -> Figure | None:
    return _panels.print_panels(
        frame(records), style.methods(records.runs["binarizer"]), "epoch", joined=True
    )


def chart(records: Records) -> Any:
    return _panels.chart_panels(
        frame(records), style.methods(records.runs["binarizer"]), "epoch", joined=True, thin=True
    )
