"""Panels of points and lines for print: one figure per panel, with labels at the marks."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
_MOST_BESIDE = 2  # marks above each other whose names are beside them
_MOST_LEGEND = 12  # names that have no place at their marks
_STEP = 3  # points between the boxes that keep a line free of names
_LONG_LABEL = 40  # letters; a longer one is a configuration of a search
_MOST_BANDS = 5  # of curves; more hide each other
_MOST_NAMED = 14  # lines that a note names
_LINE_INCHES = 0.14  # of a note
_TEXT_SHARE = 0.075  # of the height of the axes, for a name at the end of a line
_SPARE_MARKERS = ("s", "^", "D", "v", "P", "*", "<", ">", "X", "h", "d", "p")
_SPARE_PATTERNS = ("solid", "dashed", "dashdot", (0, (1, 1.5)), (0, (8, 2)))
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
    pattern: Any = "solid"

    @property
    def face(self) -> str:
        return "none" if self.hollow else self.colour


def panel_figure(panel: pd.DataFrame, width: float, layout: Layout) -> Figure:
    """One panel. panel: rows of _panels.frame with one title; width in inches."""
    figure = Figure(figsize=(width, HEIGHT))
    axes = figure.add_subplot()
    title = str(panel["panel"].iloc[0])
    note = ""
    if layout.joined:
        note, panel = _few(panel)
    panel = panel.assign(label=panel["label"].mask(_is_long(panel), panel["method"]))
    shown = panel[_panels.near(panel)]
    colours = layout.colours(panel)
    if layout.front:
        _draw_front(axes, shown)
    looks = _looks(shown, colours)
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
        axes.set_ylim(*_panels.possible(shown, *axes.get_ylim()))
    up = style.title_text(str(panel["axis"].iloc[0]), HEIGHT)
    axes.set(xlabel=layout.x, ylabel=up)
    axes.set_title(style.title_text(title, width), loc="left")
    if len(shown) < len(panel):
        _say_below(figure, axes, _left_out(panel.drop(shown.index)))
    if note:
        _say_below(figure, axes, note)
    best = _panels.front(shown) if layout.front else shown[:0]
    unnamed = _name(figure, axes, looks, best, layout)
    style.legend(figure, unnamed[:_MOST_LEGEND])
    if len(unnamed) > _MOST_LEGEND:
        more = len(unnamed) - _MOST_LEGEND
        _say_below(figure, axes, f"and {more} more, in the table")
    return figure


def _looks(shown: pd.DataFrame, colours: dict[str, str]) -> list[tuple[_Look, pd.DataFrame]]:
    """A look per line, no two of different names alike."""
    looks = []
    names_of: dict[tuple[str, str, bool], str] = {}
    for (_, _, hollow), line in shown.groupby(["line", "label", "published"], sort=False):
        first = line.iloc[0]
        label = first["label"]
        colour = colours[first["method"]]
        own = style.marker(first["binarizer"], bool(first.get("control")))
        pattern = style.pattern(style.dash(first["binarizer"]))
        marker = own
        for k, spare in enumerate(_SPARE_MARKERS, 1):
            if names_of.setdefault((colour, marker, hollow), label) == label:
                break
            marker = spare
            pattern = _SPARE_PATTERNS[k % len(_SPARE_PATTERNS)]
        look = _Look(colour, marker, hollow, label, ":" if hollow else pattern)
        looks.append((look, line.sort_values("x")))
    return looks


def _say_below(figure: Figure, axes: Axes, note: str) -> None:
    """A note under the title of the x axis; the figure grows by its height."""
    width = figure.get_figwidth()
    height = figure.get_figheight()
    lines = style.title_text(note, width)
    before = axes.get_xlabel()
    axes.set_xlabel(f"{before}\n{lines}")
    added = 1 + lines.count("\n")
    figure.set_figheight(height + _LINE_INCHES * added)


def _is_long(panel: pd.DataFrame) -> pd.Series:
    """Rows whose label names a configuration: of these, a figure names the method alone."""
    is_own = ~panel["published"].astype(bool)
    return is_own & (panel["label"].str.len() > _LONG_LABEL)


def _few(panel: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """(note, rows) of at most _MOST_CURVES lines; the note names those that are not drawn.

    Full precision and the lines with the best ends stay. Where the axis does not say what is
    better, the first in reading order stay.
    """
    lines = panel.sort_values("x").drop_duplicates(["line", "label", "published"], keep="last")
    if lines["label"].nunique() <= _MOST_CURVES:
        return "", panel
    specs = style.methods(lines["binarizer"])
    lines = lines.assign(place=lines["binarizer"].map(specs.index))
    lines = lines.assign(rank=_rank(lines))
    kept = lines.sort_values(["rank", "place"]).head(_MOST_CURVES)
    others = lines.drop(kept.index).sort_values("place", kind="stable")
    names = list(dict.fromkeys(others["label"]))
    said = ", ".join(names[:_MOST_NAMED])
    if len(names) > _MOST_NAMED:
        said += f" and {len(names) - _MOST_NAMED} more"
    keys = set(zip(kept["line"], kept["label"], strict=True))
    is_kept = [key in keys for key in zip(panel["line"], panel["label"], strict=True)]
    return f"not drawn, in the table: {said}", panel[is_kept]


def _rank(lines: pd.DataFrame) -> pd.Series:
    """Full precision first, then the better end."""
    if "is better" not in str(lines["axis"].iloc[0]):
        return lines["place"]
    sign = -1 if _panels.is_better_higher(lines) else 1
    ranks = (sign * lines["y"].astype(float)).rank(method="first")
    return ranks.mask(lines["binarizer"] == "full_precision", 0)


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
    axes.errorbar(
        line["x"],
        line["y"],
        yerr=error,
        capsize=1.5,
        elinewidth=0.7,
        linestyle=look.pattern if layout.joined else "none",
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
        linestyle=look.pattern,
        color=look.colour,
        marker=look.marker,
        markerfacecolor=look.face,
        label=look.label,
    )


def _left_out(rows: pd.DataFrame) -> str:
    """Names the rows that are outside the axes, with their values."""
    said = []
    by_label = rows.sort_values("x").groupby("label", sort=False)
    for label, same in by_label:
        values = [f"{y:.3g}" for y in same["y"]]
        text = ", ".join(values)
        said.append(f"{label} {text}")
    whole = "; ".join(said)
    return f"outside the axes: {whole}"


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
    if not layout.joined:
        return _name_marks(figure, axes, looks, best)
    curves = [(look, line) for look, line in looks if len(line) > 1]
    alone = [(look, line) for look, line in looks if len(line) == 1]
    places = [line["x"].iloc[0] for _, line in alone]
    is_crowded = any(places.count(x) > _MOST_BESIDE for x in places)
    if is_crowded or not _name_ends(axes, curves):
        return list(dict.fromkeys(look.label for look, _ in looks))
    return _name_marks(figure, axes, alone, best, curves)


def _name_ends(axes: Axes, looks: list[tuple[_Look, pd.DataFrame]]) -> bool:
    """Writes names at the right ends of the lines, if each has room there; whether it did.

    They have none where a name is long, two ends are closer than a line of text, or a line ends
    before another.
    """
    letters = max((len(look.label) for look, _ in looks), default=0)
    if letters * _LETTER_INCHES > _MOST_NAME * axes.get_figure().get_figwidth():
        return False
    low, high = axes.get_ylim()
    ends = []
    for look, line in looks:
        last = line.iloc[-1]
        ends.append((min(max(last["y"], low), high), last["x"], look))
    ends.sort(key=lambda end: end[0])
    gap = _TEXT_SHARE * (high - low)
    is_close = any(upper[0] - lower[0] < gap for lower, upper in itertools.pairwise(ends))
    if is_close or len({x for _, x, _ in ends}) > 1:
        return False
    for y, x, look in ends:
        axes.annotate(
            look.label,
            (x, y),
            xytext=(5, 0),
            textcoords="offset points",
            fontsize=_LABEL_SIZE,
            color=style.readable(look.colour),
            va="center",
            annotation_clip=False,
        )
    return True


def _name_marks(
    figure: Figure,
    axes: Axes,
    looks: list[tuple[_Look, pd.DataFrame]],
    best: pd.DataFrame,
    curves: Sequence[tuple[_Look, pd.DataFrame]] = (),
) -> list[str]:
    """Names beside the marks, the best first, where they cover neither marks nor other names.

    If there is a place beside the front and the intervals, too, that is nearer to its own mark than
    to another, a name goes there. curves: lines that have a name already; no name is on them.
    """
    margins.fit(figure)
    tape = Tape(figure)
    frame = axes.get_window_extent()
    marks = [_box_of_mark(axes, line) for _, line in looks]
    every = list(itertools.chain.from_iterable(marks))
    taken = list(every)
    for _, line in curves:
        taken += _boxes_of_front(axes, line)
    for text in axes.texts:
        taken.append(text.get_window_extent(tape))
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
        color=style.readable(look.colour),
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
