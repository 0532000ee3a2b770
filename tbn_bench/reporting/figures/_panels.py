"""Panels of points and lines, drawn once for print and once for the page from the same tidy frame.

A frame has a row per mark: panel (title), method (its name in the legend), binarizer (its spec: it
decides colour, marker and dash), x, y, low, high, axis (y's title), seeds, runs (ids or, for a
published number, its source), published (hollow), and optionally line (its rows are joined).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
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
MOST = 40  # groups in a panel: nobody reads a longer legend
SIZE = {"width": 330, "height": 240}  # of a panel on the page
_PAGE_POINTS = 15  # of one curve on the page; print draws all

Limits = Callable[[pd.DataFrame], tuple[float, float]]


@dataclass(frozen=True)
class Layout:
    """x: the axis' title. log: base of a logarithmic x axis. joined: rows of one line are joined.

    variants: each spec has a colour of its own, where all are of one family. limits: of the y axis,
    from a panel's rows. thin: lines are curves over epochs; the page draws some of their points.
    """

    x: str
    log: float | None = None
    joined: bool = False
    variants: bool = False
    limits: Limits | None = None
    thin: bool = False

    def colour(self, spec: str, specs: list[str]) -> str:
        return style.nth_colour(specs.index(spec)) if self.variants else style.colour(spec)


@dataclass(frozen=True)
class Epoch:
    """One epoch of a curve: mean over n runs and half of its 95 % interval."""

    epoch: int
    mean: float
    half: float
    n: int

    def shown(self, factor: float) -> dict[str, Any]:
        """x, y, low, high and seeds of a frame's row; epochs count from 1."""
        return {
            "x": self.epoch + 1,
            "y": factor * self.mean,
            "low": factor * (self.mean - self.half),
            "high": factor * (self.mean + self.half),
            "seeds": self.n,
        }


Curves = dict[tuple[str, str], list[Epoch]]


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows with every column; low and high are y where there is no interval."""
    own = rows[0] if rows else {}
    columns = dict.fromkeys([*COLUMNS, *own])
    data = pd.DataFrame(rows, columns=list(columns))
    defaults = {
        "low": data["y"],
        "high": data["y"],
        "published": False,
        "seeds": 0,
        "line": data["binarizer"],
    }
    for name, value in defaults.items():
        data[name] = data[name].where(data[name].notna(), value)
    return data.infer_objects()


def drawn(records: Records, unfinished: bool = False) -> list[tuple[str, list[Group]]]:
    """(title, groups) of every panel; groups without a result only where `unfinished`.

    A panel of more than MOST groups keeps the best and full precision, and its title says so.
    """
    shown = [g for g in groups(records) if unfinished or g.result is not None]
    out = []
    for title, gs in panels(shown):
        if len(gs) <= MOST:
            out.append((title, gs))
            continue
        best = sorted(gs, key=_rank)[:MOST]
        kept = {id(g) for g in best}
        in_order = [g for g in gs if id(g) in kept]
        out.append((f"{title}, best {MOST} of {len(gs)}", in_order))
    return out


def _rank(g: Group) -> tuple[bool, float]:
    """Full precision first, then by result; groups without a result last."""
    lowered = g.binarizer != "full_precision"
    if g.result is None:
        return lowered, math.inf
    return lowered, -SCORES[g.score].signed(g.result.mean)


def by_epoch(records: Records, key: str, chosen: list[Group]) -> Curves:
    """(sweep, group id) -> its epochs in order, of a column of the curves.

    An epoch counts the runs that reached it.
    """
    curves = _of_groups(records.curves.dropna(subset=[key]), chosen)
    numbers = pd.to_numeric(curves[key], errors="coerce")
    values = curves.assign(value=numbers).dropna(subset=["value"])
    grouped = values.groupby(["sweep", "group_id", "epoch"], sort=True, observed=True)
    by = grouped["value"].agg(["mean", "std", "count"])
    halves = half_widths(by["std"].to_numpy(), by["count"].to_numpy())
    columns = zip(by.index, by["mean"], halves, by["count"], strict=True)
    out: Curves = {}
    for (sweep, group_id, epoch), mean, half, n in columns:
        found = Epoch(int(epoch), float(mean), float(half), int(n))
        curve = out.setdefault((sweep, group_id), [])
        curve.append(found)
    return out


def _of_groups(curves: pd.DataFrame, chosen: list[Group]) -> pd.DataFrame:
    in_sweep = curves["sweep"].isin([g.sweep for g in chosen])
    in_group = curves["group_id"].isin([g.group_id for g in chosen])
    return curves[in_sweep & in_group]


def scored(g: Group) -> dict[str, Any]:
    """y, low, high, axis, seeds, runs and binarizer of a group that has a result."""
    score = SCORES[g.score]
    assert g.result is not None
    mean = score.factor * g.result.mean
    half = score.factor * (g.result.half or 0.0)
    return {
        "binarizer": g.binarizer,
        "y": mean,
        "low": mean - half,
        "high": mean + half,
        "axis": score.axis,
        "seeds": g.result.n,
        "runs": ", ".join(g.run_ids),
    }


def print_panels(data: pd.DataFrame, specs: list[str], layout: Layout) -> Figure | None:
    """None without rows.

    specs: every binarizer of the report, so that a method looks the same in all figures.
    """
    if data.empty:
        return None
    titles = list(dict.fromkeys(data["panel"]))
    figure, all_axes = style.print_grid(len(titles), 2.3)
    for axes, title in zip(all_axes, titles, strict=True):
        panel = data[data["panel"] == title]
        for _, line in panel.groupby(["line", "method", "published"], sort=False):
            _draw(axes, line.sort_values("x"), specs, layout)
        if layout.limits:
            axes.set_ylim(*layout.limits(panel))
        if layout.log:
            _set_log_x(axes, layout.log)
        heading = "\n".join(style.wrapped(title))
        axes.set(title=heading, xlabel=layout.x, ylabel=panel["axis"].iloc[0])
    style.legend(figure, _legend_order(set(data["method"]), specs))
    return figure


def _set_log_x(axes: Axes, base: float) -> None:
    axes.set_xscale("log", base=base)
    axes.xaxis.set_major_formatter(_plain_number)
    axes.xaxis.set_minor_formatter(_plain_number)
    axes.tick_params(axis="x", which="minor", labelsize=5)


def _plain_number(value: float, _: Any) -> str:
    return f"{value:g}"


def _legend_order(methods: set[str], specs: list[str]) -> list[str]:
    """Methods of the report in reading order, then the others by name."""
    names = list(style.labels(specs).values())

    def place(method: str) -> tuple[int, str]:
        if method in names:
            return names.index(method), method
        return len(names), method

    return sorted(methods, key=place)


def _draw(axes: Axes, line: pd.DataFrame, specs: list[str], layout: Layout) -> None:
    """line: rows of one line and method in the order of x."""
    first = line.iloc[0]
    spec = first["binarizer"]
    look = {
        "color": layout.colour(spec, specs),
        "marker": style.marker(spec, specs),
        "label": first["method"],
    }
    if layout.joined and len(line) > 12:
        _draw_curve(axes, line, look)
        return
    has_interval = (line["high"] > line["low"]).any()
    error = [line["y"] - line["low"], line["high"] - line["y"]] if has_interval else None
    hollow = bool(first["published"])
    dash = ":" if hollow else "-"
    axes.errorbar(
        line["x"],
        line["y"],
        yerr=error,
        capsize=1.5,
        elinewidth=0.7,
        linestyle=dash if layout.joined else "none",
        linewidth=0.8,
        markerfacecolor="none" if hollow else look["color"],
        **look,
    )


def _draw_curve(axes: Axes, line: pd.DataFrame, look: dict[str, Any]) -> None:
    """A band and few marks."""
    axes.fill_between(
        line["x"],
        line["low"],
        line["high"],
        color=look["color"],
        alpha=0.15,
        linewidth=0,
    )
    axes.plot(
        line["x"],
        line["y"],
        markevery=max(1, len(line) // 8),
        linewidth=1,
        **look,
    )


def _thinned(data: pd.DataFrame) -> pd.DataFrame:
    """Every n-th point of long curves, and the last one: the page stays small."""
    curves = data.groupby(["panel", "line", "published"])
    places = curves.cumcount()
    lengths = curves["x"].transform("size")
    step = 1 + lengths // _PAGE_POINTS
    return data[(places % step == 0) | (places == lengths - 1)]


def _rounded(data: pd.DataFrame) -> pd.DataFrame:
    """Five digits are more than anyone reads."""
    digits = {}
    for name in ("x", "y", "low", "high"):
        digits[name] = [float(f"{value:.5g}") for value in data[name]]
    return data.assign(**digits)


def by_legend() -> alt.Parameter:
    """The methods that the reader picks in the legend."""
    return alt.selection_point(name="chosen", fields=["method"], bind="legend")


def faint_unless(chosen: alt.Parameter) -> Any:
    """Opacity: full where the mark's method is chosen."""
    return alt.condition(chosen, alt.value(1.0), alt.value(0.12))


def chart_panels(data: pd.DataFrame, specs: list[str], layout: Layout) -> Any:
    """As print_panels, with the legend as a filter and the runs of each mark under the pointer."""
    if data.empty:
        return None
    looks = data.drop_duplicates("method")
    data = _rounded(_thinned(data) if layout.thin else data)
    methods = list(looks["method"])
    used = [layout.colour(spec, specs) for spec in looks["binarizer"]]
    markers = [style.shape(spec, specs) for spec in looks["binarizer"]]
    in_colour = alt.Scale(domain=methods, range=used)
    colours = alt.Color("method:N", scale=in_colour, legend=style.CHART_LEGEND)
    shapes = alt.Shape("method:N", scale=alt.Scale(domain=methods, range=markers))
    chosen = by_legend()
    charts = []
    for panel, part in data.groupby("panel", sort=False):
        base = alt.Chart(part.drop(columns=["panel", "axis", "binarizer"])).encode(
            x=alt.X("x:Q", scale=_x_scale(layout), title=layout.x),
            color=colours,
            opacity=faint_unless(chosen),
        )
        y = alt.Y("y:Q", scale=_y_scale(layout, part), title=str(part["axis"].iloc[0]))
        layers = _layers(base, y, layout, colours, shapes)
        charts.append(alt.layer(*layers).properties(title=style.wrapped(str(panel)), **SIZE))
    return alt.concat(*charts, columns=2).add_params(chosen)


def _x_scale(layout: Layout) -> alt.Scale:
    if layout.log:
        return alt.Scale(type="log", base=layout.log, padding=18)
    return alt.Scale(padding=6 if layout.joined else 18, zero=False, nice=False)


def _y_scale(layout: Layout, panel: pd.DataFrame) -> alt.Scale:
    if layout.limits:
        return alt.Scale(domain=list(layout.limits(panel)), clamp=True)
    return alt.Scale(zero=False)


def _layers(base: Any, y: Any, layout: Layout, colours: Any, shapes: Any) -> list[Any]:
    """Lines where rows are joined, intervals, and marks, which are hollow where published."""
    x_shown = alt.Tooltip("x:Q", title=layout.x)
    marks = base.mark_point(size=70).encode(
        y=y,
        shape=shapes,
        fill=alt.condition("datum.published", alt.value(None), colours),
        tooltip=["method", x_shown, "y", "low", "high", "seeds", "runs"],
    )
    intervals = base.mark_rule().encode(y="low:Q", y2="high:Q")
    if not layout.joined:
        return [intervals, marks]
    lines = base.mark_line(strokeWidth=1).encode(y=y, detail=["line:N", "published:N"])
    return [lines, intervals, marks]
