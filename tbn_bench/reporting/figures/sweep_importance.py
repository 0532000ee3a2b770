"""Which parameter of a sweep moved the score.

The share of the score's variance that each parameter explains by itself (epsilon squared).
"""

import functools
from typing import Any

import altair as alt
import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.reporting import style
from tbn_bench.reporting.figures import _searched
from tbn_bench.reporting.load import Records

TITLE = "Sweeps: importance of parameters"
NEEDS = "a sweep of 8 runs or more that varied two parameters"
_X = "variance of the score explained alone, %"


@functools.lru_cache(maxsize=1)  # print, page and sidecar ask
def frame(records: Records) -> pd.DataFrame:
    """A row per sweep and parameter: percent, in falling order."""
    rows: list[dict[str, Any]] = []
    ids: set[str] = set()
    for title, score, table, varied in _searched.sweeps(records):
        ids |= set(table["run_id"])
        shares = {name: 100 * _searched.explained(table[name], table["score"]) for name in varied}
        falling = sorted(shares.items(), key=lambda share: -share[1])
        for name, percent in falling:
            row = {
                "panel": f"{title}: {score.label}",
                "parameter": name,
                "percent": percent,
                "runs": len(table),
            }
            rows.append(row)
    data = pd.DataFrame(rows)
    data.attrs["run_ids"] = sorted(ids)
    return data


def print_panel(panel: pd.DataFrame, width: float) -> Figure:
    figure = Figure(figsize=(width, 0.9 + 0.2 * len(panel)))
    axes = figure.add_subplot()
    axes.barh(panel["parameter"], panel["percent"], color=style.nth_colour(0))
    axes.invert_yaxis()
    axes.set(xlabel=_X, xlim=(0, 100))
    title = f"{panel['panel'].iloc[0]}, {panel['runs'].iloc[0]} runs"
    axes.set_title(style.title_text(title, width), loc="left")
    return figure


def chart(records: Records) -> Any:
    data = frame(records)
    if data.empty:
        return None
    charts = []
    for panel, part in data.groupby("panel", sort=False):
        shown = part.round({"percent": 2}).drop(columns="panel")
        bars = alt.Chart(shown).mark_bar(color=style.nth_colour(0))
        bars = bars.encode(
            y=alt.Y("parameter:N", sort=None, title=None),
            x=alt.X("percent:Q", title=_X, scale=alt.Scale(domain=[0, 100])),
            tooltip=["parameter", "percent", "runs"],
        )
        charts.append(bars.properties(title=style.wrapped(str(panel)), width=330))
    return alt.concat(*charts, columns=2)
