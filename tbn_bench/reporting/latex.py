"""A table as LaTeX, with the packages booktabs and graphicx."""

import math
import re

from tbn_bench.reporting.table import Column, Table, marked_cells, one_line

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
    rows = marked_cells(table)
    wraps = _wraps(table.columns, rows)
    spec = "".join(map(_alignment, table.columns, wraps))
    heads = map(_head, table.columns)
    head = " & ".join(heads) + r" \\"

    out = [f"% {one_line(table.title)}. {one_line(table.note)}"]
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
    header = one_line(c.header)
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
