"""Memory of each timed network: bytes of its weights as loaded, and by how much a fresh process grows at its peak to load and call it."""

from typing import Any

import altair as alt
import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.reporting import style
from tbn_bench.reporting.load import Records

TITLE = "Memory of weights and of the process"
_PARTS = {"weight_bytes": "weights", "memory_peak": "process, peak"}
_Y = "MB, lower is better"


def frame(records: Records) -> pd.DataFrame:
    """A row per network, batch, method with implementation, and part: the least where a method was timed in several runs."""
    names = style.labels(records.runs["binarizer"])
    timed = records.latency[
        records.latency["memory_peak"].notna() & records.latency["time_ms_p50"].notna()
    ]
    timed = timed[timed["cache"].eq("hot") & timed["threads"].eq(1)]
    rows = [
        {"panel": f"{row['model']}, batch {row['batch']}, {row['device']}", "binarizer": row["binarizer"], "method": names.get(row["binarizer"], row["binarizer"]),
         "bar": f"{names.get(row['binarizer'], row['binarizer'])}: {row['implementation']}", "part": part, "mb": row[key] / 1e6, "runs": row["run_id"]}
        for row in timed.to_dict("records") for key, part in _PARTS.items() if not style.missing(row[key])
    ]  # fmt: skip
    data = pd.DataFrame(rows, columns=["panel", "binarizer", "method", "bar", "part", "mb", "runs"])
    return data.sort_values("mb").drop_duplicates(["panel", "bar", "part"]).sort_index()


def print_figure(records: Records) -> Figure | None:
    data = frame(records)
    if data.empty:
        return None
    bars = data.groupby("panel")["bar"].nunique().max()
    titles = list(dict.fromkeys(data["panel"]))
    figure = Figure(figsize=(2 * style.COLUMN_INCHES, (0.7 + 0.13 * bars) * len(titles)))
    for place, title in enumerate(titles):
        axes, part = figure.add_subplot(len(titles), 1, place + 1), data[data["panel"] == title]
        labels = list(dict.fromkeys(part["bar"]))
        for name, shift, alpha in (
            (_PARTS["weight_bytes"], -0.2, 1.0),
            (_PARTS["memory_peak"], 0.2, 0.4),
        ):
            own = part[part["part"] == name]
            axes.barh([labels.index(bar) + shift for bar in own["bar"]], own["mb"], height=0.38, alpha=alpha, label=name,
                      color=[style.colour(spec) for spec in own["binarizer"]])  # fmt: skip
        axes.set_yticks(range(len(labels)), labels, fontsize=6)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(title=title, xlabel=f"{_Y} (full: weights, faint: peak growth of a fresh process)")
    return figure


def chart(records: Records) -> Any:
    data = frame(records)
    if data.empty:
        return None
    specs = list(dict.fromkeys(data["binarizer"]))
    names = list(dict.fromkeys(data["method"]))
    colours = alt.Color(
        "method:N",
        scale=alt.Scale(domain=names, range=[style.colour(s) for s in specs]),
        legend=style.CHART_LEGEND,
    )
    chosen = alt.selection_point(name="chosen", fields=["method"], bind="legend")
    charts = [
        alt.Chart(part.drop(columns=["panel", "binarizer"]).round({"mb": 3})).mark_bar().encode(
            y=alt.Y("bar:N", sort=None, title=None, axis=alt.Axis(labelLimit=260)), yOffset="part:N",
            x=alt.X("mb:Q", scale=alt.Scale(type="log"), title=_Y), color=colours,
            fillOpacity=alt.condition(alt.datum.part == _PARTS["weight_bytes"], alt.value(1.0), alt.value(0.4)),
            opacity=alt.condition(chosen, alt.value(1.0), alt.value(0.12)), tooltip=["method", "bar", "part", "mb", "runs"],
        ).properties(title=style.wrapped(str(panel)), width=330)
        for panel, part in data.groupby("panel", sort=False)
    ]  # fmt: skip
    return alt.concat(*charts, columns=1).add_params(chosen)
