"""The base of figures outside this package: a class with what a module of this folder has.

The default figure shows the score of each method against a number of its runs.
"""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tbn_bench.reporting.figures import _chart, _panels, _print
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records


class ReportFigure:
    """A figure of a plugin, by the name of its class. Override x_of, or the three other methods.

    TITLE: above the figure. NEEDS: what the page says is missing when there is nothing to draw.
    LAYOUT: how points and lines are drawn.
    """

    TITLE = ""
    NEEDS = "a finished run"
    LAYOUT = _panels.Layout("")

    def x_of(self, group: Group, records: Records) -> float | None:
        """Where runs that differ in the seed alone lie on the x axis; None leaves them out."""
        raise NotImplementedError(f"{type(self).__name__} needs x_of(group, records), or frame")

    def frame(self, records: Records) -> pd.DataFrame:
        """A row per mark, with the columns of _panels.py; empty where there is nothing to draw."""
        rows = []
        for panel, groups in _panels.drawn(records):
            for group in groups:
                x = self.x_of(group, records)
                if x is None:
                    continue
                row = _panels.scored(group)
                row |= {"panel": panel, "x": float(x)}
                rows.append(row)
        return _panels.frame(rows)

    def print_panel(self, panel: pd.DataFrame, width: float) -> Figure:
        """One panel of the frame, `width` inches wide."""
        return _print.panel_figure(panel, width, self.LAYOUT)

    def chart(self, records: Records) -> Any:
        """A Vega-Lite specification or an Altair chart; None where there is nothing to draw."""
        return _chart.chart_panels(self.frame(records), self.LAYOUT)
