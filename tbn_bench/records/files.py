"""Files of records: JSON that is written whole, and checked when it is read.

NaN and infinity are written as the strings "NaN", "Infinity", "-Infinity" (JSON has none).
"""

import contextlib
import json
import math
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tbn_bench.atomic import replace_file
from tbn_bench.records import schema
from tbn_bench.records.text import shown

SCHEMA_VERSION = schema.VERSION


class RecordError(ValueError):
    """A record that cannot be read or written, with the path and what to do."""


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text; NaN and infinity become strings."""
    return json.dumps(_plain(value), indent=indent, sort_keys=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """The value with nothing but what JSON has: text as keys, no tuples, no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return _special(value)
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def _special(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def write_atomic(path: Path, value: Any) -> None:
    """Writes JSON; a reader finds the old file or the new one, whole. Raises RecordError."""
    replace(path, (to_json(value, indent=1) + "\n").encode())


def replace(path: Path, content: bytes) -> None:
    """As write_atomic, for any content. After an error the old file is intact."""
    try:
        replace_file(path, content)
    except OSError as error:
        raise RecordError(
            f"cannot write {path}: {error.strerror}; free space or choose another --results"
        ) from error


def read_file(path: Path) -> bytes:
    """The content of a file. Raises RecordError for a missing one, a folder, a pipe or a device."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # a pipe or a device may have no end
            raise RecordError(f"cannot read {shown(path)}: it is no file; remove it")
        if found.st_size > schema.MAX_BYTES:
            most = schema.MAX_BYTES
            raise RecordError(f"{shown(path)} must have at most {most:,} bytes; remove it")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise RecordError(f"cannot read {shown(path)}: {error.strerror}") from error


def read_json(path: Path) -> dict[str, Any]:
    """One record file. Raises RecordError where it is missing, half written or not an object."""
    try:
        value = schema.parse(read_file(path))
    except RecordError as error:
        raise RecordError(f"{error}; delete the folder to run it again") from error
    except ValueError as error:
        what = f"cannot read {shown(path)}: {error}; delete the folder to run it again"
        raise RecordError(what) from error
    if not isinstance(value, dict):
        raise RecordError(f"{shown(path)} must hold a JSON object, got {type(value).__name__}")
    return value


def read_record(path: Path, model: type[BaseModel], strict: bool = False) -> dict[str, Any]:
    """One record file, checked by its model. Raises RecordError with the path and what is wrong.

    strict: as schema.faults.
    """
    value = read_json(path)
    found = value.get("schema_version")
    if found != SCHEMA_VERSION:
        what = f"has schema_version {found!r}, this version reads {SCHEMA_VERSION}"
        raise RecordError(f"{shown(path)} {what}")
    try:
        schema.check(model, value, strict)
    except ValueError as error:
        raise RecordError(f"{shown(path)}: {error}; restore it or remove it") from error
    return value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl, empty where there is none; "NaN" and the like are floats.

    A last line without newline (a torn write) is ignored. Raises RecordError for another bad line.
    """
    if not os.path.lexists(path):
        return []
    lines = read_file(path).split(b"\n")[:-1]  # what follows the last newline is empty or torn
    with contextlib.suppress(ValueError):  # all at once is faster
        rows = schema.parse(b"[" + b",".join(lines) + b"]")
        if len(rows) == len(lines):
            return schema.rows(rows)
    try:
        return [schema.row_of(line, number) for number, line in enumerate(lines, 1)]
    except ValueError as error:
        raise RecordError(f"{shown(path)} has a damaged row: {error}") from error


def subfolders(folder: Path, problems: list[str] | None = None) -> list[str]:
    """Names of the folders in a folder, as names_in.

    A loop of links counts as a folder; opening it raises an error that names it.
    """
    return names_in(folder, _is_folder, problems)


def names_in(
    folder: Path, chooses: Callable[[os.DirEntry[str]], bool], problems: list[str] | None
) -> list[str]:
    """Names in a folder, sorted; empty where it is missing or no folder.

    What cannot be opened, and names that are not UTF-8, are appended to `problems`, or raised as
    RecordError without it.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if chooses(entry))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        note(RecordError(f"cannot open {shown(folder)}: {error.strerror}; remove it"), problems)
        return []
    for name in names:
        if not _is_text(name):
            what = f"{shown(folder / name)}: its name is not UTF-8; rename it"
            note(RecordError(what), problems)
    return list(filter(_is_text, names))


def note(error: RecordError, problems: list[str] | None) -> None:
    """Appends the text of an error to `problems`, or raises it where there is no list."""
    if problems is None:
        raise error
    problems.append(str(error))


def is_json(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(".json")


def _is_text(name: str) -> bool:
    """Whether a name from the file system can be printed and written."""
    return shown(Path(name)) == name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return True


def emit(value: dict[str, Any]) -> None:
    """The command's last line: one JSON object when stdout is not a terminal."""
    if not sys.stdout.isatty():
        print(to_json(value), flush=True)
