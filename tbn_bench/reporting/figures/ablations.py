"""The score against p for variants of one method that differ in an option besides p.

Such options: alphas per tile or layer, from W or A, global tiling, min_layer_size, copies. Each
variant is a line. Published variants are hollow and show the best logged value of each.
"""

import functools
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tbn_bench import catalog
from tbn_bench.reporting import names
from tbn_bench.reporting.figures import _chart, _panels, _print, _published
from tbn_bench.reporting.figures.accuracy_p import apart, family, p_of
from tbn_bench.reporting.load import Records

TITLE = "Ablations: variants of the tile"
_METHOD = "tbn"
NEEDS = "two variants of the tile on one data set and network"
_LAYOUT = _panels.Layout("p: weights per stored sign", log=2, joined=True, variants=True)


def _rows(title: str, marks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Empty where there is one variant only.

    Of several published values of one variant and p, the highest is kept.
    """
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for i, mark in enumerate(marks):
        spec = mark["binarizer"]
        p = p_of(spec)
        if catalog.parse(spec)[0] != _METHOD or p is None:
            continue
        key = (family(spec), p, None if mark.get("published") else i)
        if key not in best or mark["y"] > best[key]["y"]:
            best[key] = mark
    if len({variant for variant, _, _ in best}) < 2:
        return []
    rows = []
    labels = names.methods(sorted({variant for variant, _, _ in best}))
    for (variant, p, _), mark in best.items():
        label = labels[variant]
        suffix = ", published" if mark.get("published") else ""
        name = {"method": label, "label": f"{label}{suffix}"}
        place = {"panel": title, "x": p, "binarizer": variant, "line": variant}
        rows.append(mark | place | name)
    return apart(rows)


@functools.lru_cache(maxsize=1)  # print, page and sidecar ask
def frame(records: Records) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for title, gs in _panels.drawn(records):
        marks = [_panels.scored(g) for g in gs]
        rows += _rows(title, marks)
    for data, model, lines in _published.others(records, []):
        title = f"{names.data_set(data)}, {names.network(model)}, published"
        marks = [_published.mark(line) for line in lines]
        rows += _rows(title, marks)
    return _panels.telling(_panels.frame(rows), _says_nothing)


def _says_nothing(panel: pd.DataFrame) -> str:
    if panel["x"].nunique() < 2:
        return "variants at two values of p"
    return "three marks" if len(panel) < 3 else ""


def print_panel(panel: pd.DataFrame, width: float) -> Figure:
    return _print.panel_figure(panel, width, _LAYOUT)


def chart(records: Records) -> Any:
    return _chart.chart_panels(frame(records), _LAYOUT)
