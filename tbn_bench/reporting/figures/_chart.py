"""Panels of points and lines for the page, as Vega-Lite charts."""

from typing import Any

import altair as alt
import pandas as pd

from tbn_bench.reporting import style
from tbn_bench.reporting.figures import _panels
from tbn_bench.reporting.figures._panels import Layout

SIZE = {"width": 330, "height": 240}  # of a panel
_POINTS = 15  # of one curve; print draws all
_GREY = "#9A9A9A"


def by_legend() -> alt.Parameter:
    """The methods that the reader picks in the legend."""
    return alt.selection_point(name="chosen", fields=["method"], bind="legend")


def faint_unless(chosen: alt.Parameter) -> Any:
    """Opacity: full where the mark's method is chosen."""
    return alt.condition(chosen, alt.value(1.0), alt.value(0.12))


def chart_panels(data: pd.DataFrame, layout: Layout) -> Any:
    """The panels of _panels.frame; None without rows. The legend is a filter."""
    if data.empty:
        return None
    looks = data.drop_duplicates("method")
    methods = list(looks["method"])
    colours_of = layout.colours(data)
    markers = [style.shape(spec) for spec in looks["binarizer"]]
    in_colour = alt.Scale(domain=methods, range=[colours_of[method] for method in methods])
    colours = alt.Color("method:N", scale=in_colour, legend=style.CHART_LEGEND)
    shapes = alt.Shape("method:N", scale=alt.Scale(domain=methods, range=markers))
    chosen = by_legend()
    charts = []
    for panel, part in data.groupby("panel", sort=False):
        shown = part[_panels.near(part)]
        if layout.front:
            on_front = _panels.front(shown).index
            shown = shown.assign(front=shown.index.isin(on_front))
        shown = _rounded(_thinned(shown) if layout.thin else shown)
        base = alt.Chart(shown.drop(columns=["panel", "axis", "binarizer"])).encode(
            x=alt.X("x:Q", scale=_x_scale(layout), title=layout.x),
            color=colours,
            opacity=faint_unless(chosen),
        )
        y = alt.Y("y:Q", scale=_y_scale(layout, shown), title=str(part["axis"].iloc[0]))
        layers = _layers(base, y, layout, colours, shapes)
        charts.append(alt.layer(*layers).properties(title=_title(str(panel), part, shown), **SIZE))
    return alt.concat(*charts, columns=2).add_params(chosen)


def _title(panel: str, part: pd.DataFrame, shown: pd.DataFrame) -> Any:
    """The panel's title, and the controls that are outside its axes."""
    outside = part.drop(shown.index, errors="ignore")
    outside = outside[~_panels.near(part).loc[outside.index]]
    lines = style.wrapped(panel)
    if outside.empty:
        return lines
    said = [f"{row['label']} {row['y']:.3g}" for _, row in outside.iterrows()]
    return alt.TitleParams(lines, subtitle=f"outside the axes: {', '.join(said)}")


def _thinned(data: pd.DataFrame) -> pd.DataFrame:
    """Every n-th point of long curves, and the last one: the page stays small."""
    curves = data.groupby(["panel", "line", "published"])
    places = curves.cumcount()
    lengths = curves["x"].transform("size")
    step = 1 + lengths // _POINTS
    return data[(places % step == 0) | (places == lengths - 1)]


def _rounded(data: pd.DataFrame) -> pd.DataFrame:
    """Five digits are more than anyone reads."""
    digits = {}
    for name in ("x", "y", "low", "high"):
        digits[name] = [float(f"{value:.5g}") for value in data[name]]
    return data.assign(**digits)


def _x_scale(layout: Layout) -> alt.Scale:
    if layout.log:
        return alt.Scale(type="log", base=layout.log, padding=18)
    return alt.Scale(padding=6 if layout.joined else 18, zero=False, nice=False)


def _y_scale(layout: Layout, panel: pd.DataFrame) -> alt.Scale:
    if layout.limits:
        return alt.Scale(domain=list(layout.limits(panel)))
    return alt.Scale(zero=False)


def _layers(base: Any, y: Any, layout: Layout, colours: Any, shapes: Any) -> list[Any]:
    """Lines where rows are joined, intervals, and marks, which are hollow where published."""
    x_shown = alt.Tooltip("x:Q", title=layout.x)
    marks = base.mark_point(size=70, clip=True).encode(
        y=y,
        shape=shapes,
        fill=alt.condition("datum.published", alt.value(None), colours),
        tooltip=["label", x_shown, "y", "low", "high", "seeds", "runs"],
    )
    intervals = base.mark_rule(clip=True).encode(y="low:Q", y2="high:Q")
    if layout.joined:
        lines = base.mark_line(strokeWidth=1, clip=True)
        lines = lines.encode(y=y, detail=["line:N", "published:N"])
        return [lines, intervals, marks]
    if not layout.front:
        return [intervals, marks]
    on_front = base.transform_filter("datum.front")
    line = on_front.mark_line(strokeWidth=1, color=_GREY)
    line = line.encode(y=y, color=alt.value(_GREY), opacity=alt.value(1.0))
    label = on_front.mark_text(align="left", dx=7, dy=-6, fontSize=11)
    return [line, intervals, marks, label.encode(y=y, text="label")]
