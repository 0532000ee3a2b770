"""Cells that show published values with their numbered sources."""

import re
from collections.abc import Callable

from tbn_bench.reporting import published
from tbn_bench.reporting.published import Line
from tbn_bench.reporting.table import Row

Cells = Callable[[Row], dict[str, list[Line]]]
"""A row -> the key of each cell of published values -> its lines."""


def cite(rows: list[Row], cells: Cells) -> list[str]:
    """Writes the cells of published lines into the rows; returns the footnotes.

    cells: a key that ends in bits_per_weight shows the lines' width, others their value. For the
    CSV, the first line also gives the row a number without marks, under the key with _value, and
    its source, under the key with _source.
    """
    numbers = numbered(rows, cells)
    said: dict[str, list[Line]] = {}
    for row in rows:
        for key, lines in cells(row).items():
            for line in lines:
                said.setdefault(line["source"], []).append(line)
            shown = _width if key.endswith("bits_per_weight") else _value
            row[key] = _cell(lines, numbers, shown)
            row |= _bare(key, lines)
    return [f"{source}{_common(said[source])}" for source in numbers]


def _bare(key: str, lines: list[Line]) -> Row:
    """The number and the source of the first line of a cell; nothing if there is none."""
    if not lines:
        return {}
    line = lines[0]
    value = line["weight_bits"] if key.endswith("bits_per_weight") else line["value"]
    return {f"{key}_value": value, f"{key}_source": line["source"]}


def numbered(rows: list[Row], cells: Cells) -> dict[str, int]:
    """The number of each source, in reading order."""
    numbers: dict[str, int] = {}
    for row in rows:
        for lines in cells(row).values():
            for line in lines:
                numbers.setdefault(line["source"], len(numbers) + 1)
    return numbers


def _value(line: Line) -> str:
    return published.shown(line["metric"], line["value"])


def _width(line: Line) -> str:
    return f"{line['weight_bits']:g}"


def plain_width(lines: list[Line]) -> str | None:
    """A bit width that the method's definition fixes: 32, 2 or 1. It needs no source."""
    widths = {line["weight_bits"] for line in lines} - {None}
    if len(widths) != 1:
        return None
    width = widths.pop()
    if width != int(width):
        return None
    return f"{width:g}"


def _cell(lines: list[Line], numbers: dict[str, int], text: Callable[[Row], str]) -> str | None:
    """'93.1† [1], 93.24 [2]': each value once, with its marks and sources."""

    def place(line: Line) -> tuple[float, int]:
        return line["value"], numbers[line["source"]]

    cited: dict[str, list[str]] = {}
    for line in sorted(lines, key=place):
        value = text(line) + published.marks(line)
        citations = cited.setdefault(value, [])
        number = numbers[line["source"]]
        citation = f"[{number}]"
        if citation not in citations:
            citations.append(citation)

    cells = []
    for value, citations in cited.items():
        cells.append(f"{value} {''.join(citations)}")
    return ", ".join(cells) or None


def _common(lines: list[Line]) -> str:
    """The clauses that the ledger's notes of all lines of one source share, in parentheses."""
    separator = "; |, " if len(lines) > 1 else "; "
    first, *others = [re.split(separator, line["note"] or "") for line in lines]
    shared = list(dict.fromkeys(filter(None, first)))
    for clauses in others:
        shared = [clause for clause in shared if clause in clauses]
    if not shared:
        return ""
    return f" ({'; '.join(shared)})"
