"""A table as HTML."""

import html
import math

from tbn_bench.reporting import names
from tbn_bench.reporting.table import Column, Row, Table, marked, one_line

_HTML = str.maketrans(
    {"\ue000": "<strong>", "\ue001": "</strong>", "\ue002": "<u>", "\ue003": "</u>"}
)
_DIGITS = 4  # least, of a number that sorts a column: further ones order nothing
LONG = 60  # characters of a cell that may wrap
_WIDTH = 88  # of an interval's drawing, in its own units
_INSET = 3  # units left free at both ends


def markup(table: Table) -> str:
    """An HTML table; data-value carries the number that sorting uses, if the text is shorter."""
    parts = ['<div class="scroll"><table><thead><tr>']
    parts += map(_markup_head, table.columns)
    parts.append("</tr></thead><tbody>")

    scales = {c.key: _Scale(table.rows, c) for c in table.columns if c.half}
    for row in table.rows:
        parts.append("<tr>")
        parts += [_markup_cell(row, c, scales.get(c.key)) for c in table.columns]
        parts.append("</tr>")
    parts.append("</tbody></table></div>")

    for footnote in table.footnotes:
        parts.append(f'<p class="note">{html.escape(footnote)}</p>')
    return "".join(parts)


def _markup_head(c: Column) -> str:
    header = one_line(c.header)
    kind = "n" if c.numeric else "t"
    return f'<th scope="col" class="{kind}">{html.escape(header)}</th>'


def _markup_cell(row: Row, c: Column, scale: "_Scale | None") -> str:
    text = marked(row, c)
    kind = _kind(c, text)
    value = _sort_value(row, c, text)
    shown = html.escape(text)
    shown = shown.translate(_HTML)
    drawn = scale.drawn(row) if scale else ""
    # Most of a page is numbers: they have no class (style.css), and HTML needs no end of a cell.
    marks = "" if kind == "n" else f' class="{kind}"'
    return f"<td{marks}{value}>{shown}{drawn}"


class _Scale:
    """Places of the intervals of one column, which share their axis.

    Controls do not set it, since they may have failed. The text of the cell says the same in
    numbers, so the drawing is hidden from screen readers.
    """

    def __init__(self, rows: list[Row], c: Column):
        self.column = c
        ends = [self._ends(row) for row in rows if not _is_control(row)]
        known = [end for end in ends if end is not None]
        self.low = min((low for low, _ in known), default=0.0)
        self.high = max((high for _, high in known), default=1.0)

    def drawn(self, row: Row) -> str:
        """The interval as an SVG; only its mean if it has none, nothing without a value."""
        ends = self._ends(row)
        if ends is None or self.high <= self.low:
            return ""
        low, high = ends
        mean = row[self.column.key]
        dot = ""
        if self.low <= mean <= self.high:
            dot = f'<circle cx="{self._place(mean)}" cy="5" r="2.5"/>'
        return (
            f'<svg class="interval" viewBox="0 0 {_WIDTH} 10" aria-hidden="true">'
            f"{self._line(low, high)}{dot}</svg>"
        )

    def _line(self, low: float, high: float) -> str:
        """Nothing for a single seed."""
        if low == high:
            return ""
        return f'<path d="M{self._place(low)} 5H{self._place(high)}"/>'

    def _ends(self, row: Row) -> tuple[float, float] | None:
        mean = row.get(self.column.key)
        if mean is None:
            return None
        half = row.get(self.column.half) or 0.0
        return mean - half, mean + half

    def _place(self, value: float) -> float:
        """In the drawing's units; at an end for values beyond it."""
        share = (value - self.low) / (self.high - self.low)
        inside = min(max(share, 0.0), 1.0)
        return round(_INSET + inside * (_WIDTH - 2 * _INSET), 1)


def _is_control(row: Row) -> bool:
    return names.is_control(row.get("binarizer") or "full_precision")


def _kind(c: Column, text: str) -> str:
    """The CSS class of a cell."""
    if c.numeric:
        return "n"
    return "t long" if len(text) > LONG else "t"


def _sort_value(row: Row, c: Column, shown: str) -> str:
    """The raw number, where the cell does not show it whole."""
    if not c.numeric:
        return ""
    raw = row.get(c.key)
    if not isinstance(raw, int | float) or math.isnan(raw):
        return ""
    if isinstance(raw, float):
        digits = max(_DIGITS, sum(map(str.isdigit, shown)))
        raw = float(f"{raw:.{digits}g}")
    if shown.replace(",", "") == str(raw):
        return ""
    return f' data-value="{raw}"'
