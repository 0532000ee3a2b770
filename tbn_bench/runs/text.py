"""Values as words, and rows of words as aligned lines."""

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from tbn_bench.records.text import hush, printable, tell
from tbn_bench.scores import SCORES

GAP = "  "
UNKNOWN = "—"
_NARROWEST = 4  # columns are not cut below this many letters
_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
# the beginnings of a formula, also in full width, which some spreadsheets read as the same
_FORMULA = tuple("=+-@\t\n\uff1d\uff0b\uff0d\uff20")


def word(value: Any) -> str:
    """One line for any value; an em dash for an unknown one."""
    if value is None or value == "":
        return UNKNOWN
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        parts = map(word, value)
        return ",".join(parts)
    words = str(value).split()
    one_line = " ".join(words)
    return printable(one_line)


def score(name: Any, value: Any) -> str:
    """'93.10 %', or an em dash."""
    if isinstance(value, int | float) and name in SCORES:
        return SCORES[name].text(value)
    return word(value)


def size(count: int) -> str:
    """Bytes for people: '1.25 MB'."""
    for unit, scale in _UNITS:
        amount = count / scale
        if amount >= 999.5:
            return f"{amount:.0f} {unit}"
        if amount >= 1:
            return f"{amount:.3g} {unit}"
    return f"{count} bytes"


def csv_cell(value: Any) -> Any:
    """A value for a CSV file. Text that a spreadsheet would run as a formula gets an apostrophe.

    Numbers stay as they are, also in text. Line ends become \\n, the one that csv quotes.
    """
    if not isinstance(value, str):
        return value
    value = value.replace("\r\n", "\n").replace("\r", "\n")
    if not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def width() -> int | None:
    """Columns of the terminal; None where stdout is none, and nothing may be cut."""
    if not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def align(
    table: Sequence[Sequence[str]], right: Iterable[int] = (), limit: int | None = None
) -> list[str]:
    """Lines of equal columns, those in `right` flush right.

    limit: the widest columns are cut until a line fits into it.
    """
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    if limit is not None:
        _narrow(widths, limit)
    flush_right = set(right)
    lines = []
    for row in table:
        cells = []
        for place, cell in enumerate(row):
            own = cut(cell, widths[place])
            if place in flush_right:
                cells.append(own.rjust(widths[place]))
            else:
                cells.append(own.ljust(widths[place]))
        lines.append(GAP.join(cells).rstrip()[:limit])
    return lines


def _narrow(widths: list[int], limit: int) -> None:
    gaps = len(GAP) * (len(widths) - 1)
    while widths and sum(widths) + gaps > limit:
        most = max(widths)
        if most <= _NARROWEST:
            return
        widest = widths.index(most)
        widths[widest] -= 1


def cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return text[: limit - 1] + "…"


def say(lines: Iterable[str]) -> None:
    """Prints at once. A reader that has seen enough (| head) ends the program silently."""
    try:
        tell("\n".join(lines))
    except BrokenPipeError:
        hush()
        raise SystemExit(0) from None
