"""Who holds a run: its owner.lock is locked by the process that trains it, for as long as that lives."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tbn_bench.records import locks
from tbn_bench.records.store import OWNER


def held(path: Path) -> bool:
    """Whether a live process holds the run in folder `path`; True where it cannot be told."""
    try:
        return locks.is_held(path / OWNER)
    except OSError:
        return True


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
