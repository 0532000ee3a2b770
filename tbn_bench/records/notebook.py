"""How results look in a notebook: escaped HTML made of their text and tables."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any


def text(value: object) -> str:
    """str(value) as it is printed."""
    shown = str(value)
    safe = escape(shown)
    return f"<pre>{safe}</pre>"


def table(head: Sequence[object], rows: Iterable[Sequence[object]], notes: str = "") -> str:
    """A table of cells, with a note below it."""
    lines = ["<table>", _row("th", head)]
    lines += [_row("td", row) for row in rows]
    lines.append("</table>")
    if notes:
        lines.append(text(notes))
    return "\n".join(lines)


def _row(tag: str, cells: Sequence[object]) -> str:
    parts = []
    for cell in cells:
        shown = str(cell)
        safe = escape(shown)
        parts.append(f"<{tag}>{safe}</{tag}>")
    joined = "".join(parts)
    return f"<tr>{joined}</tr>"


class Outcome(dict[str, Any]):
    """What a command returns: a dictionary that prints as lines and displays as a table."""

    def __str__(self) -> str:
        width = max(map(len, self), default=0)
        lines = []
        for name, value in self.items():
            said = _said(value)
            lines.append(f"{name:<{width}}  {said}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = []
        for name, value in self.items():
            rows.append((name, _said(value)))
        head = ("", "")
        return table(head, rows)


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        parts = [f"{name}: {part}" for name, part in value.items()]
        return ", ".join(parts)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
