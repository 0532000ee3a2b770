"""The figure of each question, for print.

A row of the frame is a mark. panel: the question's key. kind: "forest", a row of differences, or
"xy", a mark of a plot; axis_x names its plot, since a question may have several beside each other.
"""

import functools

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tbn_bench.reporting import style
from tbn_bench.reporting.figures import _panels
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.questions.answers import questions

NAME = "questions"
TITLE = "The arena's questions"
NEEDS = "runs of sweeps/cifar10_fast.yaml"
_GREY = "#9A9A9A"
_SOFT = "#555555"
_ROW_INCHES = 0.26
_FEW = 4  # places on an axis that each have a tick
_PLOT_INCHES = 2.6
_COLUMNS = (
    "panel",
    "kind",
    "row",
    "label",
    "method",
    "binarizer",
    "x",
    "y",
    "low",
    "high",
    "seeds",
    "said",
    "axis",
    "axis_x",
    "log",
    "joined",
    "bare",
    "line",
    "front",
    "control",
)


@functools.lru_cache(maxsize=1)
def frame(records: Records) -> pd.DataFrame:
    rows = []
    for question in questions(records):
        for mark in question.marks:
            rows.append({"panel": question.key, "method": mark["label"], **mark})
    return pd.DataFrame(rows, columns=list(_COLUMNS), dtype=object)


def print_panel(panel: pd.DataFrame, width: float) -> Figure:
    """One question's figure, `width` inches wide."""
    if panel["kind"].iloc[0] == "forest":
        return _forest(panel, width)
    return _plots(panel, width)


def _forest(panel: pd.DataFrame, width: float) -> Figure:
    """A row per comparison; methods of one row are below each other."""
    rows = list(dict.fromkeys(panel["row"]))
    figure = Figure(figsize=(width, 0.7 + _ROW_INCHES * len(rows)))
    axes = figure.add_subplot()
    axes.axvline(0, color=_GREY, linewidth=0.8, zorder=0)
    for place, row in enumerate(rows):
        own = panel[panel["row"] == row]
        known = own[own["x"].notna()]
        if known.empty:
            _say(axes, place, " and ".join(dict.fromkeys(own["said"])))
            continue
        offsets = np.linspace(-0.22, 0.22, len(own)) if len(own) > 1 else [0.0]
        for offset, (_, mark) in zip(offsets, own.iterrows(), strict=True):
            if mark["said"]:
                _say(axes, place + offset, f"{mark['label']} {mark['said']}")
            else:
                _draw_row(axes, mark, place + offset)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), rows)
    axes.margins(x=0.08)
    axes.set_xlabel(style.title_text(str(panel["axis"].iloc[0]), width))
    style.legend(figure, list(dict.fromkeys(panel["label"])))
    return figure


def _say(axes: Axes, y: float, text: str) -> None:
    axes.text(0, y, f"  {text}", fontsize=7, va="center", color=_SOFT)


def _draw_row(axes: Axes, mark: pd.Series, y: float) -> None:
    half = mark["high"] - mark["x"]
    axes.errorbar(
        [mark["x"]],
        [y],
        xerr=[half] if half else None,
        capsize=1.5,
        elinewidth=0.8,
        linestyle="none",
        color=style.colour(mark["binarizer"]),
        marker=style.marker(mark["binarizer"]),
        label=mark["label"],
    )
    axes.annotate(
        f"n = {mark['seeds']}",
        (1.01, y),
        xycoords=("axes fraction", "data"),
        fontsize=7,
        va="center",
        color=_SOFT,
    )


def _plots(panel: pd.DataFrame, width: float) -> Figure:
    """The plots of one question beside each other, or below each other in a column."""
    plots = list(panel.groupby("axis_x", sort=False))
    is_wide = width > style.COLUMN_INCHES
    across = len(plots) if is_wide else 1
    down = len(plots) // across
    figure = Figure(figsize=(width, _PLOT_INCHES * down))
    # the plots lie in one grid: margins.fit moves them together
    grid = figure.subplots(
        down, across, squeeze=False, gridspec_kw={"wspace": 0.28, "hspace": 0.45}
    )
    for axes, (title, rows) in zip(grid.flat, plots, strict=True):
        _draw_plot(axes, rows)
        axes.set_xlabel(style.title_text(str(title), width / across))
    for axes in grid[:, 0]:
        axes.set_ylabel(str(panel["axis"].iloc[0]))
    named = panel[panel["label"].astype(bool)]
    specs = dict(zip(named["label"], named["binarizer"], strict=True))
    order = style.methods(specs.values())
    style.legend(figure, sorted(specs, key=lambda label: order.index(specs[label])))
    return figure


def _draw_plot(axes: Axes, rows: pd.DataFrame) -> None:
    bare = rows[rows["bare"].eq(True)]
    for _, line in bare.groupby("line", sort=False):
        spec = line["binarizer"].iloc[0]
        axes.plot(line["x"], line["y"], color=style.colour(spec), linewidth=0.8, zorder=0)
        _name_line(axes, line.iloc[0])
    marks = rows[~rows["bare"].eq(True)]
    if marks["front"].eq(True).any():
        numbers = marks.assign(published=False).astype({"x": float, "y": float})
        best = _panels.front(numbers)
        axes.plot(best["x"], best["y"], color=_GREY, linewidth=0.8, zorder=0)
    for label, line in marks.groupby("label", sort=False):
        _draw_marks(axes, str(label), line)
    style.set_log(axes.xaxis, float(rows["log"].iloc[0]))
    axes.margins(x=0.08, y=0.08)
    places = sorted(set(marks["x"]))
    if len(places) <= _FEW and marks["joined"].eq(True).all():
        axes.set_xticks(places, [f"{x:g}" for x in places])
        axes.minorticks_off()


def _name_line(axes: Axes, start: pd.Series) -> None:
    """What the line is about, above its start."""
    if not isinstance(start["said"], str) or not start["said"]:
        return
    axes.annotate(
        start["said"],
        (start["x"], start["y"]),
        xytext=(0, 6),
        textcoords="offset points",
        fontsize=7,
        ha="center",
        color=_SOFT,
    )


def _draw_marks(axes: Axes, label: str, line: pd.DataFrame) -> None:
    first = line.iloc[0]
    low = (line["y"] - line["low"]).astype(float)
    high = (line["high"] - line["y"]).astype(float)
    has_interval = bool((high > 0).any())
    axes.errorbar(
        line["x"].astype(float),
        line["y"].astype(float),
        yerr=[low, high] if has_interval else None,
        capsize=1.5,
        elinewidth=0.7,
        linestyle="-" if first["joined"] else "none",
        linewidth=0.8,
        color=style.colour(first["binarizer"]),
        marker=style.marker(first["binarizer"], first["control"] is True),
        label=label,
    )
