"""What every figure of a plugin does with made-up records."""

import io
import json
from typing import Any

from tbn_bench import catalog
from tbn_bench.plugins.contracts import _records
from tbn_bench.plugins.contracts.rule import Rule, require
from tbn_bench.plugins.contracts.tables import without_runs
from tbn_bench.reporting import style
from tbn_bench.reporting.build import specification
from tbn_bench.reporting.figures._plugin import ReportFigure
from tbn_bench.reporting.load import Records

_NEEDED = ("panel", "method", "runs")
_INCHES = (style.COLUMN_INCHES, style.PAGE_INCHES)


def made(call: str) -> ReportFigure:
    """The figure of an entry."""
    make = catalog.load("figures", call)
    found: ReportFigure = make()
    return found


def frame_of(call: str, records: Records) -> Any:
    """A pandas data frame."""
    frame = made(call).frame(records)
    kind = type(frame).__name__
    require(kind == "DataFrame", f"frame must return a pandas DataFrame, got {kind}")
    return frame


def gives_a_frame(call: str) -> None:
    """A row per mark, with the columns that the page needs; none without records."""
    frame = frame_of(call, _records.some())
    if not frame.empty:
        missing = [name for name in _NEEDED if name not in frame]
        require(not missing, f"frame needs the columns {', '.join(_NEEDED)}; {missing} are missing")
    empty = frame_of(call, without_runs()).empty
    require(
        bool(empty), "frame has rows although there are no records; return an empty frame there"
    )


def is_printed(call: str) -> None:
    """Each panel, as wide as a column and as a page."""
    figure = made(call)
    frame = frame_of(call, _records.some())
    if frame.empty:
        return
    for _, panel in frame.groupby("panel"):
        for inches in _INCHES:
            drawn = figure.print_panel(panel, inches)
            drawn.savefig(io.BytesIO(), format="svg")


def is_a_chart(call: str) -> None:
    """chart gives a Vega-Lite specification or an Altair chart."""
    chart = specification(made(call), _records.some())
    if chart is not None:
        json.dumps(chart)


RULES = (
    Rule("its frame has a row per mark, and none without records", gives_a_frame),
    Rule("it can be printed in both widths", is_printed),
    Rule("its chart is a Vega-Lite specification", is_a_chart),
)
