"""Panels of points and lines for the page, as Vega-Lite charts."""

import re
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd
from altair import SCHEMA_URL

from tbn_bench.reporting import style
from tbn_bench.reporting.figures import _beside, _panels
from tbn_bench.reporting.figures._panels import Layout

SIZE = {"width": 330, "height": 240}  # of a panel
_ENTRY = 15  # height of a configuration in the legend
_MOST_SETTINGS = 8  # with a legend
_LONG_SETTING = 40  # letters
_COLOURS = 7  # of configurations; more are shades of one scale
_POINTS = 15  # of one curve; print draws all
_GREY = "#9A9A9A"

ROWS = alt.NamedData("rows")  # of a panel that `alike` repeats
Channel = dict[str, Any]  # of Vega-Lite: a field or value, its type and its scale


def chart_panels(data: pd.DataFrame, layout: Layout) -> dict[str, Any] | None:
    """The panels of _panels.frame as a Vega-Lite specification; None without rows.

    The page makes the legend. Altair would take ten times as long to build the same.
    """
    if data.empty:
        return None
    method = _by_method(data, layout)
    datasets = {}
    panels = []
    for panel, part in data.groupby("panel", sort=False):
        shown = part[_panels.near(part)]
        if layout.front:
            on_front = _panels.front(shown).index
            shown = _beside.named(shown.assign(front=shown.index.isin(on_front)), bool(layout.log))
        shown = _rounded(_thinned(shown) if layout.thin else shown)
        if _configurations(part):
            shown = shown.assign(setting=shown["label"].map(_setting))
        by_settings = _by_settings(part)
        rows = shown.drop(columns=["panel", "axis", "binarizer"]).to_dict("records")
        name = f"rows-{len(panels)}"
        datasets[name] = rows
        y = {
            "field": "y",
            "type": "quantitative",
            "scale": _y_scale(layout, shown),
            "title": str(part["axis"].iloc[0]),
        }
        drawn = {
            "title": _title(str(panel), part, shown),
            "data": {"name": name},
            "layer": _layers(layout, by_settings or method, y),
            "width": SIZE["width"],
            "height": SIZE["height"] + _ENTRY * _entries(by_settings),
        }
        panels.append(drawn)
    return {"$schema": SCHEMA_URL, "concat": panels, "columns": 2, "datasets": datasets}


def alike(chart: Any, panels: dict[str, pd.DataFrame], columns: int = 2) -> dict[str, Any]:
    """The specification of panels that differ in their title and their rows alone.

    chart: one panel of Altair's with the data ROWS; every channel names its type. Altair takes
    50 ms to build a panel, so it builds this one.
    """
    same = chart.to_dict()
    outer = {key: same.pop(key) for key in ("$schema", "config") if key in same}
    datasets = {}
    parts = []
    for title, rows in panels.items():
        name = f"rows-{len(parts)}"
        known = rows.astype(object).where(rows.notna(), None)
        datasets[name] = known.to_dict("records")
        own = {"title": style.wrapped(title), "data": {"name": name}}
        parts.append(same | own)
    return outer | {"concat": parts, "columns": columns, "datasets": datasets}


@dataclass(frozen=True)
class _ByMethod:
    """The channels of a mark's method."""

    colour: Channel
    shape: Channel


def _by_method(data: pd.DataFrame, layout: Layout) -> _ByMethod:
    looks = data.drop_duplicates("method")
    methods = list(looks["method"])
    colours_of = layout.colours(data)
    colours = [colours_of[method] for method in methods]
    markers = [style.shape(spec) for spec in looks["binarizer"]]
    same: Channel = {"field": "method", "type": "nominal"}
    return _ByMethod(
        colour=same
        | {"scale": {"domain": methods, "range": colours}, "legend": dict(style.CHART_LEGEND)},
        shape=same | {"scale": {"domain": methods, "range": markers}},
    )


def _by_settings(part: pd.DataFrame) -> _ByMethod | None:
    """Each setting in a colour of its own where a method has several, as a search does.

    The marker is that of the method. Many settings have colours from dark to light, and no legend:
    a mark under the mouse names its own.
    """
    labels = _configurations(part)
    if not labels:
        return None
    own = part[~part["published"].astype(bool)]
    settings = sorted({_setting(label) for label in own["label"]}, key=_natural)
    few = [style.nth_colour(place) for place in range(len(settings))]
    scale = {"scheme": "viridis"} if len(settings) > _COLOURS else {"range": few}
    legend = None
    if len(settings) <= _MOST_SETTINGS and max(map(len, settings)) <= _LONG_SETTING:
        legend = style.CHART_LEGEND | {"title": None, "columns": 1}
    looks = own.drop_duplicates("method")
    markers = [style.shape(spec) for spec in looks["binarizer"]]
    return _ByMethod(
        colour=_nominal("setting") | {"scale": {"domain": settings, **scale}, "legend": legend},
        shape=_nominal("method")
        | {"scale": {"domain": list(looks["method"]), "range": markers}, "legend": None},
    )


def _entries(by_settings: _ByMethod | None) -> int:
    """The number of entries of a legend of settings."""
    if by_settings is None or by_settings.colour["legend"] is None:
        return 0
    return len(by_settings.colour["scale"]["domain"])


def _setting(label: str) -> str:
    """The varied settings in a label: lr=0.1 of "TBN-4, lr=0.1"; the whole label without them."""
    found = re.search(r", ([a-z_]+=[^()]*)$", label)
    return found[1] if found else label


def _natural(text: str) -> list[tuple[float, str]]:
    """A key that orders numbers in a text by size."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(float(part), "") if i % 2 else (0.0, part) for i, part in enumerate(parts)]


def _configurations(part: pd.DataFrame) -> list[str]:
    """The labels of a panel in which one call has several; empty for any other panel."""
    own = part[~part["published"].astype(bool)]
    if "control" in own:
        own = own[~own["control"].astype(bool)]
    if not own.groupby("binarizer")["label"].nunique().gt(1).any():
        return []
    return list(dict.fromkeys(own["label"]))


def _title(panel: str, part: pd.DataFrame, shown: pd.DataFrame) -> Any:
    """The panel's title; under it controls that are outside the axes, and narrower networks."""
    outside = part.drop(shown.index, errors="ignore")
    outside = outside[~_panels.near(part).loc[outside.index]]
    lines = style.wrapped(panel)
    said = []
    if not outside.empty:
        said.append(f"outside the axes: {_named(outside)}")
    if "control" in shown and shown["control"].any():
        controls = shown[shown["control"].astype(bool)]
        said.append(f"controls: {_named(controls)} (bits per weight of the whole network)")
    return {"text": lines, "subtitle": " — ".join(said)} if said else lines


def _named(rows: pd.DataFrame) -> str:
    """BWN, narrower 86.4 to 89.1; Frozen tile-8 82.8."""
    said = []
    for label, same in rows.groupby("label", sort=False):
        low, high = same["y"].min(), same["y"].max()
        values = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
        said.append(f"{label} {values}")
    return "; ".join(said)


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


def _x_scale(layout: Layout) -> dict[str, Any]:
    if layout.log:
        return {"type": "log", "base": layout.log, "padding": 18}
    return {"padding": 6 if layout.joined else 18, "zero": False, "nice": False}


def _y_scale(layout: Layout, panel: pd.DataFrame) -> dict[str, Any]:
    if layout.limits:
        return {"domain": list(layout.limits(panel))}
    scale: dict[str, Any] = {"zero": False}
    top = _panels.ceiling(panel)
    if top is not None:
        scale["domainMax"] = top
    bottom = _panels.floor(panel)
    if bottom is not None:
        scale["domainMin"] = bottom
    return scale


def _layers(layout: Layout, method: _ByMethod, y: Channel) -> list[dict[str, Any]]:
    """Lines where rows are joined, intervals, and marks, which are hollow where published."""
    x = {
        "field": "x",
        "type": "quantitative",
        "scale": _x_scale(layout),
        "title": layout.x,
    }
    same = {"x": x, "color": method.colour}
    hollow = {"test": "datum.published", "value": None}
    narrower = {"test": "datum.control", "value": style.shape("bwn", is_control=True)}
    marks = {
        "mark": {"type": "point", "size": 70, "clip": True},
        "encoding": same
        | {
            "y": y,
            "shape": {"condition": narrower, **method.shape},
            "fill": {"condition": hollow, **method.colour},
            "tooltip": _tooltip(layout),
        },
    }
    intervals = {
        "mark": {"type": "rule", "clip": True},
        "encoding": same
        | {
            "y": {"field": "low", "type": "quantitative"},
            "y2": {"field": "high"},
        },
    }
    if layout.joined:
        detail = [_nominal("line"), _nominal("published")]
        lines = {
            "mark": {"type": "line", "strokeWidth": 1, "clip": True},
            "encoding": same | {"y": y, "detail": detail},
        }
        return [lines, intervals, marks]
    if not layout.front:
        return [intervals, marks]
    on_front = {"transform": [{"filter": "datum.front"}]}
    line = on_front | {
        "mark": {"type": "line", "strokeWidth": 1, "color": _GREY},
        "encoding": {"x": x, "y": y, "color": {"value": _GREY}},
    }
    label = {
        "transform": [{"filter": "datum.name"}],
        "mark": {
            "type": "text",
            "align": {"expr": "datum.dx > 0 ? 'left' : 'right'"},
            "baseline": "alphabetic",
            "dx": {"expr": "datum.dx"},
            "dy": {"expr": "datum.dy"},
            "fontSize": 11,
        },
        "encoding": same | {"y": y, "text": _nominal("name")},
    }
    return [line, intervals, marks, label]


def _tooltip(layout: Layout) -> list[Channel]:
    numbers = [{"field": name, "type": "quantitative"} for name in ("y", "low", "high", "seeds")]
    x = {"field": "x", "type": "quantitative", "title": layout.x}
    return [_nominal("label"), x, *numbers, _nominal("runs")]


def _nominal(field: str) -> Channel:
    return {"field": field, "type": "nominal"}
