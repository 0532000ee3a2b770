"""How a tile settles, by epoch.

The share of its signs that flipped since the epoch before, and of weights close to a flip. Lines
are means over seeds, bands are Student's 95 % intervals.
"""

import functools
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tbn_bench import catalog
from tbn_bench.reporting.figures import _chart, _panels, _print
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records

TITLE = "Tile diagnostics"
NEEDS = "methods with tiles, trained for several epochs"
_LAYOUT = _panels.Layout("epoch", joined=True, thin=True)
_METHODS = (  # with a tile; bwn is a tile of p = 1
    "tbn",
    "frozen_tile",
    "repeated_filters",
    "bwn",
)
_SHOWN = {"tile/flip_rate": "signs flipped, %", "tile/near_zero": "weights near zero, %"}


def _tiled(records: Records) -> list[tuple[str, Group]]:
    """(panel, group) of every method with a tile."""
    found = []
    for title, gs in _panels.drawn(records):
        found += [(title, g) for g in gs if catalog.parse(g.binarizer)[0] in _METHODS]
    return found


@functools.lru_cache(maxsize=1)  # print, page and sidecar ask
def frame(records: Records) -> pd.DataFrame:
    tiled = _tiled(records)
    rows: list[dict[str, Any]] = []
    for key, axis in _SHOWN.items():
        curves = _panels.by_epoch(records, key, [g for _, g in tiled])
        for title, g in tiled:
            same = _panels.named(g) | {
                "panel": f"{title}: {axis.removesuffix(', %')}",
                "line": g.group_id,
                "axis": axis,
                "runs": f"{g.sweep}/{g.group_id}",
            }
            epochs = curves.get((g.sweep, g.group_id), [])
            rows += [same | epoch.shown(100) for epoch in epochs]
    return _panels.telling(_panels.frame(rows), _panels.is_short_curve)


def print_panel(panel: pd.DataFrame, width: float) -> Figure:
    return _print.panel_figure(panel, width, _LAYOUT)


def chart(records: Records) -> Any:
    return _chart.chart_panels(frame(records), _LAYOUT)
