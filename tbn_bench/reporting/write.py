"""A table as Markdown, CSV, LaTeX (booktabs, graphicx) and HTML.

An unknown value is an em dash in all of them.
"""

import csv
import html
import io
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tbn_bench.records.store import printable
from tbn_bench.reporting.style import labels, text
from tbn_bench.runs.text import csv_cell

Row = dict[str, Any]
"""The raw values of a table's row, by key. Missing values are None."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    key: the key in the raw row, and the CSV header. header: the head in print. show: raw row ->
    text of the cell. mark: a key of the raw row; the cell stands out where its value is "best" or
    "second".
    """

    key: str
    header: str
    show: Callable[[Row], str]
    numeric: bool = True
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its raw values.

    rows: raw values by key. note: one line under the table. run_ids: the runs that its numbers come
    from. sources: the footnotes that cells cite as [1], [2], ... raw: the keys of the CSV; the
    columns' keys if it is empty.
    """

    title: str
    columns: list[Column]
    rows: list[Row]
    note: str = ""
    run_ids: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    raw: tuple[str, ...] = ()

    @property
    def footnotes(self) -> list[str]:
        """The note and the numbered sources, a line each."""
        notes = []
        if self.note:
            notes.append(_line(self.note))
        for number, source in enumerate(self.sources, 1):
            notes.append(_line(f"[{number}] {source}"))
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
    names = labels(specs)

    def show(row: Row) -> str:
        return names[row[key]]

    return Column(key, header, show, numeric=False)


def run_ids(rows: Iterable[Row]) -> list[str]:
    """The run ids of all rows, sorted, each once."""
    found: set[str] = set()
    for row in rows:
        found.update(row["run_ids"])
    return sorted(found)


def _line(text: str) -> str:
    """One line without control characters or the private characters that mark a cell."""
    joined = " ".join(text.splitlines())
    return printable(joined).replace("\t", " ")


def cells(table: Table) -> list[list[str]]:
    """The text of every cell, a list per row."""
    rows = []
    for row in table.rows:
        shown = [_line(c.show(row)) for c in table.columns]
        rows.append(shown)
    return rows


# Private characters surround a marked cell. Each format replaces them after it has escaped the
# text. The text itself has none of them, because _line escapes them.
_OPEN = {"best": ("\ue000", "\ue001"), "second": ("\ue002", "\ue003")}
_MARKDOWN = str.maketrans({"\ue000": "**", "\ue001": "**", "\ue002": "*", "\ue003": "*"})
_HTML = str.maketrans(
    {"\ue000": "<strong>", "\ue001": "</strong>", "\ue002": "<u>", "\ue003": "</u>"}
)


def _marked(row: Row, c: Column) -> str:
    shown = _line(c.show(row))
    mark = row.get(c.mark)
    if mark not in _OPEN:
        return shown
    before, after = _OPEN[mark]
    return f"{before}{shown}{after}"


def _marked_cells(table: Table) -> list[list[str]]:
    rows = []
    for row in table.rows:
        shown = [_marked(row, c) for c in table.columns]
        rows.append(shown)
    return rows


def markdown(table: Table) -> str:
    title = _plain(_line(table.title))
    headers = [_line(c.header) for c in table.columns]
    rule = ["---:" if c.numeric else "---" for c in table.columns]

    lines = [
        f"### {title}",
        "",
        _markdown_row(headers),
        _markdown_row(rule),
        *map(_markdown_row, _marked_cells(table)),
    ]
    for footnote in table.footnotes:
        lines += ["", _plain(footnote)]
    return "\n".join(lines) + "\n"


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
    """Raw values, one column per key, cells as by csv_cell; read it with na_values='—'."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    keys = table.raw or [c.key for c in table.columns]
    writer.writerow(map(csv_cell, keys))
    for row in table.rows:
        values = []
        for key in keys:
            value = text(row.get(key))
            values.append(csv_cell(value))
        writer.writerow(values)
    return out.getvalue()


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "—": "---",
    "–": "--",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "<": "$<$",
    ">": "$>$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "−": "$-$",
    "[": "{[}",
    "\ue000": r"\textbf{",
    "\ue001": "}",
    "\ue002": r"\underline{",
    "\ue003": "}",
}
_ESCAPES = str.maketrans(_LATEX)
_BREAK = r"\allowbreak{}"
_FITS = r"\ifdim\width>\linewidth\linewidth\else\width\fi"
_RAGGED = r"\raggedright\let\\\tabularnewline "
_HEAD = 10  # characters; a longer head breaks after its commas
_CELL = 40  # characters; a column with a longer text cell wraps
_CELL_CM = 7  # width of a column that wraps
_PAGE_LINES = 40  # of one tabular, which cannot break over pages


def _escape(value: str) -> str:
    return value.translate(_ESCAPES)


def _breakable(value: str) -> str:
    """The value in LaTeX. Words longer than a line, which are addresses, may break over lines."""
    long_word = rf"\S{{{_CELL},}}"
    marked = re.sub(long_word, _with_breaks, value)
    escaped = _escape(marked)
    return escaped.replace("\0", _BREAK)


def _with_breaks(word: re.Match[str]) -> str:
    """A word with a zero byte after each / , _ and =, and within each hash."""
    text = word.group()
    text = re.sub(r"[0-9a-f]{40}", _hash_with_breaks, text)
    return re.sub(r"(?<=[/,=_])(?=.)|\0", "\0", text)


def _hash_with_breaks(digits: re.Match[str]) -> str:
    text = digits.group()
    parts = re.findall(r".{8}", text)
    return "\0".join(parts)


def latex(table: Table) -> str:
    """A booktabs tabular and its footnotes.

    The tabular is scaled to the line where it is wider, and split where it is longer than a page.
    Needs the packages booktabs and graphicx.
    """
    rows = _marked_cells(table)
    wraps = _wraps(table.columns, rows)
    spec = "".join(map(_alignment, table.columns, wraps))
    heads = map(_head, table.columns)
    head = " & ".join(heads) + r" \\"

    out = [f"% {_line(table.title)}. {_line(table.note)}"]
    for part in _pages(rows, wraps):
        out += [
            rf"\noindent\resizebox{{{_FITS}}}{{!}}{{%",
            rf"\begin{{tabular}}{{@{{}}{spec}@{{}}}}",
            r"\toprule",
            head,
            r"\midrule",
            *(_latex_row(row, wraps) for row in part),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\par\medskip",
        ]
    for footnote in table.footnotes:
        out.append(rf"{{\footnotesize\raggedright\noindent {_breakable(footnote)}\par}}")
    return "\n".join([*out, ""])


def _wraps(columns: list[Column], rows: list[list[str]]) -> list[bool]:
    """Whether each column wraps: it is of text and has a cell longer than a line."""
    wraps = []
    for i, c in enumerate(columns):
        longest = max((len(row[i]) for row in rows), default=0)
        is_long = longest > _CELL
        wraps.append(is_long and not c.numeric)
    return wraps


def _alignment(c: Column, wraps: bool) -> str:
    if c.numeric:
        return "r"
    return f"p{{{_CELL_CM}cm}}" if wraps else "l"


def _latex_row(row: list[str], wraps: list[bool]) -> str:
    shown = []
    for value, wrap in zip(row, wraps, strict=True):
        if wrap:
            shown.append(_RAGGED + _breakable(value))
        else:
            shown.append(_escape(value))
    return " & ".join(shown) + r" \\"


def _head(c: Column) -> str:
    """The head, broken after its commas so that it does not widen a column of numbers."""
    header = _line(c.header)
    if len(header) <= _HEAD or ", " not in header:
        return _escape(header)
    lines = header.split(", ")
    escaped = map(_escape, lines)
    text = r",\\ ".join(escaped)
    side = "r" if c.numeric else "l"
    return rf"\shortstack[{side}]{{{text}}}"


def _pages(rows: list[list[str]], wraps: list[bool]) -> list[list[list[str]]]:
    """The rows in parts of at most a page; one empty part if there are no rows."""
    parts: list[list[list[str]]] = [[]]
    lines = 0
    for row in rows:
        height = _height(row, wraps)
        page = parts[-1]
        if page and lines + height > _PAGE_LINES:
            page = []
            parts.append(page)
            lines = 0
        page.append(row)
        lines += height
    return parts


def _height(row: list[str], wraps: list[bool]) -> int:
    """The lines that a row takes in print."""
    height = 1
    for value, wrap in zip(row, wraps, strict=True):
        if wrap:
            lines = math.ceil(len(value) / _CELL)
            height = max(height, lines)
    return height


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
    header = _line(c.header)
    kind = "n" if c.numeric else "t"
    return f'<th scope="col" class="{kind}">{html.escape(header)}</th>'


def _markup_cell(row: Row, c: Column) -> str:
    text = _marked(row, c)
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
