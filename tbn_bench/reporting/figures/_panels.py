"""Panels of points and lines, drawn once for print and once for the page from the same tidy frame.

A frame has a row per mark: panel (title), method (what the legend says), binarizer (its spec: colour, marker and dash), x, y, low, high,
axis (y's title), seeds, runs (ids or, for a published number, its source), published (hollow), and optionally line (rows that are joined).
"""

import math
from collections.abc import Callable
from typing import Any

import altair as alt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tbn_bench.reporting import style
from tbn_bench.reporting.groups import Group, groups, panels
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.stats import half_widths
from tbn_bench.scores import SCORES

COLUMNS = (
    "panel",
    "method",
    "binarizer",
    "x",
    "y",
    "low",
    "high",
    "axis",
    "seeds",
    "runs",
    "published",
    "line",
)


Limits = Callable[[pd.DataFrame], tuple[float, float]]


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows with every column; low and high are y where there is no interval."""
    data = pd.DataFrame(rows, columns=list(dict.fromkeys([*COLUMNS, *(rows[0] if rows else {})])))
    for name, value in (
        ("low", data["y"]),
        ("high", data["y"]),
        ("published", False),
        ("seeds", 0),
        ("line", data["binarizer"]),
    ):
        data[name] = data[name].where(data[name].notna(), value)
    return data.infer_objects()


MOST = 40  # groups in a panel: a legend of more is read by nobody


def drawn(records: Records, unfinished: bool = False) -> list[tuple[str, list[Group]]]:
    """(title, groups with a result) of every panel; of more than MOST the best, and full precision, and the title says so."""
    out = []
    for title, gs in panels([g for g in groups(records) if unfinished or g.result is not None]):
        if len(gs) > MOST:
            kept = {id(g) for g in sorted(gs, key=_rank)[:MOST]}
            title, gs = f"{title}, best {MOST} of {len(gs)}", [g for g in gs if id(g) in kept]
        out.append((title, gs))
    return out


def _rank(g: Group) -> tuple[bool, float]:
    """Full precision first, then by result, what has none last."""
    return g.binarizer != "full_precision", math.inf if g.result is None else -SCORES[
        g.score
    ].signed(g.result.mean)


def by_epoch(
    records: Records, key: str, chosen: list[Group]
) -> dict[tuple[str, str], list[tuple[int, float, float, int]]]:
    """(sweep, group id) -> (epoch, mean, half of the 95 % interval, n) of a column of the curves, over the runs that reached the epoch."""
    curves = records.curves.dropna(subset=[key])
    curves = curves[
        curves["sweep"].isin([g.sweep for g in chosen])
        & curves["group_id"].isin([g.group_id for g in chosen])
    ]
    values = curves.assign(value=pd.to_numeric(curves[key], errors="coerce")).dropna(
        subset=["value"]
    )
    by = values.groupby(["sweep", "group_id", "epoch"], sort=True, observed=True)["value"].agg(
        ["mean", "std", "count"]
    )
    halves = half_widths(by["std"].to_numpy(), by["count"].to_numpy())
    out: dict[tuple[str, str], list[tuple[int, float, float, int]]] = {}
    for (sweep, group_id, epoch), mean, half, n in zip(
        by.index, by["mean"], halves, by["count"], strict=True
    ):
        out.setdefault((sweep, group_id), []).append((int(epoch), float(mean), float(half), int(n)))
    return out


def scored(g: Group) -> dict[str, Any]:
    """y, low, high, axis, seeds, runs and binarizer of a group that has a result."""
    score = SCORES[g.score]
    assert g.result is not None
    mean, half = score.factor * g.result.mean, score.factor * (g.result.half or 0.0)
    return {"binarizer": g.binarizer, "y": mean, "low": mean - half, "high": mean + half, "axis": score.axis, "seeds": g.result.n,
            "runs": ", ".join(g.run_ids)}  # fmt: skip


def print_panels(
    data: pd.DataFrame, specs: list[str], x: str, log: float | None = None, joined: bool = False, variants: bool = False,
    limits: Limits | None = None,
) -> Figure | None:  # fmt: skip
    """x: the axis' title. log: base of a logarithmic x axis. joined: rows of one line are joined in the order of x. variants: each spec has
    a colour of its own, where all are of one family. limits: of the y axis, from a panel's rows. None without rows.

    specs: every binarizer of the report, so that a method looks the same in all figures.
    """
    if data.empty:
        return None
    titles = list(dict.fromkeys(data["panel"]))
    figure, all_axes = style.print_grid(len(titles), 2.3)
    for axes, title in zip(all_axes, titles, strict=True):
        panel = data[data["panel"] == title]
        for (_, label, published), line in panel.groupby(
            ["line", "method", "published"], sort=False
        ):
            spec = line["binarizer"].iloc[0]
            colour = style.nth_colour(specs.index(spec)) if variants else style.colour(spec)
            _draw(
                axes,
                line.sort_values("x"),
                colour,
                style.marker(spec, specs),
                label,
                bool(published),
                joined,
            )
        if limits:
            axes.set_ylim(*limits(panel))
        if log:
            axes.set_xscale("log", base=log)
            for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
                which(lambda value, _: f"{value:g}")
            axes.tick_params(axis="x", which="minor", labelsize=5)
        axes.set(title="\n".join(style.wrapped(title)), xlabel=x, ylabel=panel["axis"].iloc[0])
    names = {name: i for i, name in enumerate(style.labels(specs).values())}
    style.legend(figure, sorted(set(data["method"]), key=lambda m: (names.get(m, len(names)), m)))
    return figure


def _draw(
    axes: Axes,
    line: pd.DataFrame,
    colour: str,
    marker: str,
    label: str,
    published: bool,
    joined: bool,
) -> None:
    has_band, every = (line["high"] > line["low"]).any(), max(1, len(line) // 8)
    if joined and len(line) > 12:  # a curve: a band, and few marks
        axes.fill_between(
            line["x"], line["low"], line["high"], color=colour, alpha=0.15, linewidth=0
        )
        axes.plot(
            line["x"],
            line["y"],
            color=colour,
            marker=marker,
            markevery=every,
            label=label,
            linewidth=1,
        )
        return
    error = [line["y"] - line["low"], line["high"] - line["y"]] if has_band else None
    axes.errorbar(
        line["x"], line["y"], yerr=error, color=colour, marker=marker, capsize=1.5, elinewidth=0.7, label=label,
        linestyle=(":" if published else "-") if joined else "none", linewidth=0.8, markerfacecolor="none" if published else colour,
    )  # fmt: skip


_PAGE_POINTS = 15  # of one curve on the page; print draws all


def _thinned(data: pd.DataFrame) -> pd.DataFrame:
    """Every n-th point of long curves, and the last one: the page stays small."""
    ranks, lengths = (
        data.groupby(["panel", "line", "published"]).cumcount(),
        data.groupby(["panel", "line", "published"])["x"].transform("size"),
    )
    return data[(ranks % (1 + lengths // _PAGE_POINTS) == 0) | (ranks == lengths - 1)]


def _rounded(data: pd.DataFrame) -> pd.DataFrame:
    """Five digits are more than anyone reads."""
    return data.assign(
        **{
            name: [float(f"{value:.5g}") for value in data[name]]
            for name in ("x", "y", "low", "high")
        }
    )


def chart_panels(
    data: pd.DataFrame, specs: list[str], x: str, log: float | None = None, joined: bool = False, variants: bool = False,
    limits: Limits | None = None,
    thin: bool = False,
) -> Any:  # fmt: skip
    """As print_panels, with the legend as a filter and the runs of each mark under the pointer. thin: lines are curves over epochs."""
    if data.empty:
        return None
    data, looks = _rounded(_thinned(data) if thin else data), data.drop_duplicates("method")
    domain = list(looks["method"])
    used = [
        style.nth_colour(specs.index(s)) if variants else style.colour(s)
        for s in looks["binarizer"]
    ]
    colours = alt.Color(
        "method:N", scale=alt.Scale(domain=domain, range=used), legend=style.CHART_LEGEND
    )
    shapes = alt.Shape(
        "method:N",
        scale=alt.Scale(domain=domain, range=[style.shape(s, specs) for s in looks["binarizer"]]),
    )
    chosen = alt.selection_point(name="chosen", fields=["method"], bind="legend")
    scale = (
        alt.Scale(type="log", base=log, padding=18)
        if log
        else alt.Scale(padding=6 if joined else 18, zero=False, nice=False)
    )
    charts = []
    for panel, part in data.groupby("panel", sort=False):
        base = alt.Chart(part.drop(columns=["panel", "axis", "binarizer"])).encode(
            x=alt.X("x:Q", scale=scale, title=x),
            color=colours,
            opacity=alt.condition(chosen, alt.value(1.0), alt.value(0.12)),
        )
        within = (
            alt.Scale(domain=list(limits(part)), clamp=True) if limits else alt.Scale(zero=False)
        )
        y = alt.Y("y:Q", scale=within, title=str(part["axis"].iloc[0]))
        marks = base.mark_point(size=70).encode(
            y=y,
            shape=shapes,
            fill=alt.condition("datum.published", alt.value(None), colours),
            tooltip=["method", alt.Tooltip("x:Q", title=x), "y", "low", "high", "seeds", "runs"],
        )
        layers = [base.mark_rule().encode(y="low:Q", y2="high:Q"), marks]
        if joined:
            layers.insert(
                0, base.mark_line(strokeWidth=1).encode(y=y, detail=["line:N", "published:N"])
            )
        charts.append(
            alt.layer(*layers).properties(title=style.wrapped(str(panel)), width=330, height=240)
        )
    return alt.concat(*charts, columns=2).add_params(chosen)
