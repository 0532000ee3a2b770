"""tbn-bench runs prune: deletes checkpoints that are no longer needed.

It deletes none of a run that a live process holds.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tbn_bench.catalog import did_you_mean
from tbn_bench.records.files import RecordError
from tbn_bench.records.schema import STATUSES
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell
from tbn_bench.runs import index, text
from tbn_bench.runs.lock import held, taken


def wanted(text: str) -> list[str]:
    """'finished,failed' -> both; a dead run is one that says "running".

    Raises ValueError for a word that is no status.
    """
    known = (*STATUSES, "dead")
    statuses = []
    for word in text.split(","):
        status = word.strip()
        if not status:
            continue
        if status not in known:
            raise ValueError(f"unknown status {status!r}{did_you_mean(status, known)}")
        statuses.append("running" if status == "dead" else status)
    return statuses


def spare(path: Path, keep: str) -> list[Path]:
    """Checkpoints of the run in folder `path` beyond the kept one.

    None are spare where "best" is to be kept and is missing: the last may be all there is.
    """
    folder = path / "checkpoints"
    best = folder / "best.ckpt"
    kept: set[Path] = set()
    if keep == "best":
        if not best.is_file():
            return []
        kept = {best, best.resolve()}  # best may be a link to another
    files = [file for file in sorted(folder.glob("*.ckpt")) if file.is_file()]
    return [file for file in files if not kept & {file, file.resolve()}]


@dataclass
class Counts:
    """held: runs left alone because a process holds them."""

    runs: int = 0
    files: int = 0
    freed_bytes: int = 0
    held: int = 0


def run(store: RunStore, keep: str, status: str, dry_run: bool) -> dict[str, Any]:
    """Prints one line per run with checkpoints to delete. Returns the counts."""
    statuses = wanted(status)
    counts = Counts()
    for row in index.rows(store, []):
        path = store.path(row["sweep"], row["run_id"])
        if _status(store, path) not in statuses or not spare(path, keep):
            continue
        with _held_by_us(path, dry_run) as ours:
            if not ours:
                counts.held += 1
                tell(f"{row['sweep']}/{row['run_id']}: held by a process, left alone")
                continue
            # asked again, now that nobody else can change it
            files = spare(path, keep) if _status(store, path) in statuses else []
            if files:
                _delete(row, files, counts, dry_run)
    verb = "would be freed" if dry_run else "freed"
    freed = text.size(counts.freed_bytes)
    tell(f"{counts.files} checkpoints of {counts.runs} runs, {freed} {verb}")
    return {**asdict(counts), "dry_run": dry_run}


@contextlib.contextmanager
def _held_by_us(path: Path, dry_run: bool) -> Iterator[bool]:
    """Whether the run may be changed. A dry run only looks."""
    if dry_run:
        yield not held(path)
        return
    with taken(path) as ours:
        yield ours


def _status(store: RunStore, path: Path) -> str | None:
    """As it is now, whatever the index says; None where the record cannot be read."""
    try:
        return store.read(path.parent.name, path.name).status
    except RecordError:
        return None


def _delete(row: index.Row, files: list[Path], counts: Counts, dry_run: bool) -> None:
    size = 0
    for file in files:
        size += file.lstat().st_size
        if not dry_run:
            file.unlink()
    run = f"{row['sweep']}/{row['run_id']}"
    names = ", ".join(file.name for file in files)
    tell(f"{run}: {names}, {text.size(size)}")
    counts.runs += 1
    counts.files += len(files)
    counts.freed_bytes += size
