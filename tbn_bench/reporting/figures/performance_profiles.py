"""Share of runs above each score relative to full precision, averaged over tasks.

A panel per set of tasks that methods share. The table "Across tasks" (tables/aggregate.py) names
the tasks of each set.
"""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.reporting import style, tracks
from tbn_bench.reporting.figures import _panels
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.spread import performance_profile
from tbn_bench.reporting.task_sets import TaskSet, task_sets

TITLE = "Performance profiles across tasks"
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


def frame(records: Records) -> pd.DataFrame:
    """A row per panel, method and score at which some profile of the panel falls.

    Numbers are as shown.
    """
    rows: list[dict[str, Any]] = []
    run_ids: set[str] = set()
    names = style.labels(records.runs["binarizer"])
    for number, group in enumerate(task_sets(records), 1):
        run_ids |= set(group.run_ids)
        panel = f"Task set {number}, {tracks.title(group.track)}, {len(group.tasks)} tasks"
        steps = _steps(group)
        for spec, scores in group.scores.items():
            same = {
                "panel": panel,
                "method": names[spec],
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


def print_figure(records: Records) -> Figure | None:
    data = frame(records)
    if data.empty:
        return None
    specs = style.methods(records.runs["binarizer"])
    names = style.labels(specs)
    titles = list(dict.fromkeys(data["panel"]))
    figure, all_axes = style.print_grid(len(titles), 2.5)
    for axes, title in zip(all_axes, titles, strict=True):
        panel = data[data["panel"] == title]
        for spec, line in panel.groupby("binarizer", sort=False):
            axes.plot(
                line["score"],
                line["share"],
                color=style.colour(spec),
                linestyle=_pattern(style.dash(spec, specs)),
                drawstyle="steps-post",
                label=names[spec],
            )
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
    found = set(data["binarizer"])
    drawn = [spec for spec in specs if spec in found]
    methods = [names[spec] for spec in drawn]
    in_colour = alt.Scale(domain=methods, range=[style.colour(spec) for spec in drawn])
    dashes = alt.Scale(domain=methods, range=[style.dash(spec, specs) for spec in drawn])
    legend = style.CHART_LEGEND | _STROKES
    colours = alt.Color("method:N", scale=in_colour, legend=legend)
    strokes = alt.StrokeDash("method:N", scale=dashes)
    chosen = _panels.by_legend()
    charts = []
    for panel, part in data.groupby("panel", sort=False):
        base = alt.Chart(part).encode(
            x=alt.X("score:Q", scale=alt.Scale(zero=False), title=_X),
            y=alt.Y("share:Q", title=_Y),
            color=colours,
        )
        faded = _panels.faint_unless(chosen)
        lines = base.mark_line(interpolate="step-after").encode(strokeDash=strokes, opacity=faded)
        # a line's own tooltip would always be that of its first point
        hover = base.mark_point(filled=True, size=70).encode(
            opacity=alt.value(0.0), tooltip=["method", "score", "share", "tasks", "runs"]
        )
        title = style.wrapped(str(panel))
        charts.append((lines + hover).properties(title=title, **_panels.SIZE))
    return alt.concat(*charts, columns=2).add_params(chosen)
