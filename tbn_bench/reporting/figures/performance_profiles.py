"""Share of runs above each score relative to full precision, averaged over tasks; a panel per set of tasks that methods share.

The table "Across tasks" (tables/aggregate.py) names the tasks of each set.
"""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.reporting import style, tracks
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.spread import performance_profile
from tbn_bench.reporting.task_sets import TaskSet, task_sets

TITLE = "Performance profiles across tasks"
_X = "score, % of full precision in the same task"
_Y = "% of runs above, higher is better"


def _steps(group: TaskSet) -> np.ndarray:
    """Every score at which a profile falls, with a margin on both sides."""
    scores = np.unique(np.concatenate([task for tasks in group.scores.values() for task in tasks]))
    margin = 0.05 * (scores[-1] - scores[0]) or 0.01
    return np.concatenate([[scores[0] - margin], scores, [scores[-1] + margin]])


def frame(records: Records) -> pd.DataFrame:
    """A row per panel, method and score at which some profile of the panel falls; numbers as shown."""
    rows: list[dict[str, Any]] = []
    names = style.labels(records.runs["binarizer"])
    for number, group in enumerate(task_sets(records), 1):
        steps = _steps(group)
        for spec, scores in group.scores.items():
            same = {"panel": f"Task set {number}, {tracks.title(group.track)}, {len(group.tasks)} tasks", "method": names[spec], "binarizer": spec,
                    "tasks": group.names, "runs": sum(map(len, scores))}  # fmt: skip
            shares = performance_profile(scores, steps)
            rows += [
                same | {"score": 100 * float(x), "share": 100 * float(y)}
                for x, y in zip(steps, shares, strict=True)
            ]
    data = pd.DataFrame(rows)
    data.attrs["run_ids"] = sorted(
        {run_id for group in task_sets(records) for run_id in group.run_ids}
    )
    return data


def print_figure(records: Records) -> Figure | None:
    data = frame(records)
    if data.empty:
        return None
    specs = style.methods(records.runs["binarizer"])
    names = style.labels(specs)
    titles = list(dict.fromkeys(data["panel"]))
    figure, all_axes = style.print_grid(len(titles), 2.5)
    for axes, title in zip(all_axes, titles, strict=True):
        for spec, line in data[data["panel"] == title].groupby("binarizer", sort=False):
            axes.plot(line["score"], line["share"], color=style.colour(spec), linestyle=_pattern(style.dash(spec, specs)),
                      drawstyle="steps-post", label=names[spec])  # fmt: skip
        axes.set(title="\n".join(style.wrapped(title)), xlabel=_X, ylabel=_Y, ylim=(-3, 103))
    style.legend(figure, list(names.values()))
    return figure


def _pattern(dash: list[int]) -> Any:
    return "solid" if 0 in dash else (0, tuple(dash))


def chart(records: Records) -> Any:
    data = frame(records)
    if data.empty:
        return None
    specs = style.methods(records.runs["binarizer"])
    names = style.labels(specs)
    drawn = [s for s in specs if s in set(data["binarizer"])]
    domain = [names[s] for s in drawn]
    lines = style.CHART_LEGEND | {"symbolType": "stroke", "symbolSize": 600, "symbolStrokeWidth": 2}
    colours = alt.Color(
        "method:N",
        scale=alt.Scale(domain=domain, range=[style.colour(s) for s in drawn]),
        legend=lines,
    )
    strokes = alt.StrokeDash(
        "method:N", scale=alt.Scale(domain=domain, range=[style.dash(s, specs) for s in drawn])
    )
    chosen = alt.selection_point(name="chosen", fields=["method"], bind="legend")
    charts = []
    for panel, part in data.groupby("panel", sort=False):
        base = alt.Chart(part).encode(
            x=alt.X("score:Q", scale=alt.Scale(zero=False), title=_X),
            y=alt.Y("share:Q", title=_Y),
            color=colours,
        )
        faded = alt.condition(chosen, alt.value(1.0), alt.value(0.12))
        line = base.mark_line(interpolate="step-after").encode(strokeDash=strokes, opacity=faded)
        # a line's own tooltip would always be that of its first point
        hover = base.mark_point(filled=True, size=70).encode(
            opacity=alt.value(0.0), tooltip=["method", "score", "share", "tasks", "runs"]
        )
        charts.append(
            (line + hover).properties(title=style.wrapped(str(panel)), width=330, height=240)
        )
    return alt.concat(*charts, columns=2).add_params(chosen)
