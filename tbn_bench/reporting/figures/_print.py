"""Panels of points and lines for print: one figure per panel, with labels at the marks."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from tbn_bench.reporting import margins, style
from tbn_bench.reporting.figures import _panels
from tbn_bench.reporting.figures._panels import Layout
from tbn_bench.reporting.tape import Tape

HEIGHT = 2.5  # inches
_LABEL_SIZE = 7
_MOST_CURVES = 10  # with a name at their ends
_MOST_NAME = 0.3  # of a figure's width, for names at the ends of curves
_LETTER_INCHES = 0.055  # mean width of a letter
_MOST_LEGEND = 12  # names that have no place at their marks
_STEP = 3  # points between the boxes that keep a line free of names
_LONG_LABEL = 40  # letters; a longer one is a configuration of a search
_MOST_BANDS = 5  # of curves; more hide each other
_GREY = "#9A9A9A"
# (x, y) in points from a mark to its label, and how the label is aligned there
_PLACES = (
    (5, 3, "left", "bottom"),
    (5, -3, "left", "top"),
    (-5, 3, "right", "bottom"),
    (-5, -3, "right", "top"),
    (0, 6, "center", "bottom"),
    (0, -6, "center", "top"),
    (7, 0, "left", "center"),
    (-7, 0, "right", "center"),
    (0, 14, "center", "bottom"),
    (0, -14, "center", "top"),
    (9, 12, "left", "bottom"),
    (9, -12, "left", "top"),
    (-9, 12, "right", "bottom"),
    (-9, -12, "right", "top"),
)
# How much of a label is left of its place, or below it
_SHARES = {"left": 0.0, "bottom": 0.0, "center": 0.5, "right": 1.0, "top": 1.0}


@dataclass(frozen=True)
class _Look:
    colour: str
    marker: str
    hollow: bool
    label: str

    @property
    def face(self) -> str:
        return "none" if self.hollow else self.colour


def panel_figure(panel: pd.DataFrame, width: float, layout: Layout) -> Figure:
    """One panel. panel: rows of _panels.frame with one title; width in inches."""
    figure = Figure(figsize=(width, HEIGHT))
    axes = figure.add_subplot()
    title = str(panel["panel"].iloc[0])
    if layout.joined:
        title, panel = _few(title, panel)
    panel = panel.assign(label=panel["label"].mask(_is_long(panel), panel["method"]))
    shown = panel[_panels.near(panel)]
    colours = layout.colours(panel)
    if layout.front:
        _draw_front(axes, shown)
    looks = []
    for (_, _, hollow), line in shown.groupby(["line", "label", "published"], sort=False):
        first = line.iloc[0]
        marker = style.marker(first["binarizer"], bool(first.get("control")))
        look = _Look(colours[first["method"]], marker, hollow, first["label"])
        looks.append((look, line.sort_values("x")))
    for look, line in looks:
        _draw(axes, line, look, layout, has_band=len(looks) <= _MOST_BANDS)

    if layout.log:
        style.set_log(axes.xaxis, layout.log)
        axes.margins(x=0.12)
    elif layout.joined:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))  # epochs
    if layout.limits:
        axes.set_ylim(*layout.limits(shown))
    if not layout.limits:
        axes.margins(y=0.1)
        axes.set_ylim(top=_panels.ceiling(shown))
    up = style.title_text(str(panel["axis"].iloc[0]), HEIGHT)
    axes.set(xlabel=layout.x, ylabel=up)
    axes.set_title(style.title_text(title, width), loc="left")
    _say_left_out(axes, panel.drop(shown.index))
    best = _panels.front(shown) if layout.front else shown[:0]
    unnamed = _name(figure, axes, looks, best, layout)
    style.legend(figure, unnamed[:_MOST_LEGEND])
    if len(unnamed) > _MOST_LEGEND:
        more = len(unnamed) - _MOST_LEGEND
        figure.supxlabel(f"and {more} more, in the table", fontsize=_LABEL_SIZE)
    return figure


def _is_long(panel: pd.DataFrame) -> pd.Series:
    """Rows whose label names a configuration: of these, a figure names the method alone."""
    is_own = ~panel["published"].astype(bool)
    return is_own & (panel["label"].str.len() > _LONG_LABEL)


def _few(title: str, panel: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """At most _MOST_CURVES lines, the first in reading order; the title says how many."""
    lines = panel.drop_duplicates(["line", "label", "published"])
    specs = style.methods(lines["binarizer"])
    order = lines["binarizer"].map(specs.index)
    kept = lines.loc[order.sort_values(kind="stable").index[:_MOST_CURVES]]
    if len(kept) == len(lines):
        return title, panel
    keys = set(zip(kept["line"], kept["label"], strict=True))
    is_kept = [key in keys for key in zip(panel["line"], panel["label"], strict=True)]
    return f"{title}, {len(kept)} of {len(lines)} lines", panel[is_kept]


def _draw_front(axes: Axes, panel: pd.DataFrame) -> None:
    best = _panels.front(panel)
    if len(best) > 1:
        axes.plot(best["x"], best["y"], color=_GREY, linewidth=0.8, zorder=0)


def _draw(axes: Axes, line: pd.DataFrame, look: _Look, layout: Layout, has_band: bool) -> None:
    if layout.joined and len(line) > 12:
        _draw_curve(axes, line, look, has_band)
        return
    has_interval = (line["high"] > line["low"]).any()
    error = [line["y"] - line["low"], line["high"] - line["y"]] if has_interval else None
    dash = ":" if look.hollow else "-"
    axes.errorbar(
        line["x"],
        line["y"],
        yerr=error,
        capsize=1.5,
        elinewidth=0.7,
        linestyle=dash if layout.joined else "none",
        linewidth=0.8,
        color=look.colour,
        marker=look.marker,
        markerfacecolor=look.face,
        label=look.label,
    )


def _draw_curve(axes: Axes, line: pd.DataFrame, look: _Look, has_band: bool) -> None:
    """A line with few marks, and the band of its intervals."""
    if has_band:
        axes.fill_between(
            line["x"],
            line["low"],
            line["high"],
            color=look.colour,
            alpha=0.15,
            linewidth=0,
        )
    axes.plot(
        line["x"],
        line["y"],
        markevery=max(1, len(line) // 8),
        linewidth=1,
        color=look.colour,
        marker=look.marker,
        markerfacecolor=look.face,
        label=look.label,
    )


def _say_left_out(axes: Axes, rows: pd.DataFrame) -> None:
    """Names the controls that are outside the axes."""
    if rows.empty:
        return
    said = [f"{row['label']} {row['y']:.3g}" for _, row in rows.iterrows()]
    axes.text(
        0.01,
        0.01,
        "outside: " + ", ".join(said),
        transform=axes.transAxes,
        fontsize=_LABEL_SIZE,
        color="#555555",
    )


def _name(
    figure: Figure,
    axes: Axes,
    looks: list[tuple[_Look, pd.DataFrame]],
    best: pd.DataFrame,
    layout: Layout,
) -> list[str]:
    """Writes the names at the marks. Returns those that have no place there.

    best: the rows that a front joins.
    """
    if layout.joined:
        return _name_ends(axes, looks)
    return _name_marks(figure, axes, looks, best)


def _name_ends(axes: Axes, looks: list[tuple[_Look, pd.DataFrame]]) -> list[str]:
    """Names at the right ends of the lines, moved apart so that none covers another.

    Lines of one name, such as published points, have it once: at the line that ends last.
    """
    letters = max(len(look.label) for look, _ in looks)
    if letters * _LETTER_INCHES > _MOST_NAME * axes.get_figure().get_figwidth():
        return list(dict.fromkeys(look.label for look, _ in looks))
    low, high = axes.get_ylim()
    last_ends: dict[str, tuple[_Look, pd.Series]] = {}
    for look, line in looks:
        last = line.iloc[-1]
        known = last_ends.get(look.label)
        if known is None or last["x"] > known[1]["x"]:
            last_ends[look.label] = (look, last)
    ends = []
    for look, last in last_ends.values():
        ends.append((min(max(last["y"], low), high), look, last["x"]))
    ends.sort(key=lambda end: end[0])
    places = _apart([y for y, _, _ in ends], low, high, gap=(high - low) * 0.062)
    for at, (y, look, x) in zip(places, ends, strict=True):
        axes.annotate(
            look.label,
            (x, y),
            xytext=(1.015, (at - low) / (high - low)),
            textcoords=("axes fraction", "axes fraction"),
            fontsize=_LABEL_SIZE,
            color=look.colour,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": look.colour, "linewidth": 0.4},
        )
    return []


def _apart(wanted: list[float], low: float, high: float, gap: float) -> list[float]:
    """Places from low to high at least a gap apart, each near the wanted one.

    wanted: in growing order, as is the result.
    """
    places = []
    at = low - gap
    for y in wanted:
        at = max(y, at + gap)
        places.append(at)
    limit = high
    for k in reversed(range(len(places))):
        places[k] = min(places[k], limit)
        limit = places[k] - gap

    return places


def _name_marks(
    figure: Figure, axes: Axes, looks: list[tuple[_Look, pd.DataFrame]], best: pd.DataFrame
) -> list[str]:
    """Names beside the marks, the best first, where they cover neither marks nor other names.

    If there is a place beside the front and the intervals, too, that is nearer to its own mark than
    to another, a name goes there.
    """
    margins.fit(figure)
    tape = Tape(figure)
    frame = axes.get_window_extent()
    marks = [_box_of_mark(axes, line) for _, line in looks]
    every = list(itertools.chain.from_iterable(marks))
    taken = list(every)
    lines = _boxes_of_front(axes, best)
    for _, line in looks:
        lines += _boxes_of_intervals(axes, line)
    unnamed: list[str] = []
    named: set[str] = set()
    in_order = sorted(looks, key=lambda named: -named[1]["y"].iloc[0])
    for look, line in in_order:
        if look.label in named:  # a better configuration of the same method has it
            continue
        named.add(look.label)
        own, *_ = _box_of_mark(axes, line)
        others = [box for box in every if box.bounds != own.bounds]
        for covered, near in ((taken + lines, others), (taken, others), (taken, [])):
            free = _Free(covered, frame, own, near)
            label = _placed(axes, look, line.iloc[0], free, tape)
            if label is not None:
                break
        if label is None:
            unnamed.append(look.label)
        else:
            taken.append(label.get_window_extent(tape))
    return unnamed


def _box_of_mark(axes: Axes, line: pd.DataFrame) -> list[Bbox]:
    boxes = []
    for x, y in zip(line["x"], line["y"], strict=True):
        at_x, at_y = axes.transData.transform((x, y))
        boxes.append(Bbox.from_bounds(at_x - 3, at_y - 3, 6, 6))
    return boxes


def _boxes_of_front(axes: Axes, best: pd.DataFrame) -> list[Bbox]:
    """Small boxes along the line that joins these rows."""
    places = axes.transData.transform(best[["x", "y"]])
    boxes = []
    for start, end in itertools.pairwise(places):
        length = float(np.hypot(*(end - start)))
        for share in np.linspace(0, 1, 2 + int(length / _STEP)):
            at_x, at_y = start + share * (end - start)
            boxes.append(Bbox.from_bounds(at_x - 1, at_y - 1, 2, 2))
    return boxes


def _boxes_of_intervals(axes: Axes, line: pd.DataFrame) -> list[Bbox]:
    boxes = []
    for _, row in line.iterrows():
        at_x, bottom = axes.transData.transform((row["x"], row["low"]))
        _, top = axes.transData.transform((row["x"], row["high"]))
        boxes.append(Bbox.from_extents(at_x - 1, bottom, at_x + 1, top))
    return boxes


@dataclass(frozen=True)
class _Free:
    """Where a name may be: inside of the frame, not on what is taken, nearest to its own mark."""

    taken: list[Bbox]
    frame: Bbox
    own: Bbox
    others: list[Bbox]

    def has(self, box: Bbox) -> bool:
        frame = self.frame
        is_inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 + 8 and frame.y0 <= box.y0
        if not is_inside or box.y1 > frame.y1 or box.count_overlaps(self.taken):
            return False
        nearest = min((_gap(box, other) for other in self.others), default=math.inf)
        return _gap(box, self.own) < nearest


def _gap(a: Bbox, b: Bbox) -> float:
    """The distance between two boxes; 0 where they touch."""
    across = max(a.x0 - b.x1, b.x0 - a.x1, 0.0)
    up = max(a.y0 - b.y1, b.y0 - a.y1, 0.0)
    return math.hypot(across, up)


def _placed(axes: Axes, look: _Look, row: pd.Series, free: _Free, tape: Tape) -> Annotation | None:
    """The label at the first free place around its mark; None if there is none."""
    label = axes.annotate(
        look.label,
        (row["x"], row["y"]),
        xytext=(0, 0),
        textcoords="offset points",
        fontsize=_LABEL_SIZE,
        color=look.colour,
        verticalalignment="bottom",
    )
    first = label.get_window_extent(tape)
    for dx, dy, across, along in _PLACES:
        left = first.x0 + dx - _SHARES[across] * first.width
        bottom = first.y0 + dy - _SHARES[along] * first.height
        if free.has(Bbox.from_bounds(left, bottom, first.width, first.height)):
            label.set_position((dx, dy))
            label.set_horizontalalignment(across)
            label.set_verticalalignment(along)
            return label

    label.remove()
    return None
