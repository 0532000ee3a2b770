"""Locks on files, held by the operating system: a lock ends with its process, however that ends.

The locked file stays where it is. filelock calls `flock` on Unix and LockFileEx on Windows. Older
versions of this package called `flock` themselves; both respect each other's locks.

filelock has no shared locks. `is_held`, which only looks, therefore holds the lock for an instant,
and `take` waits for a moment before it gives up.
"""

import contextlib
import errno
import os
import random
import time
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from filelock import lock_descriptor, unlock_descriptor

MOMENT_S = 2.0  # longer than anyone who only looks holds a lock, also on a busy machine
_PAUSE_S = 0.01  # between two attempts to take a lock
_LOOKS = 3  # others who look at the same instant hold the lock too, but not three times
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


class LockError(OSError):
    """The file system gives no lock, with the folder and what to do."""


class Lock:
    """A lock that this process holds, until it releases it or ends, or for a `with` block."""

    def __init__(self, file: IO[bytes]):
        self._file = file

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        """Gives the lock back, also where a forked child has the file open. Again: does nothing."""
        if self._file.closed:
            return
        with self._file, contextlib.suppress(OSError):  # closing unlocks too, once no child is left
            unlock_descriptor(self._file.fileno())


def take(path: Path, wait_s: float = MOMENT_S) -> Lock | None:
    """Locks the file `path`, which is made where it is missing.

    None where another process holds the lock for longer than `wait_s`, or has moved the folder.
    Raises LockError where the file system gives no locks, OSError where the file cannot be opened.
    """
    limit = time.monotonic() + wait_s
    while True:
        try:
            lock = _attempt(path)
        except FileNotFoundError:
            return None
        if lock is not None or time.monotonic() >= limit:
            return lock
        time.sleep(_PAUSE_S)


def is_held(path: Path) -> bool:
    """Whether a live process holds the lock on the file `path`. Raises what `take` raises.

    Holds a free lock for an instant. A missing file is not held.
    """
    for _ in range(_LOOKS):
        try:
            file = _opened(path)
        except FileNotFoundError:
            return False
        with file:
            if _locks(file, path):
                return False
        time.sleep(random.uniform(0.001, 0.004))  # two who look in step would always meet
    return True


def check(folder: Path) -> None:
    """Raises LockError where `folder` has no locks, OSError where it cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder) as file:
        _locks(file, folder / "a file")


def _attempt(path: Path) -> Lock | None:
    """The lock, if nobody holds it now. The file is opened anew: it may have moved since."""
    file = open(path, "ab", opener=_never_wait)  # noqa: SIM115
    try:
        if _locks(file, path) and _is_still(file, path):
            return Lock(file)
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def _is_still(file: IO[bytes], path: Path) -> bool:
    """Whether `path` still names the open file: its folder may have been moved meanwhile."""
    return os.path.samestat(os.fstat(file.fileno()), path.stat())


def _opened(path: Path) -> IO[bytes]:
    """Opens a file for looking.

    Over NFS a lock needs a file open for writing; files of other users may allow reading alone.
    """
    try:
        return open(path, "r+b", opener=_never_wait)
    except FileNotFoundError:
        raise
    except OSError:
        return open(path, "rb", opener=_never_wait)


def _never_wait(path: str, flags: int) -> int:
    """Opens at once: a pipe in place of the file may have no other end to wait for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


def _locks(file: IO[bytes], path: Path) -> bool:
    """Locks an open file, if nobody holds it. Raises LockError, saying what to do."""
    try:
        return lock_descriptor(file.fileno(), blocking=False)
    except (OSError, NotImplementedError) as error:
        raise LockError(_refusal(error, path)) from error


def _refusal(error: OSError | NotImplementedError, path: Path) -> str:
    number = error.errno if isinstance(error, OSError) else errno.ENOSYS
    reason = os.strerror(number) if number is not None else str(error)
    where = f"cannot lock {path.name} in {path.parent} ({reason})"
    if number in _UNSUPPORTED:
        return f"{where}: its file system gives no locks; use a local folder with --results"
    return f"{where}; try again, or use a local folder with --results"
