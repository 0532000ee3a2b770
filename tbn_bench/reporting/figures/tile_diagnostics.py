"""How a tile settles: share of its signs that flipped since the epoch before, and of weights close to a flip, by epoch; mean over seeds."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tbn_bench import catalog
from tbn_bench.reporting import style
from tbn_bench.reporting.figures import _panels
from tbn_bench.reporting.groups import groups, panels
from tbn_bench.reporting.load import Records

TITLE = "Tile diagnostics"
_METHODS = ("tbn", "frozen_tile", "repeated_filters", "bwn")  # those with a tile, and what a tile of p = 1 is
_SHOWN = {"tile/flip_rate": "signs flipped, %", "tile/near_zero": "weights near zero, %"}


def frame(records: Records) -> pd.DataFrame:
    """Mean, and from least to most over seeds."""
    names = style.labels(records.runs["binarizer"])
    titles = {(g.sweep, g.group_id): (title, g) for title, gs in panels(groups(records)) for g in gs}
    rows: list[dict[str, Any]] = []
    for key, axis in _SHOWN.items():
        curves = records.curves[records.curves["binarizer"].map(lambda spec: catalog.parse(spec)[0] in _METHODS)].dropna(
            subset=[key]
        )
        values = curves.assign(value=100 * pd.to_numeric(curves[key], errors="coerce"))
        by = values.groupby(["sweep", "group_id", "epoch"], sort=True)["value"].agg(["mean", "min", "max", "count"])
        for (sweep, group_id, epoch), found in zip(by.index, by.itertuples(index=False), strict=True):
            title, g = titles[sweep, group_id]
            rows.append({"panel": f"{title}: {axis.removesuffix(', %')}", "method": names[g.binarizer], "binarizer": g.binarizer, "x": epoch + 1, "y": found.mean,
                         "low": found.min, "high": found.max, "axis": axis, "seeds": found.count, "line": group_id,
                         "runs": f"{sweep}/{group_id}"})  # fmt: skip
    return _panels.frame(rows)


def print_figure(records: Records) -> Figure | None:
    return _panels.print_panels(frame(records), style.methods(records.runs["binarizer"]), "epoch", joined=True)


def chart(records: Records) -> Any:
    return _panels.chart_panels(frame(records), style.methods(records.runs["binarizer"]), "epoch", joined=True)
