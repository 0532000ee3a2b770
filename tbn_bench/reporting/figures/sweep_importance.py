"""Which parameter of a sweep moved the score: the share of its variance that each explains by itself (epsilon squared)."""

from typing import Any

import altair as alt
import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.reporting import style
from tbn_bench.reporting.figures import _searched
from tbn_bench.reporting.load import Records

TITLE = "Sweeps: importance of parameters"
_X = "variance of the score explained alone, %"


def frame(records: Records) -> pd.DataFrame:
    """A row per sweep and parameter: percent, in falling order."""
    rows, ids = [], set()
    for title, score, table, varied in _searched.sweeps(records):
        ids |= set(table["run_id"])
        found = {name: 100 * _searched.explained(table[name], table["score"]) for name in varied}
        for name in sorted(found, key=lambda n: -found[n]):
            rows.append(
                {
                    "panel": f"{title}: {score.label}",
                    "parameter": name,
                    "percent": found[name],
                    "runs": len(table),
                }
            )
    data = pd.DataFrame(rows)
    data.attrs["run_ids"] = sorted(ids)
    return data


def print_figure(records: Records) -> Figure | None:
    data = frame(records)
    if data.empty:
        return None
    titles = list(dict.fromkeys(data["panel"]))
    figure, all_axes = style.print_grid(len(titles), 1.6)
    for axes, title in zip(all_axes, titles, strict=True):
        part = data[data["panel"] == title]
        axes.barh(part["parameter"], part["percent"], color=style.nth_colour(0))
        axes.invert_yaxis()
        axes.set(
            title="\n".join(style.wrapped(f"{title}, {part['runs'].iloc[0]} runs")),
            xlabel=_X,
            xlim=(0, 100),
        )
    return figure


def chart(records: Records) -> Any:
    data = frame(records)
    if data.empty:
        return None
    charts = [
        alt.Chart(part.round({"percent": 2}).drop(columns="panel")).mark_bar().encode(
            y=alt.Y("parameter:N", sort=None, title=None), x=alt.X("percent:Q", title=_X, scale=alt.Scale(domain=[0, 100])),
            tooltip=["parameter", "percent", "runs"],
        ).properties(title=style.wrapped(str(panel)), width=330)
        for panel, part in data.groupby("panel", sort=False)
    ]  # fmt: skip
    return alt.concat(*charts, columns=2)
