"""The score on the test set against bits per weight, one panel per track, data set and model; error bars are 95 % intervals over seeds."""

from typing import Any

import altair as alt
import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.reporting import style
from tbn_bench.reporting.groups import Group, groups, panels
from tbn_bench.reporting.load import Records
from tbn_bench.scores import SCORES

TITLE = "Accuracy against bits per weight"


def _points(records: Records) -> list[tuple[str, list[Group]]]:
    return panels([g for g in groups(records) if g.result is not None])


def print_figure(records: Records) -> Figure | None:
    found = _points(records)
    if not found:
        return None
    specs = style.methods(records.runs["binarizer"])
    names = style.labels(specs)
    figure, all_axes = style.print_grid(len(found), 2.3)
    for axes, (title, gs) in zip(all_axes, found, strict=True):
        score = SCORES[gs[0].score]
        for g in gs:
            half = None if g.result.half is None else score.factor * g.result.half
            axes.errorbar(g.first["bits_per_weight"], score.factor * g.result.mean, yerr=half, color=style.colour(g.binarizer),
                          marker=style.marker(g.binarizer, specs), capsize=1.5, elinewidth=0.7, linestyle="none",
                          label=names[g.binarizer])  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(
            title="\n".join(style.wrapped(title)),
            xlabel="bits per weight, lower is better",
            ylabel=score.axis,
        )
    style.legend(figure, list(names.values()))
    return figure


def frame(records: Records) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    names = style.labels(records.runs["binarizer"])
    for title, gs in _points(records):
        score = SCORES[gs[0].score]
        for g in gs:
            mean, half = score.factor * g.result.mean, score.factor * (g.result.half or 0.0)
            rows.append(
                {"panel": title, "method": names[g.binarizer], "binarizer": g.binarizer, "bits per weight": g.first["bits_per_weight"],
                 "axis": score.axis,
                 "score": mean, "low": mean - half, "high": mean + half, "seeds": g.result.n, "runs": ", ".join(g.run_ids)}
            )  # fmt: skip
    return pd.DataFrame(rows)


def chart(records: Records) -> Any:
    data = frame(records)
    if data.empty:
        return None
    specs = style.methods(records.runs["binarizer"])
    names = style.labels(specs)
    drawn = [s for s in specs if s in set(data["binarizer"])]
    domain = [names[s] for s in drawn]
    colours = alt.Color(
        "method:N", scale=alt.Scale(domain=domain, range=[style.colour(s) for s in drawn]), legend=style.CHART_LEGEND
    )
    shapes = alt.Shape("method:N", scale=alt.Scale(domain=domain, range=[style.shape(s, specs) for s in drawn]))
    chosen = alt.selection_point(name="chosen", fields=["method"], bind="legend")
    charts = []
    for panel, part in data.groupby("panel", sort=False):
        base = alt.Chart(part).encode(
            x=alt.X(
                "bits per weight:Q", scale=alt.Scale(type="log", base=2, padding=18), title="bits per weight, lower is better"
            ),
            color=colours,
            opacity=alt.condition(chosen, alt.value(1.0), alt.value(0.12)),
        )
        points = base.mark_point(filled=True, size=80).encode(
            y=alt.Y("score:Q", scale=alt.Scale(zero=False), title=str(part["axis"].iloc[0])),
            shape=shapes,
            tooltip=["method", "bits per weight", "score", "low", "high", "seeds", "runs"],
        )
        bars = base.mark_rule().encode(y="low:Q", y2="high:Q")
        charts.append((bars + points).properties(title=style.wrapped(str(panel)), width=330, height=240))
    return alt.concat(*charts, columns=2).add_params(chosen)
