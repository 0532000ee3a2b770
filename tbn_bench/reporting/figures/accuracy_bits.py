"""The score on the test set against bits per weight, one panel per track, data set and model; error bars are 95 % intervals over seeds.

What others published for the same data set and model, or about tiles where we have no run, stands hollow beside it.
"""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.reporting import style
from tbn_bench.reporting.figures import _panels, _published
from tbn_bench.reporting.load import Records

TITLE = "Accuracy against bits per weight"
_X = "bits per weight, lower is better"


def frame(records: Records) -> pd.DataFrame:
    found = _panels.drawn(records)
    names = style.labels([*records.runs["binarizer"], *_published.lines(records)["spec"]])
    rows: list[dict[str, Any]] = []
    for title, gs in found:
        own = [
            _panels.scored(g)
            | {"panel": title, "method": names[g.binarizer], "x": g.first["bits_per_weight"]}
            for g in gs
        ]
        rows += _compared([*own, *_hollow(title, _published.of_panel(records, gs), names)])
    for data, model, lines in _published.others(
        records, [(gs[0].data, gs[0].model) for _, gs in found]
    ):
        rows += _compared(_hollow(f"{data}, {model}, published", lines, names))
    return _panels.frame(rows)


def _compared(marks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Empty where there is one method, or published values of one size alone: nothing to see that the table does not say."""
    places = {mark["x"] if mark.get("published") else mark["binarizer"] for mark in marks}
    return marks if len(places) > 1 else []


def _hollow(panel: str, lines: list[dict[str, Any]], names: dict[str, str]) -> list[dict[str, Any]]:
    known = [line for line in lines if not style.missing(line["weight_bits"])]
    return [
        _published.mark(r)
        | {"panel": panel, "method": f"{names[r['spec']]}, published", "x": r["weight_bits"]}
        for r in known
    ]


def _specs(records: Records) -> list[str]:
    return style.methods([*records.runs["binarizer"], *_published.lines(records)["spec"]])


def print_figure(records: Records) -> Figure | None:
    return _panels.print_panels(frame(records), _specs(records), _X, log=2)


def chart(records: Records) -> Any:
    return _panels.chart_panels(frame(records), _specs(records), _X, log=2)
