"""Text from records, which others may have written, as it can be shown and printed."""

import os
import sys
from pathlib import Path
from typing import TextIO


def shown(path: Path) -> str:
    """A path as text that can be printed and written, whatever bytes its names have."""
    return str(path).encode(errors="backslashreplace").decode()


def printable(text: str) -> str:
    """Text with the escape (\\x1b) of each control character and of each that has no glyph.

    Line ends and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(map(_as_shown, text))


def _as_shown(character: str) -> str:
    if character.isprintable() or character in "\n\t":
        return character
    return character.encode("unicode_escape").decode("ascii")


def tell(text: object, file: TextIO | None = None, end: str = "\n") -> None:
    """print for text that may come from a record: at once, and without control characters."""
    print(printable(str(text)), file=file or sys.stdout, end=end, flush=True)


def hush() -> None:
    """After a reader has closed stdout: what the interpreter flushes at its end goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
