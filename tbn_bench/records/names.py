"""Names that become ids and folders: different names stay different, and no name is a path."""

import hashlib
import re

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
