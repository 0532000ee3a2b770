"""A table as Markdown, CSV, LaTeX (booktabs, graphicx) and HTML. Unknown is an em dash in all of them."""

import csv
import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tbn_bench.records.store import printable
from tbn_bench.reporting.style import text
from tbn_bench.runs.text import csv_cell


@dataclass(frozen=True)
class Column:
    """key: of the raw row and of the CSV header. header: what print shows. show: raw row -> cell text. mark: key of the raw row that is
    "best" or "second" where the cell is to stand out."""

    key: str
    header: str
    show: Callable[[dict[str, Any]], str]
    numeric: bool = True
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """rows: raw values by key. note: one line under the table. run_ids: the runs its numbers come from. sources: the footnotes that cells
    name as [1], [2], ... raw: keys of the CSV where they are not those of the columns."""

    title: str
    columns: list[Column]
    rows: list[dict[str, Any]]
    note: str = ""
    run_ids: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    raw: tuple[str, ...] = ()

    @property
    def footnotes(self) -> list[str]:
        """The note and the numbered sources, a line each."""
        notes = [self.note] if self.note else []
        sources = [f"[{i}] {source}" for i, source in enumerate(self.sources, 1)]
        return [_line(footnote) for footnote in notes + sources]


def column(key: str, header: str, form: str = "", numeric: bool = True) -> Column:
    """A column that shows the value under `key` by a format specification."""
    return Column(key, header, lambda row: text(row.get(key), form), numeric)


def _line(text: str) -> str:
    """One line without control characters, and without the private ones that mark a cell."""
    return printable(" ".join(text.splitlines())).replace("\t", " ")


def cells(table: Table) -> list[list[str]]:
    return [[_line(c.show(row)) for c in table.columns] for row in table.rows]


# Private characters around a marked cell, which each format writes in its own way after it has escaped the text.
# Texts have none of their own: _line has escaped them.
_OPEN = {"best": ("\ue000", "\ue001"), "second": ("\ue002", "\ue003")}
_MARKDOWN = str.maketrans({"\ue000": "**", "\ue001": "**", "\ue002": "*", "\ue003": "*"})
_HTML = str.maketrans(
    {"\ue000": "<strong>", "\ue001": "</strong>", "\ue002": "<u>", "\ue003": "</u>"}
)


def _marked(row: dict[str, Any], c: Column) -> str:
    before, after = _OPEN.get(row.get(c.mark), ("", ""))
    return f"{before}{_line(c.show(row))}{after}"


def _marked_cells(table: Table) -> list[list[str]]:
    return [[_marked(row, c) for c in table.columns] for row in table.rows]


def markdown(table: Table) -> str:
    def line(values: list[str]) -> str:
        return "| " + " | ".join(re.sub(r"(\\*)\|", r"\1\1\\|", v) for v in values) + " |"

    rule = line([("---:" if c.numeric else "---") for c in table.columns])
    head = line([_plain(_line(c.header)) for c in table.columns])
    body = [
        line([_plain(cell) for cell in row]).translate(_MARKDOWN) for row in _marked_cells(table)
    ]
    notes = "".join(f"\n\n{_plain(footnote)}" for footnote in table.footnotes)
    return "\n".join([f"### {_plain(_line(table.title))}", "", head, rule, *body]) + notes + "\n"


def _plain(value: str) -> str:
    """Without HTML and links of its own, in Markdown."""
    return re.sub(r"<(?=[A-Za-z/!?])|\](?=\()", r"\\\g<0>", value)


def comma_separated(table: Table) -> str:
    """Raw values, one column per key, cells as by csv_cell; read it with na_values='—'."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    keys = table.raw or [c.key for c in table.columns]
    writer.writerow(map(csv_cell, keys))
    for row in table.rows:
        writer.writerow(csv_cell(text(row.get(key))) for key in keys)
    return out.getvalue()


_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
          "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "×": r"$\times$", "—": "---", "–": "--",
          "†": r"$^\dagger$", "‡": r"$^\ddagger$", "<": "$<$", ">": "$>$", "≤": r"$\leq$", "≥": r"$\geq$", "−": "$-$",
          "[": "{[}", "\ue000": r"\textbf{", "\ue001": "}", "\ue002": r"\underline{", "\ue003": "}"}  # fmt: skip
_BREAK = r"\allowbreak{}"
_FITS = r"\ifdim\width>\linewidth\linewidth\else\width\fi"
_RAGGED = r"\raggedright\let\\\tabularnewline "
_HEAD = 10  # characters of a head that stays on one line, where it has a comma to break at
_CELL = 40  # characters of a text cell that stay on one line; more wrap in a column of so many centimetres:
_CELL_CM = 7
_PAGE_LINES = 40  # of one tabular, which cannot break over pages


def _escape(value: str) -> str:
    return re.sub(r"[\\&%$#_{}~^±×—–†‡<>≤≥−\[\ue000-\ue003]", lambda m: _LATEX[m.group()], value)


def _breakable(value: str) -> str:
    """Words longer than a line, which are addresses, may break after / , _ and =, and hashes anywhere."""

    def broken(m: re.Match[str]) -> str:
        word = re.sub(
            r"[0-9a-f]{40}", lambda h: "\0".join(re.findall("." * 8, h.group())), m.group()
        )
        return re.sub(r"(?<=[/,=_])(?=.)|\0", "\0", word)

    return _escape(re.sub(rf"\S{{{_CELL},}}", broken, value)).replace("\0", _BREAK)


def latex(table: Table) -> str:
    """A booktabs tabular, scaled to the line where it is wider, in parts where it is longer than a page, then its footnotes.

    Needs the packages booktabs and graphicx.
    """
    rows = _marked_cells(table)
    wraps = [
        not c.numeric and any(len(row[i]) > _CELL for row in rows)
        for i, c in enumerate(table.columns)
    ]
    spec = "".join(
        "r" if c.numeric else f"p{{{_CELL_CM}cm}}" if w else "l"
        for c, w in zip(table.columns, wraps, strict=True)
    )

    def line(row: list[str]) -> str:
        shown = [
            _RAGGED + _breakable(v) if w else _escape(v) for v, w in zip(row, wraps, strict=True)
        ]
        return " & ".join(shown) + r" \\"

    head = [r"\toprule", " & ".join(map(_head, table.columns)) + r" \\", r"\midrule"]
    out = [f"% {_line(table.title)}. {_line(table.note)}"]
    for part in _pages(rows, wraps):
        out += [
            rf"\noindent\resizebox{{{_FITS}}}{{!}}{{%",
            rf"\begin{{tabular}}{{@{{}}{spec}@{{}}}}",
            *head,
            *map(line, part),
        ]
        out += [r"\bottomrule", r"\end{tabular}}", r"\par\medskip"]
    return "\n".join(
        [
            *out,
            *(
                rf"{{\footnotesize\raggedright\noindent {_breakable(f)}\par}}"
                for f in table.footnotes
            ),
            "",
        ]
    )


def _head(c: Column) -> str:
    """Broken after its comma, so that a number's column is no wider than it must be."""
    header = _line(c.header)
    lines = header.split(", ") if len(header) > _HEAD else [header]
    text = r",\\ ".join(map(_escape, lines))
    return rf"\shortstack[{'r' if c.numeric else 'l'}]{{{text}}}" if len(lines) > 1 else text


def _pages(rows: list[list[str]], wraps: list[bool]) -> list[list[list[str]]]:
    """The rows in parts of at most a page; one part, without rows, where there are none."""
    parts: list[list[list[str]]] = [[]]
    lines = 0
    for row in rows:
        high = max([1, *(-(-len(v) // _CELL) for v, w in zip(row, wraps, strict=True) if w)])
        if parts[-1] and lines + high > _PAGE_LINES:
            parts.append([])
            lines = 0
        parts[-1].append(row)
        lines += high
    return parts


LONG = 60  # characters of a cell that may wrap


def markup(table: Table) -> str:
    """An HTML table; data-value carries the raw number that sorting uses."""

    def cell(c: Column, row: dict[str, Any]) -> str:
        raw = row.get(c.key)
        value = (
            f' data-value="{raw}"'
            if c.numeric and isinstance(raw, int | float) and raw == raw
            else ""
        )
        text = _marked(row, c)
        kind = "n" if c.numeric else "t long" if len(text) > LONG else "t"
        return f'<td class="{kind}"{value}>{html.escape(text).translate(_HTML)}</td>'

    heads = "".join(
        f'<th scope="col" class="{"n" if c.numeric else "t"}">{html.escape(_line(c.header))}</th>'
        for c in table.columns
    )
    body = "".join(f"<tr>{''.join(cell(c, row) for c in table.columns)}</tr>" for row in table.rows)
    note = "".join(f'<p class="note">{html.escape(footnote)}</p>' for footnote in table.footnotes)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>{note}'
