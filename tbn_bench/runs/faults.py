"""The faults of one recorded run: its schema, its config's hash, its state, its own numbers."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbn_bench.config import make
from tbn_bench.records import schema
from tbn_bench.records.files import SCHEMA_VERSION, RecordError, read_json
from tbn_bench.records.schema import STATUSES
from tbn_bench.runs import index, numbers
from tbn_bench.runs.lock import held

AGAIN = "--set-aside moves it away, so that its sweep runs it again"
RESTORE = f"restore it (git checkout), or {AGAIN}"
READ_OLDER = "read it with the version that wrote it"
_HEADER = ("schema_version", "run_id", "sweep", "status", "error", "config", "provenance")
_PROVENANCE = ("commit", "dirty", "versions", "hardware", "command", "started")
_WITH_ERROR = ("failed", "diverged", "interrupted", "stopped")
# faults of metrics.jsonl that stay; a torn end is trained again
_LASTING = ("row", "value", "gap", "repeats")
_LOOKS = 3

Json = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """kind: one word for counting. todo: the remedy."""

    path: Path
    kind: str
    what: str
    todo: str

    def __str__(self) -> str:
        what = " ".join(self.what.split())
        return f"{self.path}: {self.kind}: {what}; {self.todo}"


@dataclass(frozen=True)
class Read:
    """The files of a run. summary: None where there is none. live: a process holds the run."""

    path: Path
    header: Json
    summary: Json | None
    live: bool


def faults(path: Path) -> list[Fault]:
    """Of the run in folder `path`. Looks again where the run has changed meanwhile."""
    folder = str(path)
    found: list[Fault] = []
    for _ in range(_LOOKS):
        stamp = index.stamp(folder)
        found = list(look(path))
        if not found or index.stamp(folder) == stamp:
            break
    return found


def look(path: Path) -> Iterator[Fault]:
    """The faults of the run in folder `path` at one look."""
    live = held(path)
    if not live:
        yield from leftovers(path)
    try:
        run = _read(path, live)
    except RecordError as error:
        just_claimed = live and not (path / "run.json").exists()
        if not just_claimed:
            what = str(error).replace("; delete the folder to run it again", "")
            yield Fault(path, "unreadable", what, AGAIN)
        return
    broken = [*_header(run), *_summary(run)]
    yield from broken
    if not broken:
        yield from _values(run)
        yield from _names(run)
        yield from _config(run)
        yield from _state(run)
        yield from _numbers(run)


def _read(path: Path, live: bool) -> Read:
    header = read_json(path / "run.json")
    summary = None
    file = path / "summary.json"
    if os.path.lexists(file):
        summary = read_json(file)
    return Read(path, header, summary, live)


def leftovers(path: Path) -> Iterator[Fault]:
    """Temporary files of atomic writes that were killed."""
    for file in sorted(path.glob(".*.tmp")):
        yield Fault(file, "leftover", "a write that was killed left it", "delete the file")


def _version(run: Read, name: str, value: Json) -> Fault | None:
    found = value.get("schema_version")
    if found == SCHEMA_VERSION:
        return None
    what = f"{name} has schema_version {found!r}, this version reads {SCHEMA_VERSION}"
    return Fault(run.path, "schema", what, READ_OLDER)


def _header(run: Read) -> Iterator[Fault]:
    if fault := _version(run, "run.json", run.header):
        yield fault
        return
    missing = [key for key in _HEADER if key not in run.header]
    for key in ("config", "provenance"):
        value = run.header.get(key, {})
        if not isinstance(value, dict):
            what = f"{key} in run.json must be an object, got {type(value).__name__}"
            yield Fault(run.path, "schema", what, RESTORE)
            return
    provenance = run.header.get("provenance", {})
    missing += [f"provenance.{key}" for key in _PROVENANCE if key not in provenance]
    if missing:
        what = f"run.json lacks {', '.join(missing)}"
        yield Fault(run.path, "schema", what, RESTORE)


def _summary(run: Read) -> Iterator[Fault]:
    if run.summary is None:
        return
    if fault := _version(run, "summary.json", run.summary):
        yield fault
        return
    missing = numbers.missing(run.summary)
    if missing:
        what = f"summary.json lacks {', '.join(missing)}"
        yield Fault(run.path, "schema", what, RESTORE)


def _values(run: Read) -> Iterator[Fault]:
    """Types and ranges, by the model that every reader uses, and values that none computes with."""
    for what in schema.faults(schema.Header, run.header, strict=True):
        yield Fault(run.path, "value", f"run.json: {what}", RESTORE)
    if run.summary is None:
        return
    for what in schema.faults(schema.Summary, run.summary, strict=True):
        yield Fault(run.path, "value", f"summary.json: {what}", RESTORE)


def _names(run: Read) -> Iterator[Fault]:
    """The folder, the header and the summary must all name one run."""
    sweep = run.path.parent.name
    if run.header["sweep"] != sweep:
        what = f"run.json says sweep {run.header['sweep']!r}, the folder {sweep!r}"
        yield Fault(run.path, "name", what, "move the folder back")
    named = {"run.json": run.header, "summary.json": run.summary or run.header}
    for name, value in named.items():
        if value["run_id"] != run.path.name:
            what = f"{name} says run_id {value['run_id']!r}, the folder {run.path.name!r}"
            yield Fault(run.path, "name", what, RESTORE)


def _config(run: Read) -> Iterator[Fault]:
    """The config and the recorded command must both mean the run that the folder names."""
    try:
        config = make(run.header["config"])
    except ValueError as error:
        what = f"this version refuses its config: {error}"
        yield Fault(run.path, "config", what, RESTORE)
        return
    if config.run_id != run.path.name:
        what = (
            f"its config has the id {config.run_id}: "
            "the config, or a default of RunConfig, was changed"
        )
        yield Fault(run.path, "hash", what, RESTORE)
    try:
        commanded = numbers.config_of(run.header["provenance"]["command"])
    except ValueError as error:
        what = f"the recorded command makes no config: {error}"
        yield Fault(run.path, "command", what, RESTORE)
        return
    if commanded != config:
        what = f"the recorded command makes run {commanded.run_id}, its config {config.run_id}"
        yield Fault(run.path, "command", what, RESTORE)


def _state(run: Read) -> Iterator[Fault]:
    status = run.header["status"]
    if status not in STATUSES:
        what = f"{status!r} is none of {', '.join(STATUSES)}"
        yield Fault(run.path, "status", what, RESTORE)
    elif status == "finished":
        if run.summary is None:
            what = "it says finished, and there is no summary.json"
            yield Fault(run.path, "status", what, RESTORE)
    elif run.summary is not None and not run.live:
        what = (
            f"run.json says {status!r} beside a summary.json: "
            "its process died between the two files"
        )
        todo = "nothing is lost: every reader takes it as finished"
        yield Fault(run.path, "status", what, todo)
    elif status == "running" and run.summary is None and not run.live:
        todo = "run it again: the same command goes on from its last epoch"
        yield Fault(run.path, "dead", "it says running, and no process holds it", todo)
    elif status in _WITH_ERROR and not run.header["error"]:
        yield Fault(run.path, "status", f"{status} without an error", "run it again")


def _numbers(run: Read) -> Iterator[Fault]:
    status = run.header["status"]
    is_done = run.summary is not None or status == "finished"
    config = run.header["config"]
    for kind, what in numbers.faults(run.path, config, status, run.summary, run.live):
        todo = "the same command starts it again"
        if is_done:
            todo = RESTORE
        elif kind in _LASTING:
            todo = AGAIN
        yield Fault(run.path, kind, what, todo)
