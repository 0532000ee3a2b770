"""tbn-bench runs verify: every record against its schema, its config's hash, and its own numbers.

--scores, which runs the packed networks beside the records, is verify_scores.py: it needs torch.
"""

import itertools
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbn_bench.config import make
from tbn_bench.records import schema
from tbn_bench.records.store import NETWORK, SCHEMA_VERSION, RecordError, RunStore, read_json
from tbn_bench.runs import index, numbers, text
from tbn_bench.runs.index import STATUSES
from tbn_bench.runs.lock import held, taken

AGAIN = "--set-aside moves it away, so that its sweep runs it again"
RESTORE = f"restore it (git checkout), or {AGAIN}"
_HEADER = ("schema_version", "run_id", "sweep", "status", "error", "config", "provenance")
_PROVENANCE = ("commit", "dirty", "versions", "hardware", "command", "started")
_READABLE = (
    "name",
    "config",
    "hash",
    "command",
)  # whole records that say other than their folder, or that another version wrote
_OLD_S = 60  # an atomic write takes less


@dataclass(frozen=True)
class Fault:
    """kind: one word for counting. todo: what to do."""

    path: Path
    kind: str
    what: str
    todo: str

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}: {' '.join(self.what.split())}; {self.todo}"


def run(store: RunStore, moves: bool) -> dict[str, Any]:
    """One line per fault; `failed` in the last line, the number of paths at fault, makes the exit status 1.

    With --set-aside, runs whose records are damaged are moved to <results>/set_aside, so that their sweep makes them again; `failed` counts
    what is left.
    """
    hidden: list[str] = []
    folders = [store.path(*names) for names in store.folders(hidden)]
    if not folders and not hidden:
        raise ValueError(f"no runs under {store.root}; choose another folder with --results")
    found = [Fault(store.root / "runs", "unreadable", what, "see above") for what in hidden]
    found += [fault for path in folders for fault in faults(path)] + list(_others(store))
    kinds = dict(sorted(Counter(fault.kind for fault in found).items()))
    moved = set_aside(store, found) if moves else {}
    gone = [f"{path} is now {there}" for path, there in moved.items()]
    networks = sum((path / NETWORK).exists() for path in folders)
    more = f"; {networks} with {NETWORK}, whose scores --scores computes again" if networks else ""
    text.say([*map(str, found), *gone, f"{len(folders)} runs, {len(found)} faults{more}"])
    left = {fault.path for fault in found} - set(moved)
    return {
        "runs": len(folders),
        "faults": len(found),
        "failed": len(left),
        "kinds": kinds,
        "set_aside": len(moved),
        "networks": networks,
    }


def set_aside(store: RunStore, found: Iterable[Fault]) -> dict[Path, Path]:
    """Moves the folders of damaged runs that no process holds to <root>/set_aside/<sweep>/<run id>.<n>. Old path -> new path.

    Raises RecordError where the folder cannot be written.
    """
    moved = {}
    for path in dict.fromkeys(
        fault.path
        for fault in found
        if fault.todo in (AGAIN, RESTORE) and fault.kind not in _READABLE
    ):
        with taken(path) as mine:
            if mine:
                folder = store.root / "set_aside" / path.parent.name
                n = next(
                    n for n in itertools.count(1) if not (folder / f"{path.name}.{n}").exists()
                )
                moved[path] = folder / f"{path.name}.{n}"
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    path.rename(moved[path])
                except OSError as error:
                    raise RecordError(
                        f"cannot move {path} to {moved[path]}: {error.strerror}"
                    ) from error
    return moved


def faults(path: Path) -> list[Fault]:
    """Of the run in folder `path`. Looks again where the run has changed meanwhile."""
    for _ in range(3):
        stamp = index.stamp(str(path))
        found = list(_faults(path))
        if not found or index.stamp(str(path)) == stamp:
            break
    return found


def _faults(path: Path) -> Iterator[Fault]:
    live = held(path)
    if not live:
        yield from _leftovers(path)
    try:
        header = read_json(path / "run.json")
        summary = (
            read_json(path / "summary.json") if os.path.lexists(path / "summary.json") else None
        )
    except RecordError as error:
        if not live or (path / "run.json").exists():  # else claimed a moment ago
            yield Fault(
                path,
                "unreadable",
                str(error).replace("; delete the folder to run it again", ""),
                AGAIN,
            )
        return
    broken = [*_schema(path, header), *_schema_of_summary(path, summary)]
    yield from broken
    if not broken:
        yield from _values(path, header, summary)
        yield from _identity(path, header, summary)
        yield from _state(path, header, summary, live)
        done = summary is not None or header["status"] == "finished"
        for kind, what in numbers.faults(path, header["config"], header["status"], summary, live):
            lost = kind in (
                "row",
                "value",
                "gap",
                "repeats",
            )  # a torn end is trained again, these stay
            yield Fault(
                path,
                kind,
                what,
                RESTORE if done else AGAIN if lost else "the same command starts it again",
            )


def _schema(path: Path, header: dict[str, Any]) -> Iterator[Fault]:
    if header.get("schema_version") != SCHEMA_VERSION:
        what = f"run.json has schema_version {header.get('schema_version')!r}, this version reads {SCHEMA_VERSION}"
        yield Fault(path, "schema", what, "read it with the version that wrote it")
        return
    missing = [key for key in _HEADER if key not in header]
    for key in ("config", "provenance"):
        if key in header and not isinstance(header[key], dict):
            yield Fault(
                path,
                "schema",
                f"{key} in run.json must be an object, got {type(header[key]).__name__}",
                RESTORE,
            )
            return
    missing += [
        f"provenance.{key}" for key in _PROVENANCE if key not in header.get("provenance", {})
    ]
    if missing:
        yield Fault(path, "schema", f"run.json lacks {', '.join(missing)}", RESTORE)


def _schema_of_summary(path: Path, summary: dict[str, Any] | None) -> Iterator[Fault]:
    if summary is None:
        return
    if summary.get("schema_version") != SCHEMA_VERSION:
        what = f"summary.json has schema_version {summary.get('schema_version')!r}, this version reads {SCHEMA_VERSION}"
        yield Fault(path, "schema", what, "read it with the version that wrote it")
    elif missing := numbers.missing(summary):
        yield Fault(path, "schema", f"summary.json lacks {', '.join(missing)}", RESTORE)


def _values(path: Path, header: dict[str, Any], summary: dict[str, Any] | None) -> Iterator[Fault]:
    """Types and ranges, by the model that every reader uses, and what no reader computes with."""
    wrong = [f"run.json: {what}" for what in schema.faults(schema.Header, header, strict=True)]
    if summary is not None:
        found = schema.faults(schema.Summary, summary, strict=True)
        wrong += [f"summary.json: {what}" for what in found]
    yield from (Fault(path, "value", what, RESTORE) for what in wrong)


def _identity(
    path: Path, header: dict[str, Any], summary: dict[str, Any] | None
) -> Iterator[Fault]:
    """The folder, the header, the summary, the config and the recorded command must all mean one run."""
    if header["sweep"] != path.parent.name:
        yield Fault(
            path,
            "name",
            f"run.json says sweep {header['sweep']!r}, the folder {path.parent.name!r}",
            "move the folder back",
        )
    for name, said in (
        ("run.json", header["run_id"]),
        ("summary.json", (summary or header)["run_id"]),
    ):
        if said != path.name:
            yield Fault(
                path, "name", f"{name} says run_id {said!r}, the folder {path.name!r}", RESTORE
            )
    try:
        config = make(header["config"])
    except ValueError as error:
        yield Fault(path, "config", f"this version refuses its config: {error}", RESTORE)
        return
    if config.run_id != path.name:
        what = f"its config has the id {config.run_id}: the config, or a default of RunConfig, was changed"
        yield Fault(path, "hash", what, RESTORE)
    try:
        commanded = numbers.config_of(header["provenance"]["command"])
    except ValueError as error:
        yield Fault(path, "command", f"the recorded command makes no config: {error}", RESTORE)
        return
    if commanded != config:
        what = f"the recorded command makes run {commanded.run_id}, its config {config.run_id}"
        yield Fault(path, "command", what, RESTORE)


def _state(
    path: Path, header: dict[str, Any], summary: dict[str, Any] | None, live: bool
) -> Iterator[Fault]:
    status = header["status"]
    if status not in STATUSES:
        yield Fault(path, "status", f"{status!r} is none of {', '.join(STATUSES)}", RESTORE)
    elif status == "finished" and summary is None:
        yield Fault(path, "status", "it says finished, and there is no summary.json", RESTORE)
    elif status != "finished" and summary is not None and not live:
        what = f"run.json says {status!r} beside a summary.json: its process died between the two files"
        yield Fault(path, "status", what, "nothing is lost: every reader takes it as finished")
    elif status == "running" and summary is None and not live:
        yield Fault(
            path,
            "dead",
            "it says running, and no process holds it",
            "run it again: the same command goes on from its last epoch",
        )
    elif status in ("failed", "diverged", "interrupted", "stopped") and not header["error"]:
        yield Fault(path, "status", f"{status} without an error", "run it again")


def _leftovers(path: Path) -> Iterator[Fault]:
    """Temporary files of atomic writes that were killed."""
    for file in sorted(path.glob(".*.tmp")):
        yield Fault(file, "leftover", "a write that was killed left it", "delete the file")


def _others(store: RunStore) -> Iterator[Fault]:
    """What lies beside the runs: unreadable measurements, and leftovers."""
    todo = {
        "latency": "delete the file and time it again",
        "mcu": "delete the file and measure it again",
    }
    for kind, read in {"latency": store.latencies, "mcu": store.mcus}.items():
        problems: list[str] = []
        list(read(problems, strict=True))
        for problem in problems:
            yield Fault(store.root / kind, kind, problem, todo[kind])
    for folder in (store.root, *sorted(store.root.glob("latency/*/"))):
        for fault in _leftovers(folder):
            if _age_s(fault.path) > _OLD_S:
                yield fault


def _age_s(path: Path) -> float:
    """0 where it is gone meanwhile."""
    try:
        return time.time() - os.stat(path).st_mtime
    except OSError:
        return 0.0
