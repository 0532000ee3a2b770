"""Reads W&B's offline logs (run-*.wandb), for which W&B itself has no Python reader.

By `wandb leet inspect --json` where the installed wandb is one that this was checked with.
Otherwise by the log's own format (LevelDB's: blocks of 32 KiB, in them records of checksum, length
and kind) and W&B's protobuf messages. A log that was cut off is read up to the cut.
"""

import contextlib
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tbn_bench.records.files import to_json

CHECKED = ((0, 31), (0, 32))  # leet inspect --json: from, before
BLOCK = 32768  # bytes
HEAD = 7  # bytes before each record: checksum, length, kind
MAGIC = b":W&B"
# Kinds: a whole record, or the parts of one.
FULL = 1
FIRST = 2
MIDDLE = 3
LAST = 4


@dataclass
class Log:
    """One .wandb file.

    Nested names are joined by dots. Media (tables, histograms, files) are left out of rows and
    summary. exit_code: None where the process died before it could say.
    """

    path: Path
    wandb_id: str = ""
    group: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    tables: Path | None = None  # the folder of its tables; a run of a server has none here

    def plan(self) -> list[dict[str, Any]] | None:
        """The plan's rows, from the folder's media; None where there is none.

        Raises ValueError for a table that does not hold them.
        """
        files = sorted(self.tables.glob("plan_*.table.json")) if self.tables else []
        if not files:
            return None
        try:
            value = json.loads(files[0].read_text(encoding="utf-8"))
            rows = []
            for line in value["data"]:
                row = dict(zip(value["columns"], line, strict=True))
                row["shape"] = json.loads(row["shape"])
                rows.append(row)
            return rows
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(f"{files[0]} is no table of a plan: {error!r}") from error


def installed() -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in version("wandb").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return ()


def read(path: Path) -> Log:
    """Raises ValueError where the file is no W&B log, or cannot be read by any means here."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path} is not a W&B log: it does not begin with {MAGIC.decode()!r}")
    if CHECKED[0] <= installed() < CHECKED[1]:
        # the second reader says what is wrong, if anything is
        with contextlib.suppress(Exception):
            return read_leet(path)
    try:
        return read_protobuf(path)
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise ValueError(f"{path} is a damaged W&B log: {error!r}") from error


def read_leet(path: Path) -> Log:
    """By W&B's own command. Raises ValueError, OSError or SubprocessError where it fails."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    parsed = map(json.loads, done.stdout.splitlines())
    return _log(path, map(_from_leet, parsed))


Event = tuple[str, dict[str, Any]]  # (run | config | history | summary | exit, its content)


def _from_leet(record: dict[str, Any]) -> Event:
    kind = str(record["type"])
    value = record.get(kind, {})
    if kind == "run":
        return kind, {
            "id": value.get("run_id", ""),
            "group": value.get("run_group", ""),
            "config": value["config"]["update"],
        }
    if kind == "history":
        return kind, value.get("item", {})
    if kind == "exit":
        return kind, value
    if isinstance(value, dict):
        return kind, value.get("update", {})
    return kind, {}


def _log(path: Path, events: Iterable[Event]) -> Log:
    log = Log(path, tables=path.parent / "files" / "media" / "table")
    for kind, value in events:
        if kind == "run":
            log.wandb_id = value["id"]
            log.group = value["group"]
            log.config |= value["config"]
        elif kind == "config":
            log.config |= value
        elif kind == "history":
            log.rows.append(_scalars(value))
        elif kind == "summary":
            log.summary |= _scalars(value)
        elif kind == "exit":
            log.exit_code = int(value.get("exit_code", 0))
    log.config.pop("_wandb", None)
    log.rows = [row for row in log.rows if row]
    return log


def _scalars(item: dict[str, Any]) -> dict[str, Any]:
    """Without W&B's own values and without media: all names below one that has a `_type`."""
    left_out = ["_"]
    for key in item:
        if key.endswith("._type"):
            left_out.append(key.removesuffix("_type"))
    return {key: value for key, value in item.items() if not key.startswith(tuple(left_out))}


def read_protobuf(path: Path) -> Log:
    """By the file format and W&B's protobuf messages.

    Raises ValueError where this wandb has none.
    """
    try:
        from wandb.proto.wandb_internal_pb2 import Record
    except ImportError as error:
        raise ValueError(
            f"{path}: this wandb has no reader for it ({error}); install wandb>=0.31,<0.32"
        ) from error
    parsed = map(Record.FromString, records(path.read_bytes()))
    return _log(path, map(_from_record, parsed))


def records(data: bytes) -> Iterator[bytes]:
    """The records of a log, in order.

    Records that a cut or a damaged block leaves incomplete are skipped.
    """
    position = len(MAGIC) + 3
    parts = None
    while position + HEAD <= len(data):
        room = BLOCK - position % BLOCK
        if room < HEAD:
            position += room
            continue
        checksum, length, kind = struct.unpack_from("<IHB", data, position)
        start = position + HEAD
        chunk = data[start : start + length]
        is_known = kind in (FULL, FIRST, MIDDLE, LAST)
        if len(chunk) < length or not is_known or checksum != _checksum(kind, chunk):
            position += room
            parts = None
            continue
        position = start + length
        if kind == FULL:
            yield chunk
        elif kind == FIRST:
            parts = [chunk]
        elif parts is not None:
            parts.append(chunk)
            if kind == LAST:
                yield b"".join(parts)
                parts = None


def _checksum(kind: int, chunk: bytes) -> int:
    first_byte = bytes([kind])
    begun = zlib.crc32(first_byte)
    return zlib.crc32(chunk, begun)


def _from_record(record: Any) -> Event:
    kind = record.WhichOneof("record_type") or ""
    value = getattr(record, kind, None)
    if kind == "run":
        return kind, {
            "id": value.run_id,
            "group": value.run_group,
            "config": _items(value.config.update),
        }
    if kind == "history":
        return kind, _flat(_items(value.item))
    if kind == "summary":
        return kind, _flat(_items(value.update))
    if kind == "config":
        return kind, _items(value.update)
    if kind == "exit":
        return kind, {"exit_code": value.exit_code}
    return kind, {}


def _items(items: Iterable[Any]) -> dict[str, Any]:
    found = {}
    for item in items:
        name = ".".join(item.nested_key) or item.key
        found[name] = _value(item)
    return found


def _value(item: Any) -> Any:
    """NaN and infinity as W&B's reader and our records spell them."""
    typed = None
    if "value_type" in item.DESCRIPTOR.oneofs_by_name:
        typed = item.WhichOneof("value_type")
    field = typed or "value_json"
    value = getattr(item, field)
    if typed in (None, "json"):
        value = json.loads(value)
    return json.loads(to_json(value))


def _flat(item: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in item.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            out |= _flat(value, f"{name}.")
        else:
            out[name] = value
    return out
