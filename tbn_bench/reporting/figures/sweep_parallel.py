"""Parallel coordinates of each sweep.

Each run is a line through the values of its varied parameters, coloured by its score.
"""

import functools
import textwrap
from typing import Any

import altair as alt
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tbn_bench.reporting import names, style
from tbn_bench.reporting.figures import _searched
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.settings import settings
from tbn_bench.reporting.tables.best_configurations import best_first, searches
from tbn_bench.scores import Score

TITLE = "Sweeps: parallel coordinates"
NEEDS = "a sweep of 8 runs or more that varied two parameters"
_MAP = "viridis"
_NAMES = {"model": names.network, "binarizer": names.method, "data": names.data_set}
_GAP = 0.08  # between two values that are written at an axis
_SHADES = 32  # of the colour bar: more would make it an image
_ROW_INCHES = 0.48  # of a parameter
_MOST_END = 18  # letters in a line of a row's end
_MOST_LINES = 3
_BREAKS = " ,("  # a long beginning that both ends share ends after one of these
_GREY = "#9A9A9A"
_MOST = 300  # runs: of more, a share that is spread evenly over the scores


@functools.lru_cache(maxsize=1)  # print, page and sidecar ask
def frame(records: Records) -> pd.DataFrame:
    """A row per sweep, run and parameter: its place in [0, 1] and its value.

    The score comes last, as one more parameter.
    """
    out = []
    winners = _winners(records)
    for title, score, table, varied in _searched.sweeps(records):
        if len(table) > _MOST:
            title = f"{title}, {_MOST} of {len(table)} runs"
            table = _spread(table)
        for name in (*varied, "score"):
            out.append(_axis(title, score, table, name, winners))
    return pd.concat(out, ignore_index=True) if out else pd.DataFrame()


def _spread(table: pd.DataFrame) -> pd.DataFrame:
    """_MOST runs, from the lowest to the highest score."""
    chosen = np.linspace(0, len(table) - 1, _MOST).round().astype(int)
    return table.sort_values("score", kind="stable").iloc[chosen]


def _winners(records: Records) -> dict[str, str]:
    """Run id -> its method and settings, of the best configurations on held-out data."""
    found = {}
    for members in searches(records).values():
        best = best_first(members)[0]
        said = f"{best.label} with {settings(records, members).of(best)}"
        found.update(dict.fromkeys(best.run_ids, said))
    return found


def _axis(
    title: str, score: Score, table: pd.DataFrame, name: str, winners: dict[str, str]
) -> pd.DataFrame:
    """The rows of one parameter. named: its value is written at the axis."""
    places, _ = _searched.place(table[name])
    return pd.DataFrame(
        {
            "panel": title,
            "run": table["run_id"],
            "parameter": score.label if name == "score" else name,
            "place": places,
            "value": _values(table[name], name),
            "score": table["score"],
            "axis": score.label,
            "named": _spaced(places),
            "winner": [winners.get(run_id, "") for run_id in table["run_id"]],
        }
    )


def _spaced(places: np.ndarray) -> list[bool]:
    """(n,) whether a place is at least _GAP above the last named one; the ends always are."""
    order = np.argsort(places, kind="stable")
    named = np.zeros(len(places), dtype=bool)
    last = -1.0
    top = places[order[-1]]
    for k in order:
        is_end = k == order[-1]
        is_free = places[k] - last >= _GAP and top - places[k] >= _GAP
        if is_end or is_free:
            named[k] = True
            last = places[k]
    return named.tolist()


def _values(column: pd.Series, name: str) -> pd.Series:
    """The texts of a parameter's values; two calls of one name show what differs."""
    if name not in _NAMES:
        return column.map(_shown)
    base = _NAMES[name]
    calls = list(column)
    return column.map(names.distinct(calls, base))


def _shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def print_panel(panel: pd.DataFrame, width: float) -> Figure:
    across = panel["parameter"].nunique()
    figure = Figure(figsize=(width, 1.0 + _ROW_INCHES * across))
    axes = figure.add_subplot()
    scale = mpl.colors.Normalize(panel["score"].min(), panel["score"].max())
    _draw(axes, panel, scale)
    axes.set_title(style.title_text(str(panel["panel"].iloc[0]), width), loc="left")
    few = mpl.colormaps[_MAP].resampled(_SHADES)
    colours = mpl.cm.ScalarMappable(scale, few)
    label = str(panel["axis"].iloc[0])
    figure.colorbar(colours, ax=axes, label=label, orientation="horizontal", aspect=40)
    return figure


def _draw(axes: Axes, panel: pd.DataFrame, scale: mpl.colors.Normalize) -> None:
    """A row per parameter, with its least value at the left and its largest at the right.

    A line per run crosses the rows.
    """
    parameters = list(dict.fromkeys(panel["parameter"]))
    colours = mpl.colormaps[_MAP]
    for _, run in panel.groupby("run", sort=False):
        colour = colours(scale(run["score"].iloc[0]))
        axes.plot(run["place"], range(len(parameters)), color=colour, linewidth=0.6, alpha=0.7)
    for k, name in enumerate(parameters):
        own = panel[panel["parameter"] == name]
        values = own.sort_values("place")["value"]
        low, high = _ends(str(values.iloc[0]), str(values.iloc[-1]))
        axes.axhline(k, color=_GREY, linewidth=0.5, zorder=0)
        axes.text(-0.02, k, f"{name}:\n{low}", ha="right", va="center", fontsize=7)
        axes.text(1.02, k, high, ha="left", va="center", fontsize=7)
    axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(len(parameters) - 0.5, -0.5))
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _ends(low: str, high: str) -> tuple[str, str]:
    """Both ends of a row, so short that they differ: without a long beginning that they share."""
    if max(len(low), len(high)) <= _MOST_END:
        return low, high
    shared = 0
    for k, (one, other) in enumerate(zip(low, high, strict=False)):
        if one != other:
            break
        if one in _BREAKS:
            shared = k + 1
    wrapped = []
    dots = "…" if shared else ""
    for end in (low, high):
        rest = end[shared:]
        if shared:
            rest = rest.removesuffix(")")  # its beginning is in the part that is left out
        lines = textwrap.wrap(dots + rest, _MOST_END)
        wrapped.append("\n".join(lines[:_MOST_LINES]))
    return wrapped[0], wrapped[1]


def _titled(panel: str, part: pd.DataFrame) -> alt.TitleParams:
    """The title, and the winner under it."""
    won = [said for said in part["winner"].unique() if said]
    said = f"Thick: best on held-out data, {won[0]}" if won else ""
    return alt.TitleParams(style.wrapped(panel), subtitle=said)


def chart(records: Records) -> Any:
    data = frame(records)
    if data.empty:
        return None
    charts = []
    for panel, part in data.groupby("panel", sort=False):
        shown = part.drop(columns=["panel", "axis"]).round({"place": 3, "score": 3})
        parameters = list(dict.fromkeys(part["parameter"]))
        axis = str(part["axis"].iloc[0])
        x = alt.X(
            "parameter:N", sort=parameters, title=None, axis=alt.Axis(labelAngle=0, grid=True)
        )
        y = alt.Y("place:Q", axis=None)
        lines = alt.Chart(shown).mark_line(opacity=0.6)
        lines = lines.encode(
            x=x,
            y=y,
            detail="run:N",
            strokeWidth=alt.condition(alt.datum.winner, alt.value(4.0), alt.value(1.0)),
            tooltip=["run", "parameter", "value", "score"],
            color=alt.Color("score:Q", scale=alt.Scale(scheme=_MAP), title=axis),
        )
        values = alt.Chart(shown).transform_filter(alt.datum.named)
        values = values.mark_text(align="left", dx=4, fontSize=11, limit=130)
        values = values.encode(x=x, y=y, text="value:N")
        title = _titled(str(panel), part)
        charts.append((lines + values).properties(title=title, width=720, height=220))
    return alt.vconcat(*charts).resolve_scale(color="independent", x="independent")
