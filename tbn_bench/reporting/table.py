"""A table: columns, rows of raw values, notes, and the text of its cells.

An unknown value is an em dash.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tbn_bench.records.text import printable
from tbn_bench.reporting import names
from tbn_bench.reporting.style import text

# the raw values of a table's row, by key; missing values are None
Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of a table.

    key: the key in the raw row, and the CSV header. header: the head in print. show: raw row ->
    text of the cell. mark: a key of the raw row; the cell stands out where its value is "best" or
    "second". half: a key of the raw row, half of the value's interval; the page draws it.
    """

    key: str
    header: str
    show: Callable[[Row], str]
    numeric: bool = True
    mark: str = ""
    half: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its raw values.

    rows: raw values by key. note: one line under the table. run_ids: the runs that its numbers come
    from. sources: the footnotes that cells cite as [1], [2], ... raw: the keys of the CSV; the
    columns' keys if it is empty. parts: the same rows as one table per data set and network, each
    with its own title; none if the table is one piece.
    """

    title: str
    columns: list[Column]
    rows: list[Row]
    note: str = ""
    run_ids: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    raw: tuple[str, ...] = ()
    parts: tuple["Table", ...] = ()

    @property
    def footnotes(self) -> list[str]:
        """The note and the numbered sources, a line each."""
        notes = []
        if self.note:
            notes.append(one_line(self.note))
        for number, source in enumerate(self.sources, 1):
            notes.append(one_line(f"[{number}] {source}"))
        return notes


def column(key: str, header: str, form: str = "", numeric: bool = True) -> Column:
    """A column that shows the value under `key` by a format specification."""

    def show(row: Row) -> str:
        return text(row.get(key), form)

    return Column(key, header, show, numeric)


def text_column(key: str, header: str) -> Column:
    """A column that shows the value under `key` as it is, aligned as text."""
    return column(key, header, numeric=False)


def method_column(specs: Iterable[str], key: str = "binarizer", header: str = "method") -> Column:
    """The method of each row by its label. specs: all methods that the labels must tell apart."""
    labels = names.methods(specs)

    def show(row: Row) -> str:
        return labels[row[key]]

    return Column(key, header, show, numeric=False)


def run_ids(rows: Iterable[Row]) -> list[str]:
    """The run ids of all rows, sorted, each once."""
    found: set[str] = set()
    for row in rows:
        found.update(row["run_ids"])
    return sorted(found)


def one_line(text: str) -> str:
    """One line without control characters or the private characters that mark a cell."""
    joined = " ".join(text.splitlines())
    return printable(joined).replace("\t", " ")


def cells(table: Table) -> list[list[str]]:
    """The text of every cell, a list per row."""
    rows = []
    for row in table.rows:
        shown = [one_line(c.show(row)) for c in table.columns]
        rows.append(shown)
    return rows


# Private characters surround a marked cell. Each format replaces them after it has escaped the
# text. The text itself has none of them, because one_line escapes them.
_OPEN = {"best": ("\ue000", "\ue001"), "second": ("\ue002", "\ue003")}


def marked(row: Row, c: Column) -> str:
    shown = one_line(c.show(row))
    mark = row.get(c.mark)
    if mark not in _OPEN:
        return shown
    before, after = _OPEN[mark]
    return f"{before}{shown}{after}"


def marked_cells(table: Table) -> list[list[str]]:
    rows = []
    for row in table.rows:
        shown = [marked(row, c) for c in table.columns]
        rows.append(shown)
    return rows
