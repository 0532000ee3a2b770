"""The score against p for variants of one method that differ in an option besides p: alphas per tile or layer, from W or A, global tiling,
min_layer_size, copies. A line per variant; published variants hollow, the best logged value of each."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tbn_bench import catalog
from tbn_bench.reporting import style
from tbn_bench.reporting.figures import _panels, _published
from tbn_bench.reporting.figures.accuracy_p import apart, family, p_of
from tbn_bench.reporting.load import Records

TITLE = "Ablations: variants of the tile"
_X = "p: weights per stored sign"
_METHOD = "tbn"


def _rows(title: str, marks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Empty where there is one variant only; of several published values of one variant and p the highest."""
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for i, m in enumerate(marks):
        name, p = catalog.parse(m["binarizer"])[0], p_of(m["binarizer"])
        key = (family(m["binarizer"]), p, None if m.get("published") else i)
        if name == _METHOD and p is not None and (key not in best or m["y"] > best[key]["y"]):
            best[key] = m
    rows = [
        {**m, "panel": title, "x": p, "binarizer": spec, "line": spec}
        for (spec, p, _), m in best.items()
    ]
    return apart(rows) if len({row["binarizer"] for row in rows}) > 1 else []


def frame(records: Records) -> pd.DataFrame:
    found = _panels.drawn(records)
    rows: list[dict[str, Any]] = []
    for title, gs in found:
        rows += _rows(title, list(map(_panels.scored, gs)))
    for data, model, lines in _published.others(records, []):
        rows += _rows(f"{data}, {model}, published", list(map(_published.mark, lines)))
    names = style.labels({row["binarizer"] for row in rows})
    return _panels.frame(
        [
            row
            | {"method": names[row["binarizer"]] + (", published" if row.get("published") else "")}
            for row in rows
        ]
    )


def print_figure(records: Records) -> Figure | None:
    data = frame(records)
    return _panels.print_panels(
        data, style.methods(data["binarizer"]), _X, log=2, joined=True, variants=True
    )


def chart(records: Records) -> Any:
    data = frame(records)
    return _panels.chart_panels(
        data, style.methods(data["binarizer"]), _X, log=2, joined=True, variants=True
    )
