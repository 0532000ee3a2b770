"""The score over the two numbers of a sweep that explain most of it: every run as a point, contours by linear interpolation between them."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation

from tbn_bench.reporting import style
from tbn_bench.reporting.figures import _searched
from tbn_bench.reporting.load import Records

TITLE = "Sweeps: score over two parameters"
_MAP = "viridis"


def frame(records: Records) -> pd.DataFrame:
    """A row per sweep and run: x, y, their names, whether their axes are logarithmic, score."""
    out = []
    for title, score, table, varied in _searched.sweeps(records):
        numbers = [
            n for n in varied if pd.api.types.is_numeric_dtype(table[n]) and table[n].nunique() > 2
        ]
        names = sorted(numbers, key=lambda n: -_searched.explained(table[n], table["score"]))[:2]
        if len(names) == 2:
            x, y = (table[n].astype(float) for n in names)
            out.append(pd.DataFrame({"panel": title, "run": table["run_id"], "x": x, "y": y, "x name": names[0], "y name": names[1], "score": table["score"],
                                     "axis": score.label, "x log": _is_wide(x), "y log": _is_wide(y)}))  # fmt: skip
    return pd.concat(out, ignore_index=True) if out else pd.DataFrame()


def _is_wide(values: pd.Series) -> bool:
    return bool((values > 0).all() and values.max() / values.min() > 100)


def print_figure(records: Records) -> Figure | None:
    data = frame(records)
    if data.empty:
        return None
    titles = list(dict.fromkeys(data["panel"]))
    figure, all_axes = style.print_grid(len(titles), 2.5)
    for axes, title in zip(all_axes, titles, strict=True):
        part = data[data["panel"] == title]
        first = part.iloc[0]
        at = [np.log(part[k]) if first[f"{k} log"] else part[k] for k in ("x", "y")]
        if (
            np.linalg.matrix_rank(np.column_stack([v - v.mean() for v in at])) == 2
        ):  # else the points lie on a line
            triangles = Triangulation(*at).triangles
            axes.tricontourf(
                part["x"], part["y"], triangles, part["score"], levels=10, cmap=_MAP, alpha=0.6
            )
        drawn = axes.scatter(
            part["x"],
            part["y"],
            c=part["score"],
            cmap=_MAP,
            s=8,
            edgecolors="black",
            linewidths=0.3,
        )
        axes.set_xscale("log" if first["x log"] else "linear")
        axes.set_yscale("log" if first["y log"] else "linear")
        axes.set(
            title="\n".join(style.wrapped(title)), xlabel=first["x name"], ylabel=first["y name"]
        )
        figure.colorbar(drawn, ax=axes, label=first["axis"])
    return figure


def chart(records: Records) -> Any:
    data = frame(records)
    if data.empty:
        return None
    charts = []
    for panel, part in data.groupby("panel", sort=False):
        first = part.iloc[0]
        scales = {
            k: alt.Scale(type="log" if first[f"{k} log"] else "linear", zero=False, padding=12)
            for k in ("x", "y")
        }
        charts.append(
            alt.Chart(part[["run", "x", "y", "score"]]).mark_circle(size=80).encode(
                x=alt.X("x:Q", scale=scales["x"], title=first["x name"]), y=alt.Y("y:Q", scale=scales["y"], title=first["y name"]),
                color=alt.Color("score:Q", scale=alt.Scale(scheme=_MAP), title=first["axis"]), tooltip=["run", "x", "y", "score"],
            ).properties(title=style.wrapped(str(panel)), width=330, height=240)
        )  # fmt: skip
    return alt.concat(*charts, columns=2).resolve_scale(color="independent")
