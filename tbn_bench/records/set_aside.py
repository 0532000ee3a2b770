"""Moves a run out of the way, so that it can be trained again. Nothing is deleted."""

import itertools
from pathlib import Path

from tbn_bench.records.files import RecordError
from tbn_bench.records.locks import take
from tbn_bench.records.run import OWNER, RunBusy

FOLDER = "set_aside"


def set_aside(root: Path, path: Path) -> Path:
    """Moves the folder of a run to <root>/set_aside/<sweep>/<run id>.<n>, and returns that.

    Raises RunBusy where a live process may hold the run, RecordError where it cannot be moved.
    """
    try:
        lock = take(path / OWNER)
    except OSError as error:
        raise RunBusy(f"cannot lock {path}, so a process may hold it: {error}") from error
    if lock is None:
        raise RunBusy(f"run {path.parent.name}/{path.name} is being run by another process")
    with lock:
        return _move(path, root / FOLDER / path.parent.name)


def _move(path: Path, folder: Path) -> Path:
    names = (folder / f"{path.name}.{n}" for n in itertools.count(1))
    new = next(name for name in names if not name.exists())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(new)
    except OSError as error:
        raise RecordError(f"cannot move {path} to {new}: {error.strerror}") from error
    return new
