"""The score on the test set against bits per weight, a panel per track, data set and model.

Error bars are 95 % intervals over seeds. Published values for the same data set and model, or about
tiles where we have no run, are hollow. Narrower binary networks of the same sweep are controls in
the plot of the whole network: their bits are divided by its weights.
"""

import functools
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.reporting import names, narrower, style
from tbn_bench.reporting.figures import _chart, _panels, _print, _published
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records

TITLE = "Accuracy against bits per weight"
NEEDS = "two methods on one data set and network"
_LAYOUT = _panels.Layout("bits per weight, lower is better", log=2, front=True)


@functools.lru_cache(maxsize=1)  # print, page and sidecar ask
def frame(records: Records) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    taken = []
    for title, gs in _panels.drawn(records):
        taken.append((gs[0].data, gs[0].model))
        own = [_mark(title, g) for g in gs] + _narrower(records, title, gs)
        published = _published.of_panel(records, gs)
        rows += _compared(own + _hollow(title, published))
    for data, model, lines in _published.others(records, taken):
        title = f"{names.data_set(data)}, {names.network(model)}, published"
        rows += _compared(_hollow(title, lines))
    return _panels.telling(_panels.frame(rows), _panels.is_published_pair)


def _mark(panel: str, g: Group) -> dict[str, Any]:
    return _panels.scored(g) | {
        "panel": panel,
        "x": g.first["bits_per_weight"],
    }


def _narrower(records: Records, panel: str, whole: list[Group]) -> list[dict[str, Any]]:
    """Marks of narrower binary networks, at their bits per weight of the whole network."""
    weights = narrower.most_weights(whole)
    marks = []
    for g in narrower.narrower(records, whole):
        bits = g.first["stored_bits_weights"] / weights
        marks.append(_mark(panel, g) | narrower.control(g) | {"x": bits})
    return marks


def _compared(marks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Empty for one method, or published values of one size alone: the table says as much."""
    places = {mark["x"] if mark.get("published") else mark["binarizer"] for mark in marks}
    return marks if len(places) > 1 else []


def _hollow(panel: str, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    marks = []
    for line in lines:
        if style.missing(line["weight_bits"]):
            continue
        marks.append(_published.mark(line) | {"panel": panel, "x": line["weight_bits"]})
    return marks


def print_panel(panel: pd.DataFrame, width: float) -> Figure:
    return _print.panel_figure(panel, width, _LAYOUT)


def chart(records: Records) -> Any:
    return _chart.chart_panels(frame(records), _LAYOUT)
