"""The look of figures and tables: colours, markers, print sizes, and the text of numbers.

A method has one colour and one marker in every figure: the colour of its family, shaded by p, and
the marker of its layout. A tile whose copies differ has the colour of its layout.
"""

import math
import re
import textwrap
from typing import Any

import matplotlib as mpl
from matplotlib.axis import Axis
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from tbn_bench import catalog

DASH = "—"
_MOST = 2.0**63  # of an option that is a count
COLUMN_INCHES = 3.3  # of a paper with two columns
PAGE_INCHES = 6.8
_FIRST = ("full_precision", "bwn", "tbn", "sign")
# Okabe and Ito's palette, which colour-blind readers can distinguish (jfly.uni-koeln.de/color),
# then brown, grey and purple.
_PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8C564B",
    "#7F7F7F",
    "#9467BD",
)
_BLACK = "#000000"
_OTHERS = _PALETTE[2:]  # without the colours of BWN and TBN, which are in every figure
# Layout of copies -> its colour, which no family has. Plain copies have the colour of TBN.
_LAYOUT_COLOURS = {
    "hadamard": "#1B7837",
    "rotated": "#6A3D9A",
    "permuted": "#7A5C00",
    "shifted": "#01708C",
    "columns": "#B0126F",
}
_READABLE = 4.5  # contrast of small text with white (WCAG 2.2, 1.4.3)
_SHADE = 0.22  # of the way to white or black for each doubling of p
# Layouts of copies, in the order of the markers.
_LAYOUTS = ("aligned", "hadamard", "rotated", "permuted", "shifted", "columns")
# A family never changes its colour or its set of markers. The two lists share the palette, so they
# must not share a marker. Families in neither list (new ones) come third. New names go to the end
# of a list.
_FAMILIES = (
    (
        "bwn",
        "tbn",
        "sign",
        "binary_connect",
        "dorefa",
        "frozen_tile",
        "irnet",
        "repeated_filters",
        "twn",
    ),
    ("xnor", "bireal", "reactnet", "adabin", "snn", "sparks", "bitnet158", "recu", "xnorpp"),
)
# (matplotlib's marker, Vega-Lite's shape, line pattern) of the variants of a family, by its list.
_X = "M-1,-.6L-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z"
_STAR = "M0,-1L.22,-.31L.95,-.31L.36,.12L.59,.81L0,.38L-.59,.81L-.36,.12L-.95,-.31L-.22,-.31Z"
_PENTAGON = "M0,-1L.95,-.31L.59,.81L-.59,.81L-.95,-.31Z"
_HEXAGON = "M0,-1L.87,-.5L.87,.5L0,1L-.87,.5L-.87,-.5Z"
_VARIANTS: tuple[tuple[tuple[str, str, list[float]], ...], ...] = (
    (
        ("o", "circle", [1, 0]),
        ("s", "square", [5, 2]),
        ("^", "triangle-up", [2, 2]),
        ("D", "diamond", [8, 3, 2, 3]),
        ("v", "triangle-down", [1, 3]),
        ("<", "triangle-left", [12, 3]),
        (">", "triangle-right", [12, 3, 2, 3, 2, 3]),
    ),
    (
        ("P", "cross", [4, 1]),
        ("X", _X, [8, 2]),
        ("*", _STAR, [3, 3]),
        ("p", _PENTAGON, [6, 3, 1, 3]),
    ),
    (
        ("h", _HEXAGON, [1, 1]),
        ("d", "M0,-1L.6,0L0,1L-.6,0Z", [3, 1, 1, 1]),
    ),
)
_CONTROL = ("x", "M-1,-1L1,1M1,-1L-1,1")  # of a narrower network, whatever its method

PRINT = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titley": 1.0,  # else matplotlib measures all ticks once more
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.hashsalt": "tbn_bench",
    "svg.fonttype": "path",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.markersize": 4.5,
    "lines.linewidth": 1.1,
    "figure.dpi": 72,  # points: the unit of SVG and PDF
    "text.parse_math": False,  # a sweep may be called $x$
}


def largest(value: Any) -> float | None:
    """The largest of a number or a list of numbers: p, or p per layer.

    None where one of them is no positive number, because a record may hold any literal as an
    option.
    """
    values = value if isinstance(value, list | tuple) else [value]
    if not values or not all(map(_is_positive, values)):
        return None
    return float(max(values))


def _is_positive(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < _MOST


def methods(specs: Any) -> list[str]:
    """The distinct binarizer specs in reading order.

    Full precision, bwn, tbn by growing p, sign, then the others by name.
    """

    def place(spec: str) -> tuple[int, str, float, str]:
        name, options = catalog.parse(spec)
        rank = len(_FIRST)
        if name in _FIRST:
            rank = _FIRST.index(name)
        p = largest(options.get("p")) or 0.0
        return rank, name, p, spec

    return sorted(set(specs), key=place)


def _place(name: str) -> tuple[int, int]:
    """(list, position in it) of a family."""
    for i, listed in enumerate(_FAMILIES):
        if name in listed:
            return i, listed.index(name)
    unlisted = {*catalog.names("binarizers"), name}
    unlisted.discard("full_precision")
    for listed in _FAMILIES:
        unlisted.difference_update(listed)
    return len(_FAMILIES), sorted(unlisted).index(name)


def colour(spec: str) -> str:
    """The colour of a method: that of its family or layout of copies, lighter for a larger p."""
    name, options = catalog.parse(spec)
    if name == "full_precision":
        return _BLACK
    listed, place = _place(name)
    if listed == len(_FAMILIES):
        place += 2  # not the colours of BWN and TBN
    own = _PALETTE[place % len(_PALETTE)]
    layout = options.get("copies")
    if name == "tbn" and isinstance(layout, str):
        own = _LAYOUT_COLOURS.get(layout, own)
    p = largest(options.get("p")) or largest(options.get("per_layer"))
    return _shaded(own, p) if p else own


def _shaded(colour: str, p: float) -> str:
    """The colour itself at p = 4, darker below and lighter above, up to p = 16."""
    share = _SHADE * (math.log2(p) - 2)
    share = max(-0.45, min(0.45, share))
    target = 255 if share > 0 else 0
    mixed = []
    for start in (1, 3, 5):
        value = int(colour[start : start + 2], 16)
        mixed.append(round(value + abs(share) * (target - value)))
    return "#{:02X}{:02X}{:02X}".format(*mixed)


def ink(spec: str) -> str:
    """The colour on a page that may be dark, where black is the page's own ink."""
    found = colour(spec)
    return "currentColor" if found == _BLACK else found


def nth_colour(place: int) -> str:
    """A colour for marks that are not of a method: none of black, BWN's blue and TBN's orange."""
    return _OTHERS[place % len(_OTHERS)]


def readable(colour: str) -> str:
    """The colour for text on white: darker where its contrast would be below 4.5 to 1."""
    levels = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    while _contrast(levels) < _READABLE:
        levels = [int(0.95 * level) for level in levels]
    return "#{:02X}{:02X}{:02X}".format(*levels)


def _contrast(levels: list[int]) -> float:
    """The contrast ratio with white of red, green and blue from 0 to 255, as WCAG 2.2 defines."""
    linear = []
    for level in levels:
        share = level / 255
        is_dark = share <= 0.04045
        linear.append(share / 12.92 if is_dark else ((share + 0.055) / 1.055) ** 2.4)
    red, green, blue = linear
    return 1.05 / (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)


def _variant(spec: str) -> tuple[str, str, list[float]]:
    """The marker, shape and line pattern: by the layout of copies, or else by the activations."""
    name, options = catalog.parse(spec)
    listed = 0
    if name != "full_precision":
        listed, _ = _place(name)
    variants = _VARIANTS[listed]
    layout = options.get("copies", _LAYOUTS[0])
    place = _LAYOUTS.index(layout) if layout in _LAYOUTS else len(_LAYOUTS)
    if options.get("activations") is True:
        place += 1
    return variants[place % len(variants)]


def marker(spec: str, is_control: bool = False) -> str:
    """is_control: a narrower network of the method; it has the same colour and its own marker."""
    return _CONTROL[0] if is_control else _variant(spec)[0]


def shape(spec: str, is_control: bool = False) -> str:
    """marker's counterpart in Vega-Lite."""
    return _CONTROL[1] if is_control else _variant(spec)[1]


def dash(spec: str) -> list[float]:
    """The line pattern that goes with marker; of tiles, by p, too."""
    own = _variant(spec)[2]
    _, options = catalog.parse(spec)
    p = largest(options.get("p"))
    if not p or p <= 4:
        return own
    dots = min(3, int(math.log2(p)) - 2)  # after each dash: one for p = 8, two for p = 16
    start = [7, 2] if 0 in own else own
    return [*start, *([1.5, 2] * dots)]


def pattern(dash: list[float]) -> Any:
    """A line pattern as matplotlib's linestyle."""
    return "solid" if 0 in dash else (0, tuple(dash))


# Options of the page's legends: every method by its whole name, in full colour even if its marks
# are faint.
CHART_LEGEND = {"symbolLimit": 0, "labelLimit": 0, "symbolOpacity": 1}
_MARK_INCHES = 0.45  # of a legend's entry, with the air around it
_LETTER_INCHES = 0.058  # mean width at the legend's font size, with some air
_TITLE_LETTERS = 46
_FEW_DECADES = 30  # of the ends of a logarithmic axis: less has ticks at 2 and 5, too


def wrapped(title: str) -> list[str]:
    """The lines of a panel's title, broken after commas."""
    unbreakable = re.sub(r"(?<!,) ", "\u00a0", title)
    return textwrap.wrap(unbreakable, _TITLE_LETTERS)


def title_text(title: str, width: float) -> str:
    """A panel's title in lines that fit a figure of this width in inches."""
    letters = int(width / 0.068)
    return "\n".join(textwrap.wrap(title, letters))


def legend(figure: Figure, labels: list[str]) -> None:
    """One legend below the axes, in the order of `labels`; the figure grows by its height."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        marks, named = axes.get_legend_handles_labels()
        for label, mark in zip(named, marks, strict=True):
            handles[label] = mark[0] if isinstance(mark, ErrorbarContainer) else mark
    shown = [label for label in labels if label in handles]
    if not shown:
        return

    longest = max(map(len, shown))
    entry_inches = _MARK_INCHES + _LETTER_INCHES * longest
    across = max(1, int(figure.get_figwidth() / entry_inches))
    rows = math.ceil(len(shown) / across)
    letters = int((figure.get_figwidth() - _MARK_INCHES) / _LETTER_INCHES)
    broken = [textwrap.fill(label, letters) for label in shown]
    rows += sum(text.count("\n") for text in broken)
    height = figure.get_figheight() + 0.1 + 0.17 * rows
    figure.set_figheight(height)
    figure.legend(
        [handles[label] for label in shown],
        broken,
        loc="lower center",
        ncols=across,
        frameon=False,
    )


def set_log(axis: Axis, base: float = 10) -> None:
    """A logarithmic axis with plain numbers at its major ticks."""
    axes = axis.axes
    set_scale = axes.set_xscale if axis is axes.xaxis else axes.set_yscale
    low, high = axis.get_data_interval()
    set_scale("log", base=base)
    axis.set_major_formatter(_plain_number)
    if base == 10 and high < _FEW_DECADES * low:
        axis.set_major_locator(LogLocator(base, subs=(1, 2, 5)))
    elif not _has_two_powers(low, high, base):
        axis.set_major_locator(MaxNLocator(4))
        axis.set_major_formatter(_decimal)
    axis.set_minor_formatter("")


def _has_two_powers(low: float, high: float, base: float) -> bool:
    """Whether two powers of the base are between positive ends, or they are one place."""
    if low == high or low <= 0:
        return True
    start = math.log(low, base)
    end = math.log(high, base)
    first = math.ceil(start - 1e-9)
    last = math.floor(end + 1e-9)
    return last > first


def _plain_number(value: float, _: Any) -> str:
    if 0 < value < 1 and math.log2(value).is_integer():
        return f"1/{round(1 / value)}"
    return f"{value:g}"


def _decimal(value: float, _: Any) -> str:
    return f"{value:.4g}"


def missing(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, float) and math.isnan(value)


def whole(value: Any) -> int | None:
    """An integer, which a column with gaps stores as a float; None if it is missing."""
    return None if missing(value) else int(value)


def short(label: str, most: int = 28) -> str:
    """The beginning of a long label."""
    if len(label) <= most:
        return label
    kept = label[: most - 1]
    return f"{kept}…"


def text(value: Any, form: str = "") -> str:
    """The text of a cell; an em dash if the value is unknown.

    form: a format specification, or "%" for a fraction shown in percent.
    """
    if missing(value):
        return DASH
    if form == "%":
        return f"{100 * value:.2f}"
    return format(value, form) if form else str(value)


def printing() -> Any:
    """The context in which print figures are drawn."""
    return mpl.rc_context(PRINT)
