"""Who holds a run: the process that trains it locks its owner.lock for as long as it lives."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tbn_bench.records import locks
from tbn_bench.records.run import OWNER, RunRecord


def held(path: Path) -> bool:
    """Whether a live process holds the run in folder `path`; True where it cannot be told."""
    try:
        return locks.is_held(path / OWNER)
    except OSError:
        return True


def live_status(record: RunRecord) -> str:
    """The record's status; "dead" for a run that says "running" and is held by no process."""
    if record.status == "running" and not held(record.path):
        return "dead"
    return record.status


@contextlib.contextmanager
def taken(path: Path) -> Iterator[bool]:
    """Holds the run in folder `path` for the block, as its trainer would.

    False where another process has it, or it cannot be locked.
    """
    try:
        lock = locks.take(path / OWNER)
    except OSError:
        lock = None
    with lock or contextlib.nullcontext():
        yield lock is not None
