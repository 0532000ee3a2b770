"""Held-out score by epoch: mean over seeds, band = Student's 95 % interval (no band for one seed)."""

from typing import Any

import altair as alt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tbn_bench.reporting import style
from tbn_bench.reporting.groups import groups, panels
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.stats import t_interval
from tbn_bench.scores import SCORES

TITLE = "Training curves"


def frame(records: Records) -> pd.DataFrame:
    """A row per panel, method and epoch that at least one run reached: mean, low, high as shown, n."""
    curves = records.curves.dropna(subset=["val/score"])
    rows: list[dict[str, Any]] = []
    names = style.labels(records.runs["binarizer"])
    for title, gs in panels(groups(records)):
        score = SCORES[gs[0].score]
        for g in gs:
            own = curves[(curves["sweep"] == g.sweep) & (curves["group_id"] == g.group_id)]
            for epoch, part in own.groupby("epoch"):
                interval = t_interval(part["val/score"].astype(float).tolist())
                mean, half = score.factor * interval.mean, score.factor * (interval.half or 0.0)
                rows.append(
                    {"panel": title, "method": names[g.binarizer], "binarizer": g.binarizer, "group": g.group_id,
                     "axis": score.axis, "epoch": int(epoch) + 1, "score": mean, "low": mean - half, "high": mean + half, "seeds": interval.n}
                )  # fmt: skip
    return pd.DataFrame(rows)


def _limits(panel: pd.DataFrame) -> list[float]:
    """From just under the lowest means to just over the highest; the worst of the first epochs may lie outside. Percentages end at 100."""
    if "%" not in panel["axis"].iloc[0]:
        low, high = float(panel["low"].min()), float(panel["score"].quantile(0.97))
        margin = 0.05 * ((high - low) or high or 1.0)
        return [max(0.0, low - margin), high + margin]
    low = max(0.0, float(panel["score"].quantile(0.03)) - 5)
    return [low, min(100.0, float(panel["high"].max()) + 1)]


def print_figure(records: Records) -> Figure | None:
    data = frame(records)
    if data.empty:
        return None
    titles = list(dict.fromkeys(data["panel"]))
    figure, all_axes = style.print_grid(len(titles), 2.2)
    specs = style.methods(records.runs["binarizer"])
    names = style.labels(specs)
    for axes, title in zip(all_axes, titles, strict=True):
        panel = data[data["panel"] == title]
        for spec in specs:
            for _, line in panel[panel["binarizer"] == spec].groupby("group"):
                every = max(1, len(line) // 8)
                axes.plot(line["epoch"], line["score"], color=style.colour(spec), marker=style.marker(spec, specs), markevery=every,
                          label=names[spec], linewidth=1)  # fmt: skip
                axes.fill_between(line["epoch"], line["low"], line["high"], color=style.colour(spec), alpha=0.15, linewidth=0)
        axes.set(title="\n".join(style.wrapped(title)), xlabel="epoch", ylabel=f"held-out {panel['axis'].iloc[0]}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(*_limits(panel))
    style.legend(figure, list(names.values()))
    return figure


def chart(records: Records) -> Any:
    data = frame(records)
    if data.empty:
        return None
    ids = records.runs.groupby("group_id")["run_id"].agg(lambda found: ", ".join(sorted(set(found))))
    data["runs"] = data["group"].map(ids)
    specs = style.methods(records.runs["binarizer"])
    names = style.labels(specs)
    drawn = [s for s in specs if s in set(data["binarizer"])]
    domain = [names[s] for s in drawn]
    lines = style.CHART_LEGEND | {"symbolType": "stroke", "symbolSize": 600, "symbolStrokeWidth": 2}
    colours = alt.Color("method:N", scale=alt.Scale(domain=domain, range=[style.colour(s) for s in drawn]), legend=lines)
    strokes = alt.StrokeDash("method:N", scale=alt.Scale(domain=domain, range=[style.dash(s, specs) for s in drawn]))
    chosen = alt.selection_point(name="chosen", fields=["method"], bind="legend")
    charts = []
    for panel, part in data.groupby("panel", sort=False):
        base = alt.Chart(part).encode(
            x=alt.X("epoch:Q", title="epoch"), color=colours, detail="group:N",
            opacity=alt.condition(chosen, alt.value(1.0), alt.value(0.1)),
        )  # fmt: skip
        line = base.mark_line(clip=True).encode(
            y=alt.Y("score:Q", scale=alt.Scale(domain=_limits(part)), title=f"held-out {part['axis'].iloc[0]}"), strokeDash=strokes,
        )  # fmt: skip
        # a line's own tooltip would always be that of its first epoch
        hover = base.mark_point(filled=True, size=70, clip=True).encode(
            y=alt.Y("score:Q", scale=alt.Scale(domain=_limits(part))), opacity=alt.value(0.0),
            tooltip=["method", "epoch", "score", "low", "high", "seeds", "runs"],
        )  # fmt: skip
        band = base.mark_area(clip=True).encode(
            y=alt.Y("low:Q", scale=alt.Scale(domain=_limits(part))),
            y2="high:Q",
            opacity=alt.condition(chosen, alt.value(0.15), alt.value(0.02)),
        )
        charts.append((band + line + hover).properties(title=style.wrapped(str(panel)), width=330, height=220))
    return alt.concat(*charts, columns=2).add_params(chosen)
