"""Who holds a run: its owner.lock is under flock by the process that trains it, for as long as that lives."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from tbn_bench.records.store import open_lock


def held(path: Path) -> bool:
    """Whether a live process holds the run in folder `path`; True where it cannot be told.

    Looks by taking a shared lock for an instant, so call it only for runs that should be held.
    """
    try:
        with open_lock(path, "r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


@contextlib.contextmanager
def taken(path: Path) -> Iterator[bool]:
    """Holds the run in folder `path` for the block, as its trainer would; False where another process has it, or it cannot be locked."""
    try:
        file = open_lock(path, "a")
    except OSError:
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            got = True
        except OSError:
            got = False
        yield got
