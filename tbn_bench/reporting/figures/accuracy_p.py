"""The score on the test set against p, by which each layer's signs are divided.

Tiles are a line, methods without p are level lines. Published values are hollow. They are in the
panel of the same data set and model, or in one of their own where we have no run (the paper's
teaser).
"""

import functools
from collections import Counter
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tbn_bench import catalog
from tbn_bench.reporting import names, style
from tbn_bench.reporting.figures import _chart, _panels, _print, _published
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records

TITLE = "Accuracy against p"
P_TITLE = "p: weights per stored sign (1: binary weights)"
NEEDS = "two values of p on one data set and network"
_LAYOUT = _panels.Layout(P_TITLE, log=2, joined=True)
_LEVEL = "full_precision"  # drawn over the whole width
_ONE = "bwn"  # p = 1


def p_of(spec: str) -> float | None:
    """Its p; the largest of a list per layer; 1 for plain binary weights; None without a p."""
    name, options = catalog.parse(spec)
    if name == _ONE:
        return 1.0
    layers = options.get("per_layer")
    if layers:
        return style.largest(layers)
    if name == "tbn":
        return style.largest(options.get("p"))
    return None


def family(spec: str) -> str:
    """The spec without p: the points of one line share it."""
    name, options = catalog.parse(spec)
    rest = []
    for option, value in options.items():
        if option not in ("p", "per_layer"):
            rest.append(f"{option}={value!r}")
    if not rest:
        return name
    return f"{name}({', '.join(rest)})"


def _rows(title: str, marks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The marks with their place on the axis; empty where no two p of tiles are compared."""
    all_p = [p_of(mark["binarizer"]) for mark in marks]
    places = {p for p in all_p if p is not None}
    if len(places - {1.0}) < 2:
        return []
    ends = (min(places), max(places))
    labels = names.methods(sorted({family(mark["binarizer"]) for mark in marks}))
    rows = []
    for i, (mark, p) in enumerate(zip(marks, all_p, strict=True)):
        spec = family(mark["binarizer"])
        line = f"published {i}" if mark.get("published") else spec
        for x in ends if spec == _LEVEL else (p,):
            if x is not None:
                label = labels[spec]
                if mark.get("published"):
                    label = f"{label}, published"
                own = {"panel": title, "x": x, "binarizer": spec, "line": line}
                rows.append(mark | own | {"method": names.method(spec), "label": label})
    return apart(rows)


def apart(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where a line has two marks at one p, each mark is a line of its own.

    Several configurations of one spec (rates, epochs) are not a curve.
    """
    count = Counter((row["line"], row["x"]) for row in rows)
    double = {line for (line, _), n in count.items() if n > 1}
    out = []
    for row in rows:
        line = row["line"]
        out.append(row | {"line": f"{line} {row['runs']}"} if line in double else row)
    return out


def _published_marks(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the variants of tiles that an ablation compares (ablations.py)."""
    marks = []
    for line in lines:
        is_tile = line["method"] == "tbn"
        if is_tile and family(line["spec"]) != "tbn":
            continue
        marks.append(_published.mark(line))
    return marks


def _has_tiles(gs: list[Group]) -> bool:
    for g in gs:
        p = p_of(g.binarizer)
        if p is not None and p > 1:
            return True
    return False


@functools.lru_cache(maxsize=1)  # print, page and sidecar ask
def frame(records: Records) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    taken = []
    for title, gs in _panels.drawn(records):
        if not _has_tiles(gs):
            continue
        taken.append((gs[0].data, gs[0].model))
        own = [_panels.scored(g) for g in gs]
        published = _published.of_panel(records, gs)
        rows += _rows(title, own + _published_marks(published))
    for data, model, lines in _published.others(records, taken):
        title = f"{names.data_set(data)}, {names.network(model)}, published"
        rows += _rows(title, _published_marks(lines))
    return _panels.telling(_panels.frame(rows), _panels.is_published_pair)


def print_panel(panel: pd.DataFrame, width: float) -> Figure:
    return _print.panel_figure(panel, width, _LAYOUT)


def chart(records: Records) -> Any:
    return _chart.chart_panels(frame(records), _LAYOUT)
