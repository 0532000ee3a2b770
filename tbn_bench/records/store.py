"""All records under one folder: runs, timings and simulated microcontrollers.

    <root>/runs/<sweep>/<run_id>/
        run.json             config, status, error, provenance
        metrics.jsonl        one row per line, appended; fsync every 10 rows and at epoch ends
        summary.json         final numbers; its presence means "finished"
        network.safetensors  the packed network (format/packed_file.py)
        owner.lock           locked by the process that runs it
        checkpoints/, wandb/ (not committed)
    <root>/latency/<device>/<case>.json    one timed case
    <root>/latency/<device>/versions/<case>.json    a suite timed by two versions
    <root>/mcu/<device>/<case>.json        one network on a simulated microcontroller

All JSON files and the packed network appear whole or not at all.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from tbn_bench.records import locks, schema
from tbn_bench.records.files import (
    SCHEMA_VERSION,
    RecordError,
    is_json,
    names_in,
    note,
    read_json,
    read_record,
    subfolders,
    write_atomic,
)
from tbn_bench.records.locks import LockError
from tbn_bench.records.names import checked_name, entry
from tbn_bench.records.run import OWNER, Run, RunBusy, RunRecord, take_run
from tbn_bench.records.text import shown


@dataclass
class LatencyRecord:
    """One timed case. rows: all implementations and peers that were timed in the same process."""

    case: str
    device: str
    rows: list[dict[str, Any]]
    case_info: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass
class McuRecord:
    """One exported network on one core, by one compiler and simulator.

    info: bytes, instructions or cycles, and the accuracy of the C code.
    """

    case: str
    device: str
    info: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass
class VersionsRecord:
    """A suite, timed by the packed executors of two versions of this repository."""

    case: str
    device: str
    rows: list[dict[str, Any]]
    case_info: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)


_Record = LatencyRecord | McuRecord | VersionsRecord
_Measured = TypeVar("_Measured", LatencyRecord, McuRecord, VersionsRecord)
_MODELS: dict[type[_Record], type[BaseModel]] = {
    LatencyRecord: schema.Latency,
    McuRecord: schema.Mcu,
    VersionsRecord: schema.Versions,
}


class RunStore:
    """All records under one folder.

    Raises RecordError where the folder cannot be made or written.
    """

    def __init__(self, root: Path | str = "results"):
        self.root = Path(root)

    def path(self, sweep: str, run_id: str) -> Path:
        """The folder of a run, made or not. Raises RecordError for a path outside this store."""
        return entry(entry(self.root / "runs", sweep), run_id)

    def finished(self, sweep: str, run_id: str) -> bool:
        return (self.path(sweep, run_id) / "summary.json").exists()

    def is_held(self, sweep: str, run_id: str) -> bool:
        """Whether a live process holds the run. Raises OSError where the lock cannot be opened."""
        return locks.is_held(self.path(sweep, run_id) / OWNER)

    def check_locks(self) -> None:
        """Raises RecordError where the folder cannot be written, or its files cannot be locked."""
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
        """Raises RecordError where another sweep's name differs in letter case alone.

        macOS and Windows would put both in one folder.
        """
        folders = [path.name for path in self.root.glob("runs/*")]
        same = [name for name in folders if name.casefold() == sweep.casefold()]
        if same and sweep not in same:
            raise RecordError(
                f"sweep {sweep!r} and the recorded {same[0]!r} differ in upper and lower case "
                "alone, which macOS and Windows take for one folder; "
                "use that name, or a different one"
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
        lock = take_run(path)
        if lock is None:
            raise RunBusy(f"run {run_id} of sweep {sweep!r} is being run by another process")
        if self.finished(sweep, run_id):
            lock.release()
            return None
        header = {
            "schema_version": SCHEMA_VERSION,
            "run_id": run_id,
            "sweep": sweep,
            "status": "running",
            "error": None,
            "config": config,
            "provenance": provenance,
        }
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
        """States why a run has no result, e.g. that its launcher stopped it.

        A run that is finished, or that a process holds, stays as it is. config, trial: for a run
        that has no record yet.
        """
        path = self.path(sweep, run_id)
        try:
            if not (path / "run.json").exists():
                run = self.claim(sweep, run_id, config, {"trial": trial})
                if run is not None:
                    run.fail(status, error)
                return
            header = read_json(path / "run.json")
            lock = take_run(path)
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
        """Every readable run, sorted by path.

        Errors of the others are appended to `problems`, or raised where there is no list.
        """
        for sweep, run_id in self.folders(problems):
            try:
                yield self.read(sweep, run_id)
            except RecordError as error:
                note(error, problems)

    def folders(self, problems: list[str] | None = None) -> Iterator[tuple[str, str]]:
        """(sweep, run id) of every run's folder, in order; problems as in runs()."""
        top = self.root / "runs"
        for sweep in subfolders(top, problems):
            for run_id in subfolders(top / sweep, problems):
                yield sweep, run_id

    def runs_of(self, sweep: str) -> Iterator[RunRecord]:
        """Every readable run of one sweep, sorted by id. An unreadable one will be run again."""
        for run_id in subfolders(self.root / "runs" / sweep, []):
            with contextlib.suppress(RecordError):
                yield self.read(sweep, run_id)

    def find(self, name: str) -> RunRecord:
        """The run whose id begins with `name`, or of one sweep by SWEEP/NAME.

        Raises RecordError where none or several match, and names them.
        """
        path = self.folder_of(name)
        return self.read(path.parent.name, path.name)

    def folder_of(self, name: str) -> Path:
        """The folder of that run, readable or not. Raises RecordError as `find` does."""
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
                f"{len(hits)} runs match {name!r} under {self.root}{which}; "
                f"see: tbn-bench runs --results {self.root}"
            )
        return hits[0]

    def write_latency(self, record: LatencyRecord) -> Path:
        return self._write("latency", "", record)

    def latencies(
        self, problems: list[str] | None = None, strict: bool = False
    ) -> Iterator[LatencyRecord]:
        return self._measured("latency", "", LatencyRecord, problems, strict)

    def write_decoding(self, record: LatencyRecord) -> Path:
        return self._write("latency", "decoding", record)

    def write_versions(self, record: VersionsRecord) -> Path:
        return self._write("latency", "versions", record)

    def versions(
        self, problems: list[str] | None = None, strict: bool = False
    ) -> Iterator[VersionsRecord]:
        return self._measured("latency", "versions", VersionsRecord, problems, strict)

    def write_mcu(self, record: McuRecord) -> Path:
        return self._write("mcu", "", record)

    def mcus(self, problems: list[str] | None = None, strict: bool = False) -> Iterator[McuRecord]:
        return self._measured("mcu", "", McuRecord, problems, strict)

    def _write(self, kind: str, inside: str, record: _Record) -> Path:
        """inside: a folder of the device's folder, or ""."""
        folder = self.root / kind / checked_name(record.device) / inside
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
        self,
        kind: str,
        inside: str,
        record: type[_Measured],
        problems: list[str] | None,
        strict: bool,
    ) -> Iterator[_Measured]:
        """Every readable record of a kind, sorted by path; problems as in runs()."""
        top = self.root / kind
        for device in subfolders(top, problems):
            folder = top / device / inside
            for name in names_in(folder, is_json, problems):
                try:
                    value = read_record(folder / name, _MODELS[record], strict)
                except RecordError as error:
                    note(error, problems)
                    continue
                value.pop("schema_version")
                yield record(**value)
