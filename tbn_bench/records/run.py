"""One run directory: Run writes it while the run goes on, RunRecord is a run as it is read back."""

import contextlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from tbn_bench.records import locks, notebook, repeated
from tbn_bench.records.files import (
    SCHEMA_VERSION,
    RecordError,
    read_rows,
    replace,
    to_json,
    write_atomic,
)
from tbn_bench.records.locks import Lock, LockError
from tbn_bench.scores import shown

FSYNC_ROWS = 10
OWNER = "owner.lock"  # in a run's folder: locked by the process that runs it
NETWORK = "network.safetensors"  # the packed network of a finished run, in its folder


class RunBusy(RecordError):
    """Another live process holds this run."""


def take_run(path: Path) -> Lock | None:
    """The lock of the run in folder `path`; None while another process has it.

    Makes the folder where it is missing. Raises RecordError where that is impossible.
    """
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
    """An open run directory. It is locked until the run ends, is released, or its process ends."""

    def __init__(self, path: Path, lock: Lock, header: dict[str, Any]):
        self.path = path
        self.header = header
        self._lock = lock
        self._rows: TextIO | None = None
        self._pending = 0

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.path / "metrics.jsonl")

    def log(self, row: dict[str, Any], durable: bool = False) -> None:
        """Appends one row by a single write.

        It is on disk at the latest ten rows later; if durable, when this returns.
        """
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
            path = self.path / "metrics.jsonl"
            raise RecordError(
                f"cannot append to {path}: {error.strerror}; earlier rows are intact"
            ) from error

    def rewind(self, epoch: int) -> None:
        """Drops a torn last line, and the rows of `epoch` and later: a resume trains them again."""
        if self._rows is not None:
            self._rows.close()
            self._rows = None
        path = self.path / "metrics.jsonl"
        kept = []
        if epoch:
            kept = [row for row in read_rows(path) if row.get("epoch", -1) < epoch]
        replace(path, "".join(f"{to_json(row)}\n" for row in kept).encode())

    def finish(self, summary: dict[str, Any]) -> None:
        """Ends a run with its result. The summary goes first: its presence means "finished"."""
        write_atomic(self.path / "summary.json", {"schema_version": SCHEMA_VERSION, **summary})
        self._close("finished", None)

    def fail(self, status: str, error: str) -> None:
        """Ends a run without a result. status: failed, diverged or interrupted; error: why."""
        self._close(status, error)

    def release(self) -> None:
        """Gives up the run and leaves its record as it is: another process may have finished it."""
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

    def __str__(self) -> str:
        """One line, and the config below it."""
        lines = [f"{self.sweep}/{self.run_id}: {self.status}"]
        facts = self._facts()
        for name, value in facts.items():
            line = f"  {name:<10}  {value}"
            lines.append(line)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = (f"{self.sweep}/{self.run_id}", self.status)
        facts = self._facts()
        return notebook.table(head, facts.items())

    def _facts(self) -> dict[str, Any]:
        """What names the run, and its score."""
        names = ("data", "model", "binarizer", "seed", "epochs")
        found = {name: self.config.get(name, "") for name in names}
        if self.error:
            found["error"] = self.error
        if self.summary is not None:
            found["test"] = shown(self.summary)
            found["bits"] = f"{self.summary['bits_per_weight']:.3f} per weight"
        return found

    @property
    def plugins(self) -> list[str]:
        """Names of the files of its user that the run needs."""
        return [plugin["name"] for plugin in self.provenance.get("plugins") or []]

    @property
    def fingerprint(self) -> dict[str, str] | None:
        """Part -> hash of the code that gives the run's numbers; None if none is recorded."""
        found: dict[str, str] | None = repeated.fingerprint(
            self.path, self.provenance.get("fingerprint")
        )
        return found

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.path / "metrics.jsonl")
