"""A table as Markdown, CSV, LaTeX (booktabs) and HTML. Unknown is an em dash in all of them."""

import csv
import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tbn_bench.reporting.style import text


@dataclass(frozen=True)
class Column:
    """key: of the raw row and of the CSV header. header: what print shows. show: raw row -> cell text."""

    key: str
    header: str
    show: Callable[[dict[str, Any]], str]
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """rows: raw values by key. note: one line under the table. run_ids: the runs its numbers come from."""

    title: str
    columns: list[Column]
    rows: list[dict[str, Any]]
    note: str = ""
    run_ids: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


def column(key: str, header: str, form: str = "", numeric: bool = True) -> Column:
    """A column that shows the value under `key` by a format specification."""
    return Column(key, header, lambda row: text(row.get(key), form), numeric)


def cells(table: Table) -> list[list[str]]:
    return [[c.show(row) for c in table.columns] for row in table.rows]


def markdown(table: Table) -> str:
    def line(values: list[str]) -> str:
        return "| " + " | ".join(v.replace("|", "\\|").replace("\n", " ") for v in values) + " |"

    rule = line([("---:" if c.numeric else "---") for c in table.columns])
    body = [line(row) for row in cells(table)]
    note = f"\n\n{table.note}" if table.note else ""
    return "\n".join([f"### {table.title}", "", line([c.header for c in table.columns]), rule, *body]) + note + "\n"


def comma_separated(table: Table) -> str:
    """Raw values, one column per key; read it with na_values='—'."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([c.key for c in table.columns])
    writer.writerows([[text(row.get(c.key)) for c in table.columns] for row in table.rows])
    return out.getvalue()


_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
          "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "×": r"$\times$", "—": "---", "–": "--",
          "†": r"$^\dagger$"}  # fmt: skip


def _escape(value: str) -> str:
    return re.sub(r"[\\&%$#_{}~^±×—–†]", lambda m: _LATEX[m.group()], value)


def latex(table: Table) -> str:
    """A booktabs tabular; needs only the booktabs package."""
    spec = "".join("r" if c.numeric else "l" for c in table.columns)
    lines = [" & ".join(map(_escape, row)) + r" \\" for row in [[c.header for c in table.columns], *cells(table)]]
    body = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join(
        [f"% {table.title}. {table.note}".replace("\n", " "), rf"\begin{{tabular}}{{{spec}}}", *body, r"\end{tabular}", ""]
    )


LONG = 60  # characters of a cell that may wrap


def markup(table: Table) -> str:
    """An HTML table; data-value carries the raw number that sorting uses."""

    def cell(c: Column, row: dict[str, Any]) -> str:
        raw = row.get(c.key)
        value = f' data-value="{raw}"' if c.numeric and isinstance(raw, int | float) and raw == raw else ""
        text = c.show(row)
        kind = "n" if c.numeric else "t long" if len(text) > LONG else "t"
        return f'<td class="{kind}"{value}>{html.escape(text)}</td>'

    heads = "".join(f'<th scope="col" class="{"n" if c.numeric else "t"}">{html.escape(c.header)}</th>' for c in table.columns)
    body = "".join(f"<tr>{''.join(cell(c, row) for c in table.columns)}</tr>" for row in table.rows)
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>{note}'
