"""Parallel coordinates of each sweep: a line per run through the values of what was varied, coloured by its score."""

from typing import Any

import altair as alt
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.reporting import style
from tbn_bench.reporting.figures import _searched
from tbn_bench.reporting.load import Records

TITLE = "Sweeps: parallel coordinates"
_MAP, _MOST = "viridis", 300  # runs: of more, a share that is spread evenly over the scores


def frame(records: Records) -> pd.DataFrame:
    """A row per sweep, run and parameter: its place in [0, 1] and its value; the score comes last, as one more."""
    out = []
    for title, score, table, varied in _searched.sweeps(records):
        if len(table) > _MOST:
            chosen = np.linspace(0, len(table) - 1, _MOST).round().astype(int)
            title, table = (
                f"{title}, {_MOST} of {len(table)} runs",
                table.sort_values("score", kind="stable").iloc[chosen],
            )
        for name in (*varied, "score"):
            places, _ = _searched.place(table[name])
            shown = table[name].map(lambda v: f"{v:.5g}" if isinstance(v, float) else str(v))
            out.append(pd.DataFrame({"panel": title, "run": table["run_id"], "parameter": score.label if name == "score" else name, "place": places,
                                     "value": shown, "score": table["score"], "axis": score.label}))  # fmt: skip
    return pd.concat(out, ignore_index=True) if out else pd.DataFrame()


def print_figure(records: Records) -> Figure | None:
    data = frame(records)
    if data.empty:
        return None
    titles = list(dict.fromkeys(data["panel"]))
    figure = Figure(figsize=(2 * style.COLUMN_INCHES, 2.4 * len(titles)))
    for i, title in enumerate(titles):
        axes, panel = figure.add_subplot(len(titles), 1, i + 1), data[data["panel"] == title]
        names = list(dict.fromkeys(panel["parameter"]))
        scale = mpl.colors.Normalize(panel["score"].min(), panel["score"].max())
        for _, run in panel.groupby("run", sort=False):
            axes.plot(
                range(len(names)),
                run["place"],
                color=mpl.colormaps[_MAP](scale(run["score"].iloc[0])),
                linewidth=0.6,
                alpha=0.7,
            )
        for k, name in enumerate(names):
            ends = panel[panel["parameter"] == name].sort_values("place")["value"]
            axes.text(k, -0.06, style.short(ends.iloc[0]), ha="center", va="top", fontsize=4.5)
            axes.text(k, 1.04, style.short(ends.iloc[-1]), ha="center", va="bottom", fontsize=4.5)
        axes.set(title=title + "\n", xticks=range(len(names)), yticks=[], ylim=(-0.2, 1.15))
        axes.set_xticklabels(names)
        figure.colorbar(mpl.cm.ScalarMappable(scale, _MAP), ax=axes, label=panel["axis"].iloc[0])
    return figure


def chart(records: Records) -> Any:
    data = frame(records)
    if data.empty:
        return None
    charts = []
    for panel, part in data.groupby("panel", sort=False):
        charts.append(
            alt.Chart(part.drop(columns=["panel", "axis"]).round({"place": 3, "score": 3})).mark_line(opacity=0.5).encode(
                x=alt.X("parameter:N", sort=list(dict.fromkeys(part["parameter"])), title=None, axis=alt.Axis(labelAngle=0)),
                y=alt.Y("place:Q", axis=None), detail="run:N", tooltip=["run", "parameter", "value", "score"],
                color=alt.Color("score:Q", scale=alt.Scale(scheme=_MAP), title=str(part["axis"].iloc[0])),
            ).properties(title=style.wrapped(str(panel)), width=720, height=220)
        )  # fmt: skip
    return alt.vconcat(*charts).resolve_scale(color="independent", x="independent")
