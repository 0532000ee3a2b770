"""Memory of each timed network.

It shows the bytes of its weights as loaded, and by how much a fresh process grows at its peak when
it loads and calls the network.
"""

from typing import Any

import altair as alt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tbn_bench.reporting import style
from tbn_bench.reporting.figures import _panels
from tbn_bench.reporting.load import Records

TITLE = "Memory of weights and of the process"
_WEIGHTS = "weights"
_PROCESS = "process, peak"
_PARTS = {"weight_bytes": _WEIGHTS, "memory_peak": _PROCESS}
_COLUMNS = ["panel", "binarizer", "method", "bar", "part", "mb", "runs"]
_FAINT = 0.4  # opacity of the process beside its weights
_Y = "MB, lower is better"


def frame(records: Records) -> pd.DataFrame:
    """A row per network, batch, method with implementation, and part.

    Where a method was timed in several runs, the least.
    """
    names = style.labels(records.runs["binarizer"])
    timed = records.latency
    is_measured = timed["memory_peak"].notna() & timed["time_ms_p50"].notna()
    timed = timed[is_measured]
    is_hot = timed["cache"].eq("hot")
    is_single = timed["threads"].eq(1)
    timed = timed[is_hot & is_single]
    rows: list[dict[str, Any]] = []
    for row in timed.to_dict("records"):
        method = names.get(row["binarizer"], row["binarizer"])
        rows += _bars(row, method)
    data = pd.DataFrame(rows, columns=_COLUMNS)
    least = data.sort_values("mb").drop_duplicates(["panel", "bar", "part"])
    return least.sort_index()


def _bars(row: dict[str, Any], method: str) -> list[dict[str, Any]]:
    """A row per part that was measured."""
    known = [key for key in _PARTS if not style.missing(row[key])]
    return [
        {
            "panel": f"{row['model']}, batch {row['batch']}, {row['device']}",
            "binarizer": row["binarizer"],
            "method": method,
            "bar": f"{method}: {row['implementation']}",
            "part": _PARTS[key],
            "mb": row[key] / 1e6,
            "runs": row["run_id"],
        }
        for key in known
    ]


def print_figure(records: Records) -> Figure | None:
    data = frame(records)
    if data.empty:
        return None
    bars = data.groupby("panel")["bar"].nunique().max()
    titles = list(dict.fromkeys(data["panel"]))
    height = (0.7 + 0.13 * bars) * len(titles)
    figure = Figure(figsize=(2 * style.COLUMN_INCHES, height))
    for place, title in enumerate(titles):
        axes = figure.add_subplot(len(titles), 1, place + 1)
        _draw(axes, data[data["panel"] == title])
        axes.set(title=title, xlabel=f"{_Y} (full: weights, faint: peak growth of a fresh process)")
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
    axes.set_yticks(range(len(bars)), bars, fontsize=6)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def chart(records: Records) -> Any:
    data = frame(records)
    if data.empty:
        return None
    specs = dict.fromkeys(data["binarizer"])
    names = list(dict.fromkeys(data["method"]))
    in_colour = alt.Scale(domain=names, range=[style.colour(spec) for spec in specs])
    colours = alt.Color("method:N", scale=in_colour, legend=style.CHART_LEGEND)
    chosen = _panels.by_legend()
    is_weights = alt.datum.part == _WEIGHTS
    charts = []
    for panel, part in data.groupby("panel", sort=False):
        shown = part.drop(columns=["panel", "binarizer"]).round({"mb": 3})
        bars = alt.Chart(shown).mark_bar()
        bars = bars.encode(
            y=alt.Y("bar:N", sort=None, title=None, axis=alt.Axis(labelLimit=260)),
            yOffset="part:N",
            x=alt.X("mb:Q", scale=alt.Scale(type="log"), title=_Y),
            color=colours,
            fillOpacity=alt.condition(is_weights, alt.value(1.0), alt.value(_FAINT)),
            opacity=_panels.faint_unless(chosen),
            tooltip=["method", "bar", "part", "mb", "runs"],
        )
        charts.append(bars.properties(title=style.wrapped(str(panel)), width=330))
    return alt.concat(*charts, columns=1).add_params(chosen)
