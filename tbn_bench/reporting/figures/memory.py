"""Memory of each timed network.

It shows the bytes of its weights as loaded, and by how much a fresh process grows at its peak when
it loads and calls the network.
"""

import functools
from typing import Any

import altair as alt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tbn_bench.reporting import names, style
from tbn_bench.reporting.figures import _chart
from tbn_bench.reporting.load import Records

TITLE = "Memory of weights and of the process"
_WEIGHTS = "weights"
_PROCESS = "process, peak"
NEEDS = "timings with memory: tbn-bench latency"
_PARTS = {"weight_bytes": _WEIGHTS, "memory_peak": _PROCESS}
_COLUMNS = ["panel", "binarizer", "method", "bar", "part", "mb", "runs"]
_FAINT = 0.4  # opacity of the process beside its weights
_Y = "MB, lower is better"


@functools.lru_cache(maxsize=1)  # print, page and sidecar ask
def frame(records: Records) -> pd.DataFrame:
    """A row per network, batch, method with implementation, and part.

    Where a method was timed in several runs, the least.
    """
    timed = records.latency
    is_measured = timed["memory_peak"].notna() & timed["time_ms_p50"].notna()
    timed = timed[is_measured]
    is_hot = timed["cache"].eq("hot")
    is_single = timed["threads"].eq(1)
    timed = timed[is_hot & is_single]
    rows: list[dict[str, Any]] = []
    for row in timed.to_dict("records"):
        rows += _bars(row, names.method(row["binarizer"]))
    data = pd.DataFrame(rows, columns=_COLUMNS)
    least = data.sort_values("mb").drop_duplicates(["panel", "bar", "part"])
    return least.sort_index()


def _bars(row: dict[str, Any], method: str) -> list[dict[str, Any]]:
    """A row per part that was measured."""
    known = [key for key in _PARTS if not style.missing(row[key])]
    return [
        {
            "panel": f"{names.network(row['model'])}, batch {row['batch']}, {row['device']}",
            "binarizer": row["binarizer"],
            "method": method,
            "bar": f"{method}: {row['implementation']}",
            "part": _PARTS[key],
            "mb": row[key] / 1e6,
            "runs": row["run_id"],
        }
        for key in known
    ]


def print_panel(panel: pd.DataFrame, width: float) -> Figure:
    bars = panel["bar"].nunique()
    figure = Figure(figsize=(width, 0.8 + 0.17 * bars))
    axes = figure.add_subplot()
    _draw(axes, panel)
    axes.set(xlabel=f"{_Y}; full: weights,\nfaint: peak growth of a fresh process")
    axes.set_title(style.title_text(str(panel["panel"].iloc[0]), width), loc="left")
    return figure


def _draw(axes: Axes, panel: pd.DataFrame) -> None:
    bars = list(dict.fromkeys(panel["bar"]))
    for part, shift, alpha in ((_WEIGHTS, -0.2, 1.0), (_PROCESS, 0.2, _FAINT)):
        own = panel[panel["part"] == part]
        places = [bars.index(bar) + shift for bar in own["bar"]]
        colours = [style.colour(spec) for spec in own["binarizer"]]
        axes.barh(
            places,
            own["mb"],
            height=0.38,
            alpha=alpha,
            label=part,
            color=colours,
        )
    axes.set_yticks(range(len(bars)), bars)
    axes.invert_yaxis()
    style.set_log(axes.xaxis)


def chart(records: Records) -> Any:
    data = frame(records)
    if data.empty:
        return None
    looks = data.drop_duplicates("method")
    colours_of = [style.colour(spec) for spec in looks["binarizer"]]
    in_colour = alt.Scale(domain=list(looks["method"]), range=colours_of)
    colours = alt.Color("method:N", scale=in_colour, legend=style.CHART_LEGEND)
    is_weights = alt.datum.part == _WEIGHTS
    bars = alt.Chart(_chart.ROWS).mark_bar()
    bars = bars.encode(
        y=alt.Y("bar:N", sort=None, title=None, axis=alt.Axis(labelLimit=260)),
        yOffset="part:N",
        x=alt.X("mb:Q", scale=alt.Scale(type="log"), title=_Y),
        color=colours,
        fillOpacity=alt.condition(is_weights, alt.value(1.0), alt.value(_FAINT)),
        tooltip=["method:N", "bar:N", "part:N", "mb:Q", "runs:N"],
    )
    shown = data.round({"mb": 3})
    panels = {}
    for panel, part in shown.groupby("panel", sort=False):
        panels[str(panel)] = part.drop(columns=["panel", "binarizer"])
    return _chart.alike(bars.properties(width=330), panels, columns=1)
