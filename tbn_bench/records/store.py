"""The run directory is the record, and this file is its only writer and reader.

    <root>/runs/<sweep>/<run_id>/run.json       config, status, error, provenance         atomic
                                 metrics.jsonl  one row per line, append-only             fsync every 10 rows and at epoch ends
                                 summary.json   final numbers; its presence = finished    atomic
                                 network.safetensors    the packed network (packed_file.py)  atomic
                                 owner.lock     locked by the process that runs it; checkpoints/, wandb/ (not committed)
    <root>/latency/<device>/<case>.json                                                   atomic
    <root>/mcu/<device>/<case>.json      one network on a simulated microcontroller       atomic

NaN and infinity are written as the strings "NaN", "Infinity", "-Infinity" (JSON has none).
"""

import contextlib
import json
import math
import os
import platform
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO, TypeVar

from pydantic import BaseModel

from tbn_bench.records import locks, schema
from tbn_bench.records.locks import Lock, LockError

SCHEMA_VERSION = schema.VERSION
FSYNC_ROWS = 10
OWNER = "owner.lock"  # in a run's folder: locked by the process that runs it
NETWORK = "network.safetensors"  # the packed network of a finished run, in its folder
STATUSES = schema.STATUSES
_PACKAGES = ("tbn-bench", "torch", "pytorch-lightning", "torchvision", "timm", "numpy")


class RecordError(ValueError):
    """A record that cannot be read or written, with the path and what to do."""


class RunBusy(RecordError):
    """Another live process holds this run."""


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(_plain(value), indent=indent, sort_keys=False, allow_nan=False)


def write_atomic(path: Path, value: Any) -> None:
    """JSON to path by temporary file, fsync and rename: a reader sees the old file or the new one, whole."""
    replace(path, (to_json(value, indent=1) + "\n").encode())


def replace(path: Path, content: bytes) -> None:
    """As write_atomic, for any content. Raises RecordError where it does not fit; the old file is intact."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
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


def shown(path: Path) -> str:
    """A path as text that can be printed and written, whatever bytes its names have."""
    return str(path).encode(errors="backslashreplace").decode()


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
    """Names of the folders in a folder, as _names. A loop of links counts as one: whoever opens it says so."""
    return _names(folder, _is_folder, problems)


def _names(
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
        _note(RecordError(f"cannot open {shown(folder)}: {error.strerror}; remove it"), problems)
        return []
    for name in names:
        if not _is_text(name):
            what = f"{shown(folder / name)}: its name is not UTF-8; rename it"
            _note(RecordError(what), problems)
    return list(filter(_is_text, names))


def _note(error: RecordError, problems: list[str] | None) -> None:
    if problems is None:
        raise error
    problems.append(str(error))


def _is_json(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(".json")


def _is_text(name: str) -> bool:
    """Whether a name from the file system can be printed and written."""
    return shown(Path(name)) == name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return True


def printable(text: str) -> str:
    """Text as it can be shown: what a terminal would obey, or what has no glyph, as its escape (\\x1b).

    Line ends and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def tell(text: object, file: TextIO | None = None, end: str = "\n") -> None:
    """print for what may come from a record: at once, and without what a terminal would obey."""
    print(printable(str(text)), file=file or sys.stdout, end=end, flush=True)


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


def _entry(folder: Path, name: str) -> Path:
    """The entry `name` of a folder. Raises RecordError where folder/name lies elsewhere."""
    path = folder / name
    if name == ".." or path.parent != folder:
        raise RecordError(
            f"{_shortened(name)} names no folder in {folder}; give a name, not a path"
        )
    return path


def _git(*args: str) -> str | None:
    try:
        here = Path(__file__).parent
        return subprocess.run(
            ["git", *args], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def provenance(
    command: str, device: str | None = None, threads: int | None = None
) -> dict[str, Any]:
    """Where a number comes from: commit, versions, hardware, command, time, and whether files other than records and reports differ
    from the commit. Unknown is None."""
    dirty = _git(
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ":/",
        ":(top,exclude)results",
        ":(top,exclude)reports",
    )
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if dirty is None else bool(dirty),
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in _PACKAGES}},
        "hardware": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "device": device,
            "threads": threads,
        },
        "command": command,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _take(path: Path) -> Lock | None:
    """The lock of the run in folder `path`, made where it is missing; None while another process has it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        return locks.take(path / OWNER)
    except LockError as error:
        raise RecordError(str(error)) from error
    except OSError as error:
        raise RecordError(
            f"cannot write to {path}: {error.strerror}; choose another folder with --results"
        ) from error


class Run:
    """An open run directory, held under a lock for as long as this object (or its process) lives."""

    def __init__(self, path: Path, lock: Lock, header: dict[str, Any]):
        self.path, self.header = path, header
        self._lock = lock
        self._rows: TextIO | None = None
        self._pending = 0

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.path / "metrics.jsonl")

    def log(self, row: dict[str, Any], durable: bool = False) -> None:
        """Appends one row by a single write; on disk at the latest ten rows later, at once if durable."""
        try:
            if self._rows is None:
                self._rows = (self.path / "metrics.jsonl").open("a", encoding="utf-8")
            self._rows.write(to_json(row) + "\n")
            self._rows.flush()
            self._pending += 1
            if durable or self._pending >= FSYNC_ROWS:
                os.fsync(self._rows.fileno())
                self._pending = 0
        except OSError as error:
            raise RecordError(
                f"cannot append to {self.path / 'metrics.jsonl'}: {error.strerror}; earlier rows are intact"
            ) from error

    def rewind(self, epoch: int) -> None:
        """Drops rows of `epoch` and later (they are trained again after a resume), and a torn last line."""
        if self._rows is not None:
            self._rows.close()
            self._rows = None
        path = self.path / "metrics.jsonl"
        kept = [row for row in read_rows(path) if row.get("epoch", -1) < epoch] if epoch else []
        replace(path, "".join(to_json(row) + "\n" for row in kept).encode())

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is done: summary first, since its presence is what "finished" means."""
        write_atomic(self.path / "summary.json", {"schema_version": SCHEMA_VERSION, **summary})
        self._close("finished", None)

    def fail(self, status: str, error: str) -> None:
        """The run ended without a result: status failed, diverged or interrupted, and why."""
        self._close(status, error)

    def release(self) -> None:
        """Gives the run up without a word in its record, e.g. because another process finished it."""
        with contextlib.suppress(OSError):  # rows that did not fit have been reported by log
            if self._rows is not None:
                self._rows.close()
        self._lock.release()

    def _close(self, status: str, error: str | None) -> None:
        self.header |= {
            "status": status,
            "error": error,
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            write_atomic(self.path / "run.json", self.header)
            if self._rows is not None:
                os.fsync(self._rows.fileno())
        finally:
            self.release()


@dataclass
class RunRecord:
    """A run as read back. summary is None unless it finished."""

    sweep: str
    run_id: str
    path: Path
    config: dict[str, Any]
    status: str
    error: str | None
    provenance: dict[str, Any]
    summary: dict[str, Any] | None = None

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.path / "metrics.jsonl")


@dataclass
class LatencyRecord:
    """One timed case: `rows` holds every implementation, with its peers, that was timed in the same process."""

    case: str
    device: str
    rows: list[dict[str, Any]]
    case_info: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass
class McuRecord:
    """One exported network on one core, by one compiler and simulator. info: bytes, instructions or cycles, accuracy by the C code."""

    case: str
    device: str
    info: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)


_Measured = TypeVar("_Measured", LatencyRecord, McuRecord)


class RunStore:
    """All records under one folder. Raises RecordError where the folder cannot be made or written."""

    def __init__(self, root: Path | str = "results"):
        self.root = Path(root)

    def path(self, sweep: str, run_id: str) -> Path:
        """The folder of a run, made or not. Raises RecordError where it would not lie in this store."""
        return _entry(_entry(self.root / "runs", sweep), run_id)

    def finished(self, sweep: str, run_id: str) -> bool:
        return (self.path(sweep, run_id) / "summary.json").exists()

    def is_held(self, sweep: str, run_id: str) -> bool:
        """Whether a live process holds the run. Raises OSError where that cannot be told."""
        return locks.is_held(self.path(sweep, run_id) / OWNER)

    def check_locks(self) -> None:
        """Raises RecordError where runs cannot be held: the folder cannot be written, or has no locks."""
        folder = self.root / "runs"
        try:
            locks.check(folder)
        except LockError as error:
            raise RecordError(str(error)) from error
        except OSError as error:
            raise RecordError(
                f"cannot write to {folder}: {error.strerror}; choose another folder with --results"
            ) from error

    def refuse_other_case(self, sweep: str) -> None:
        """Raises RecordError where another sweep has this name in other letter case: some systems make them one folder."""
        folders = [path.name for path in self.root.glob("runs/*")]
        same = [name for name in folders if name.casefold() == sweep.casefold()]
        if same and sweep not in same:
            raise RecordError(
                f"sweep {sweep!r} and the recorded {same[0]!r} differ in upper and lower case alone, which macOS and Windows "
                "take for one folder; use that name, or a different one"
            )

    def claim(
        self, sweep: str, run_id: str, config: dict[str, Any], provenance: dict[str, Any]
    ) -> Run | None:
        """Takes the run for this process; None if it is finished.

        Waits for who only looks at it, raises RunBusy while another live process holds it, and
        RecordError where the folder cannot be written or locked.
        """
        path = self.path(checked_name(sweep), checked_name(run_id))
        self.refuse_other_case(sweep)
        lock = _take(path)
        if lock is None:
            raise RunBusy(f"run {run_id} of sweep {sweep!r} is being run by another process")
        if self.finished(sweep, run_id):
            lock.release()
            return None
        header = {
            "schema_version": SCHEMA_VERSION, "run_id": run_id, "sweep": sweep, "status": "running", "error": None,
            "config": config, "provenance": provenance,
        }  # fmt: skip
        try:
            write_atomic(path / "run.json", header)
        except RecordError:
            lock.release()
            raise
        return Run(path, lock, header)

    def mark(
        self,
        sweep: str,
        run_id: str,
        status: str,
        error: str,
        config: dict[str, Any],
        trial: int | None,
    ) -> None:
        """States why a run that nobody holds has no result, e.g. that its launcher stopped it. A finished or held one is left alone.

        config, trial: of a run that did not get so far as to begin its record.
        """
        path = self.path(sweep, run_id)
        try:
            if not (path / "run.json").exists():
                if (run := self.claim(sweep, run_id, config, {"trial": trial})) is not None:
                    run.fail(status, error)
                return
            header = read_json(path / "run.json")
            lock = _take(path)
            if lock is None:
                return
            with lock:
                if not self.finished(sweep, run_id):
                    write_atomic(path / "run.json", header | {"status": status, "error": error})
        except (OSError, RecordError, RunBusy):
            return  # held by another process, or not to be written

    def read(self, sweep: str, run_id: str) -> RunRecord:
        """One run. Raises RecordError with the path and what is wrong."""
        path = self.path(sweep, run_id)
        header = read_record(path / "run.json", schema.Header)
        finished = os.path.lexists(path / "summary.json")
        if not finished and header["status"] == "finished":
            what = "it says finished, and there is no summary.json"
            raise RecordError(f"{shown(path / 'run.json')}: {what}; run it again")
        summary = read_record(path / "summary.json", schema.Summary) if finished else None
        status = "finished" if finished else header["status"]
        return RunRecord(
            sweep,
            run_id,
            path,
            header["config"],
            status,
            header["error"],
            header["provenance"],
            summary,
        )

    def runs(self, problems: list[str] | None = None) -> Iterator[RunRecord]:
        """Every readable run, sorted by path; what cannot be read is appended to `problems`, or raised without it."""
        for sweep, run_id in self.folders(problems):
            try:
                yield self.read(sweep, run_id)
            except RecordError as error:
                _note(error, problems)

    def folders(self, problems: list[str] | None = None) -> Iterator[tuple[str, str]]:
        """(sweep, run id) of every run's folder, in order; problems as in runs()."""
        top = self.root / "runs"
        for sweep in subfolders(top, problems):
            for run_id in subfolders(top / sweep, problems):
                yield sweep, run_id

    def runs_of(self, sweep: str) -> Iterator[RunRecord]:
        """Every readable run of one sweep, sorted by id; an unreadable one is as good as none: it is run again."""
        for run_id in subfolders(self.root / "runs" / sweep, []):
            with contextlib.suppress(RecordError):
                yield self.read(sweep, run_id)

    def find(self, name: str) -> RunRecord:
        """The run whose id begins with `name`, or of one sweep by SWEEP/NAME. Raises RecordError, naming them, unless there is one."""
        sweep, slash, run_id = name.rpartition("/")
        every = [self.path(*names) for names in self.folders([])]
        hits = [path for path in every if path.name.startswith(run_id)]
        if slash:
            hits = [path for path in hits if path.parent.name == sweep]
        if len(hits) != 1:
            listed = ", ".join(f"{path.parent.name}/{path.name}" for path in hits[:4])
            more = ", ..." if len(hits) > 4 else ""
            which = f" ({listed}{more})" if hits else ""
            raise RecordError(
                f"{len(hits)} runs match {name!r} under {self.root}{which}; see: tbn-bench runs --results {self.root}"
            )
        return self.read(hits[0].parent.name, hits[0].name)

    def write_latency(self, record: LatencyRecord) -> Path:
        return self._write("latency", record)

    def latencies(
        self, problems: list[str] | None = None, strict: bool = False
    ) -> Iterator[LatencyRecord]:
        return self._measured("latency", LatencyRecord, problems, strict)

    def write_mcu(self, record: McuRecord) -> Path:
        return self._write("mcu", record)

    def mcus(self, problems: list[str] | None = None, strict: bool = False) -> Iterator[McuRecord]:
        return self._measured("mcu", McuRecord, problems, strict)

    def _write(self, kind: str, record: LatencyRecord | McuRecord) -> Path:
        folder = self.root / kind / checked_name(record.device)
        path = folder / f"{checked_name(record.case)}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordError(
                f"cannot write to {folder}: {error.strerror}; choose another folder with --results"
            ) from error
        write_atomic(path, {"schema_version": SCHEMA_VERSION, **asdict(record)})
        return path

    def _measured(
        self, kind: str, record: Callable[..., _Measured], problems: list[str] | None, strict: bool
    ) -> Iterator[_Measured]:
        """Every readable record of a kind, sorted by path; what cannot be read is appended to `problems`, or raised without it."""
        model = schema.Latency if kind == "latency" else schema.Mcu
        folder = self.root / kind
        for device in subfolders(folder, problems):
            for name in _names(folder / device, _is_json, problems):
                try:
                    value = read_record(folder / device / name, model, strict)
                except RecordError as error:
                    _note(error, problems)
                    continue
                value.pop("schema_version")
                yield record(**value)


def emit(value: dict[str, Any]) -> None:
    """The command's last line: one JSON object when stdout is not a terminal."""
    if not sys.stdout.isatty():
        print(to_json(value), flush=True)
