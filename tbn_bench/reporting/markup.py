"""A table as HTML."""

import html
import math

from tbn_bench.reporting.table import Column, Row, Table, marked, one_line

_HTML = str.maketrans(
    {"\ue000": "<strong>", "\ue001": "</strong>", "\ue002": "<u>", "\ue003": "</u>"}
)
LONG = 60  # characters of a cell that may wrap


def markup(table: Table) -> str:
    """An HTML table; data-value carries the raw number that sorting uses."""
    parts = ['<div class="scroll"><table><thead><tr>']
    parts += map(_markup_head, table.columns)
    parts.append("</tr></thead><tbody>")

    for row in table.rows:
        parts.append("<tr>")
        parts += [_markup_cell(row, c) for c in table.columns]
        parts.append("</tr>")
    parts.append("</tbody></table></div>")

    for footnote in table.footnotes:
        parts.append(f'<p class="note">{html.escape(footnote)}</p>')
    return "".join(parts)


def _markup_head(c: Column) -> str:
    header = one_line(c.header)
    kind = "n" if c.numeric else "t"
    return f'<th scope="col" class="{kind}">{html.escape(header)}</th>'


def _markup_cell(row: Row, c: Column) -> str:
    text = marked(row, c)
    kind = _kind(c, text)
    value = _sort_value(row, c)
    shown = html.escape(text)
    shown = shown.translate(_HTML)
    return f'<td class="{kind}"{value}>{shown}</td>'


def _kind(c: Column, text: str) -> str:
    """The CSS class of a cell."""
    if c.numeric:
        return "n"
    return "t long" if len(text) > LONG else "t"


def _sort_value(row: Row, c: Column) -> str:
    if not c.numeric:
        return ""
    raw = row.get(c.key)
    if not isinstance(raw, int | float) or math.isnan(raw):
        return ""
    return f' data-value="{raw}"'
