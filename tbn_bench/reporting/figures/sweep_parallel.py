"""Parallel coordinates of each sweep.

Each run is a line through the values of its varied parameters, coloured by its score.
"""

from typing import Any

import altair as alt
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tbn_bench.reporting import style
from tbn_bench.reporting.figures import _searched
from tbn_bench.reporting.load import Records
from tbn_bench.scores import Score

TITLE = "Sweeps: parallel coordinates"
NEEDS = "a sweep of 8 runs or more that varied two parameters"
_MAP = "viridis"
_MOST = 300  # runs: of more, a share that is spread evenly over the scores


def frame(records: Records) -> pd.DataFrame:
    """A row per sweep, run and parameter: its place in [0, 1] and its value.

    The score comes last, as one more parameter.
    """
    out = []
    for title, score, table, varied in _searched.sweeps(records):
        if len(table) > _MOST:
            title = f"{title}, {_MOST} of {len(table)} runs"
            table = _spread(table)
        for name in (*varied, "score"):
            out.append(_axis(title, score, table, name))
    return pd.concat(out, ignore_index=True) if out else pd.DataFrame()


def _spread(table: pd.DataFrame) -> pd.DataFrame:
    """_MOST runs, from the lowest to the highest score."""
    chosen = np.linspace(0, len(table) - 1, _MOST).round().astype(int)
    return table.sort_values("score", kind="stable").iloc[chosen]


def _axis(title: str, score: Score, table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of one parameter."""
    places, _ = _searched.place(table[name])
    return pd.DataFrame(
        {
            "panel": title,
            "run": table["run_id"],
            "parameter": score.label if name == "score" else name,
            "place": places,
            "value": table[name].map(_shown),
            "score": table["score"],
            "axis": score.label,
        }
    )


def _shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def print_panel(panel: pd.DataFrame, width: float) -> Figure:
    figure = Figure(figsize=(width, 2.6))
    axes = figure.add_subplot()
    scale = mpl.colors.Normalize(panel["score"].min(), panel["score"].max())
    _draw(axes, panel, scale)
    axes.set_title(style.title_text(str(panel["panel"].iloc[0]), width), loc="left", pad=16)
    colours = mpl.cm.ScalarMappable(scale, _MAP)
    figure.colorbar(colours, ax=axes, label=panel["axis"].iloc[0])
    return figure


def _draw(axes: Axes, panel: pd.DataFrame, scale: mpl.colors.Normalize) -> None:
    """A line per run; the ends of each axis have their values."""
    names = list(dict.fromkeys(panel["parameter"]))
    colours = mpl.colormaps[_MAP]
    for _, run in panel.groupby("run", sort=False):
        colour = colours(scale(run["score"].iloc[0]))
        axes.plot(range(len(names)), run["place"], color=colour, linewidth=0.6, alpha=0.7)
    for k, name in enumerate(names):
        own = panel[panel["parameter"] == name]
        values = own.sort_values("place")["value"]
        low = style.short(values.iloc[0], 12)
        high = style.short(values.iloc[-1], 12)
        axes.text(k, -0.06, low, ha="center", va="top", fontsize=7)
        axes.text(k, 1.04, high, ha="center", va="bottom", fontsize=7)
    axes.set(xticks=range(len(names)), yticks=[], ylim=(-0.2, 1.15))
    axes.set_xticklabels(names)


def chart(records: Records) -> Any:
    data = frame(records)
    if data.empty:
        return None
    charts = []
    for panel, part in data.groupby("panel", sort=False):
        shown = part.drop(columns=["panel", "axis"]).round({"place": 3, "score": 3})
        names = list(dict.fromkeys(part["parameter"]))
        axis = str(part["axis"].iloc[0])
        lines = alt.Chart(shown).mark_line(opacity=0.5)
        lines = lines.encode(
            x=alt.X("parameter:N", sort=names, title=None, axis=alt.Axis(labelAngle=0)),
            y=alt.Y("place:Q", axis=None),
            detail="run:N",
            tooltip=["run", "parameter", "value", "score"],
            color=alt.Color("score:Q", scale=alt.Scale(scheme=_MAP), title=axis),
        )
        charts.append(lines.properties(title=style.wrapped(str(panel)), width=720, height=220))
    return alt.vconcat(*charts).resolve_scale(color="independent", x="independent")
