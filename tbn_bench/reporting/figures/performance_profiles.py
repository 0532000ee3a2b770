"""Share of runs above each score relative to full precision, averaged over tasks.

A panel per set of tasks that methods share. The table "Across tasks" (tables/aggregate.py) names
the tasks of each set.
"""

import functools
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.reporting import names, style, tracks
from tbn_bench.reporting.figures import _chart
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.spread import performance_profile
from tbn_bench.reporting.task_sets import TaskSet, task_sets

TITLE = "Performance profiles across tasks"
NEEDS = "methods that ran on the same two tasks, with full precision"
_X = "score, % of full precision in the same task"
_Y = "% of runs above, higher is better"
_STROKES = {"symbolType": "stroke", "symbolSize": 600, "symbolStrokeWidth": 2}  # of the legend


def _steps(group: TaskSet) -> np.ndarray:
    """Every score at which a profile falls, with a margin on both sides."""
    of_tasks = [np.concatenate(tasks) for tasks in group.scores.values()]
    scores = np.unique(np.concatenate(of_tasks))
    low = scores[0]
    high = scores[-1]
    margin = 0.05 * (high - low) or 0.01
    return np.concatenate([[low - margin], scores, [high + margin]])


@functools.lru_cache(maxsize=1)  # print, page and sidecar ask
def frame(records: Records) -> pd.DataFrame:
    """A row per panel, method and score at which some profile of the panel falls.

    Numbers are as shown.
    """
    rows: list[dict[str, Any]] = []
    run_ids: set[str] = set()
    for number, group in enumerate(task_sets(records), 1):
        run_ids |= set(group.run_ids)
        panel = f"Task set {number}, {tracks.title(group.track)}, {len(group.tasks)} tasks"
        steps = _steps(group)
        labels = names.methods(group.scores)
        for spec, scores in group.scores.items():
            same = {
                "panel": panel,
                "method": names.method(spec),
                "label": labels[spec],
                "binarizer": spec,
                "tasks": group.names,
                "runs": sum(map(len, scores)),
            }
            shares = performance_profile(scores, steps)
            for score, share in zip(steps, shares, strict=True):
                rows.append(same | {"score": 100 * float(score), "share": 100 * float(share)})
    data = pd.DataFrame(rows)
    data.attrs["run_ids"] = sorted(run_ids)
    return data


def print_panel(panel: pd.DataFrame, width: float) -> Figure:
    figure = Figure(figsize=(width, 2.5))
    axes = figure.add_subplot()
    for spec, line in panel.groupby("binarizer", sort=False):
        axes.plot(
            line["score"],
            line["share"],
            color=style.colour(str(spec)),
            linestyle=style.pattern(style.dash(str(spec))),
            drawstyle="steps-post",
            label=line["label"].iloc[0],
        )
    axes.set(xlabel=_X, ylabel=_Y, ylim=(-3, 103))
    axes.set_title(style.title_text(str(panel["panel"].iloc[0]), width), loc="left")
    style.legend(figure, list(dict.fromkeys(panel["label"])))
    return figure


def chart(records: Records) -> Any:
    data = frame(records)
    if data.empty:
        return None
    looks = data.drop_duplicates("method")
    methods = list(looks["method"])
    specs = list(looks["binarizer"])
    in_colour = alt.Scale(domain=methods, range=[style.colour(spec) for spec in specs])
    dashes = alt.Scale(domain=methods, range=[style.dash(spec) for spec in specs])
    legend = style.CHART_LEGEND | _STROKES
    colours = alt.Color("method:N", scale=in_colour, legend=legend)
    strokes = alt.StrokeDash("method:N", scale=dashes)
    base = alt.Chart(_chart.ROWS).encode(
        x=alt.X("score:Q", scale=alt.Scale(zero=False), title=_X),
        y=alt.Y("share:Q", title=_Y),
        color=colours,
    )
    lines = base.mark_line(interpolate="step-after").encode(strokeDash=strokes, detail="label:N")
    # a line's own tooltip would always be that of its first point
    hover = base.mark_point(filled=True, size=70).encode(
        opacity=alt.value(0.0), tooltip=["label:N", "score:Q", "share:Q", "tasks:N", "runs:Q"]
    )
    panels = {str(panel): part for panel, part in data.groupby("panel", sort=False)}
    return _chart.alike((lines + hover).properties(**_chart.SIZE), panels)
