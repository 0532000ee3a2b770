"""The score over the two numbers of a sweep that explain most of it.

Every run is a point. Contours are by linear interpolation between them.
"""

import functools
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation

from tbn_bench.reporting import style
from tbn_bench.reporting.figures import _chart, _searched
from tbn_bench.reporting.load import Records
from tbn_bench.scores import Score

TITLE = "Sweeps: score over two parameters"
NEEDS = "a sweep of 8 runs or more that varied two numbers"
_MAP = "viridis"


@functools.lru_cache(maxsize=1)  # print, page and sidecar ask
def frame(records: Records) -> pd.DataFrame:
    """A row per sweep and run: x, y, their names, whether their axes are logarithmic, score."""
    out = []
    for title, score, table, varied in _searched.sweeps(records):
        names = _strongest(table, varied)
        if len(names) == 2:
            out.append(_points(title, score, table, names))
    return pd.concat(out, ignore_index=True) if out else pd.DataFrame()


def _strongest(table: pd.DataFrame, varied: list[str]) -> list[str]:
    """The two numbers that explain most of the score; fewer where there are fewer."""
    shares = {}
    for name in varied:
        values = table[name]
        is_number = pd.api.types.is_numeric_dtype(values)
        if is_number and values.nunique() > 2:
            shares[name] = _searched.explained(values, table["score"])
    falling = sorted(shares, key=lambda name: -shares[name])
    return falling[:2]


def _points(title: str, score: Score, table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    x_name, y_name = names
    x = table[x_name].astype(float)
    y = table[y_name].astype(float)
    return pd.DataFrame(
        {
            "panel": title,
            "run": table["run_id"],
            "x": x,
            "y": y,
            "x name": x_name,
            "y name": y_name,
            "score": table["score"],
            "axis": score.label,
            "x log": _is_wide(x),
            "y log": _is_wide(y),
        }
    )


def _is_wide(values: pd.Series) -> bool:
    """Whether positive values span more than two decades."""
    if not (values > 0).all():
        return False
    return bool(values.max() / values.min() > 100)


def _scale(first: pd.Series, axis: str) -> str:
    return "log" if first[f"{axis} log"] else "linear"


def print_panel(panel: pd.DataFrame, width: float) -> Figure:
    figure = Figure(figsize=(width, 2.5))
    axes = figure.add_subplot()
    points = _draw(axes, panel)
    axes.set_title(style.title_text(str(panel["panel"].iloc[0]), width), loc="left")
    bar = figure.colorbar(points, ax=axes, label=panel["axis"].iloc[0])
    bar.solids.set_rasterized(False)
    return figure


def _draw(axes: Axes, panel: pd.DataFrame) -> Any:
    """Contours and points; returns the points, from which a colour bar is made."""
    first = panel.iloc[0]
    x = _placed(panel, "x")
    y = _placed(panel, "y")
    centred = np.column_stack([x - x.mean(), y - y.mean()])
    if np.linalg.matrix_rank(centred) == 2:  # else the points are on one line
        triangles = Triangulation(x, y).triangles
        shown = {"levels": 10, "cmap": _MAP, "alpha": 0.6}
        axes.tricontourf(panel["x"], panel["y"], triangles, panel["score"], **shown)
    points = axes.scatter(
        panel["x"],
        panel["y"],
        c=panel["score"],
        cmap=_MAP,
        s=8,
        edgecolors="black",
        linewidths=0.3,
    )
    if first["x log"]:
        style.set_log(axes.xaxis)
    if first["y log"]:
        style.set_log(axes.yaxis)
    axes.set(xlabel=first["x name"], ylabel=first["y name"])
    return points


def _placed(panel: pd.DataFrame, axis: str) -> pd.Series:
    """The values as their axis shows them."""
    values = panel[axis]
    return np.log(values) if panel[f"{axis} log"].iloc[0] else values


def chart(records: Records) -> Any:
    data = frame(records)
    if data.empty:
        return None
    charts = []
    for panel, part in data.groupby("panel", sort=False):
        first = part.iloc[0]
        x_scale = alt.Scale(type=_scale(first, "x"), zero=False, padding=12)
        y_scale = alt.Scale(type=_scale(first, "y"), zero=False, padding=12)
        points = alt.Chart(part[["run", "x", "y", "score"]]).mark_circle(size=80)
        points = points.encode(
            x=alt.X("x:Q", scale=x_scale, title=first["x name"]),
            y=alt.Y("y:Q", scale=y_scale, title=first["y name"]),
            color=alt.Color("score:Q", scale=alt.Scale(scheme=_MAP), title=first["axis"]),
            tooltip=["run", "x", "y", "score"],
        )
        charts.append(points.properties(title=style.wrapped(str(panel)), **_chart.SIZE))
    return alt.concat(*charts, columns=2).resolve_scale(color="independent")
