"""Values as words, and rows of words as aligned lines."""

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from tbn_bench.records.store import printable, tell
from tbn_bench.scores import SCORES

GAP = "  "


def word(value: Any) -> str:
    """An em dash for what is unknown; one line whatever it is."""
    if value is None or value == "":
        return "—"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ",".join(map(word, value))
    return printable(" ".join(str(value).split()))


def score(name: Any, value: Any) -> str:
    """'93.10 %', or an em dash."""
    if isinstance(value, int | float) and name in SCORES:
        return SCORES[name].text(value)
    return word(value)


def size(count: int) -> str:
    """Bytes for people: '1.25 MB'."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return (
                f"{count / scale:.3g} {unit}"
                if count < 999.5 * scale
                else f"{count / scale:.0f} {unit}"
            )
    return f"{count} bytes"


# also in full width, which some spreadsheets read as the same
_FORMULA = tuple("=+-@\t\n\uff1d\uff0b\uff0d\uff20")


def csv_cell(value: Any) -> Any:
    """A value for a CSV file. Text that a spreadsheet would run as a formula gets an apostrophe before it.

    Numbers stay as they are, also where they are text. Line ends become \\n, the one that csv quotes.
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
    """Columns of the terminal, None where stdout is none and nothing may be cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def align(
    table: Sequence[Sequence[str]], right: Iterable[int] = (), limit: int | None = None
) -> list[str]:
    """Lines of equal columns, those in `right` flush right; with a limit the widest columns are cut until a line fits into it."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    while (
        limit is not None
        and widths
        and sum(widths) + len(GAP) * (len(widths) - 1) > limit
        and max(widths) > 4
    ):
        widths[widths.index(max(widths))] -= 1
    right = set(right)
    return [
        GAP.join(cut(w, n).rjust(n) if i in right else cut(w, n).ljust(n) for i, (w, n) in enumerate(zip(row, widths, strict=True)))
        .rstrip()[:limit]
        for row in table
    ]  # fmt: skip


def cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def say(lines: Iterable[str]) -> None:
    """Prints at once. A reader that has seen enough (| head) ends the program without a word."""
    try:
        tell("\n".join(lines))
    except BrokenPipeError:
        _leave()


def _leave() -> NoReturn:
    os.dup2(
        os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
    )  # the interpreter flushes once more at its end
    raise SystemExit(0)
