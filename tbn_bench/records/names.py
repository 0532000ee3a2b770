"""Names that become ids and folders: different names stay different, and no name is a path."""

import hashlib
import re
from pathlib import Path
from typing import Any

from tbn_bench.records.files import RecordError

FOLDER_BYTES = 240  # of a sweep's folder; file systems take 255, and smoke sweeps add a suffix
_DIGITS = 8  # of the hash that tells two names with the same readable part apart


def distinct(text: str, foreign: str, limit: int) -> str:
    """`text` itself, or a readable part of it and 8 hexadecimal digits of its sha256.

    The second form is for a text with characters that match `foreign`, a regular expression, for
    one of dots only (`.` and `..` are paths), and for one of more than `limit` bytes.
    """
    readable = re.sub(f"(?:{foreign})+", "-", text)
    is_short = len(text.encode("utf-8", "replace")) <= limit
    if readable == text and text.strip(".") and is_short:
        return text
    room = limit - _DIGITS - 1
    kept = readable.encode("utf-8", "replace")[:room].decode("utf-8", "ignore").strip("-.")
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    return f"{kept}-{digest}" if kept else f"unnamed-{digest}"


def folder(name: str) -> str:
    """The folder of a sweep under results/runs: letters, digits, _, . and -."""
    return distinct(name, r"[^\w.-]", FOLDER_BYTES)


def is_path(name: str) -> bool:
    """Whether `name` could lead out of the folder that it is to be made in, or cannot be one."""
    is_dots = not name.strip(".")
    has_separator = any(mark in name for mark in "/\\\0")
    return is_dots or has_separator or len(name.encode("utf-8", "replace")) > 255


def checked_name(name: Any) -> str:
    """`name`, where it can be the name of one file or folder on any system.

    Names often come from files that others made. Raises RecordError for a path, for "." and "..",
    and for characters that cannot be printed.
    """
    if not isinstance(name, str):
        raise RecordError(f"a record's name must be text, got {type(name).__name__}")
    reason = ""
    if name in ("", ".", ".."):
        reason = "it names no folder of its own"
    elif "/" in name or "\\" in name:
        reason = "it is a path"
    elif not name.isprintable():
        reason = "it has characters that cannot be printed"
    if reason:
        raise RecordError(
            f"{_shortened(name)} cannot name a record: {reason}; use letters, digits, . _ and -"
        )
    return name


def _shortened(name: str) -> str:
    return repr(name) if len(name) <= 80 else f"{name[:80]!r}..."


def entry(folder: Path, name: str) -> Path:
    """The entry `name` of a folder. Raises RecordError where folder/name lies elsewhere."""
    path = folder / name
    if name == ".." or path.parent != folder:
        raise RecordError(
            f"{_shortened(name)} names no folder in {folder}; give a name, not a path"
        )
    return path
