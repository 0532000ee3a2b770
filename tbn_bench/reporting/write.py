"""A table as Markdown and as CSV."""

import csv
import io
import re

from tbn_bench.reporting import units
from tbn_bench.reporting.style import text
from tbn_bench.reporting.table import Table, marked_cells, one_line
from tbn_bench.runs.text import csv_cell

_MARKDOWN = str.maketrans({"\ue000": "**", "\ue001": "**", "\ue002": "*", "\ue003": "*"})


def markdown(table: Table) -> str:
    """A heading, the table or its parts under headings of their own, and the footnotes."""
    lines = [f"### {_plain(one_line(table.title))}"]
    for part in table.parts:
        lines += ["", f"#### {_plain(one_line(part.title))}", "", *grid(part), *_footnotes(part)]
    if not table.parts:
        lines += ["", *grid(table)]
    lines += _footnotes(table)
    return "\n".join(lines) + "\n"


def grid(table: Table) -> list[str]:
    """The lines of a table, its head included."""
    headers = [one_line(c.header) for c in table.columns]
    rule = ["---:" if c.numeric else "---" for c in table.columns]
    return [
        _markdown_row(headers),
        _markdown_row(rule),
        *map(_markdown_row, marked_cells(table)),
    ]


def _footnotes(table: Table) -> list[str]:
    lines = []
    for footnote in table.footnotes:
        lines += ["", _plain(footnote)]
    return lines


def _markdown_row(values: list[str]) -> str:
    escaped = []
    for value in values:
        cell = _plain(value)
        cell = re.sub(r"(\\*)\|", r"\1\1\\|", cell)
        cell = cell.translate(_MARKDOWN)
        escaped.append(cell)
    return f"| {' | '.join(escaped)} |"


def _plain(value: str) -> str:
    """The value with its own HTML and links escaped, for Markdown."""
    return re.sub(r"<(?=[A-Za-z/!?])|\](?=\()", r"\\\g<0>", value)


def comma_separated(table: Table) -> str:
    """Numbers without marks, one unit per column; read it with na_values='—'.

    units.py names the columns. Cells are as by csv_cell.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = units.named(table)
    writer.writerow([csv_cell(column.name) for column in columns])
    for row in table.rows:
        values = []
        for column in columns:
            value = text(column.value(row))
            values.append(csv_cell(value))
        writer.writerow(values)
    return out.getvalue()
