"""tbn-bench runs prune: deletes checkpoints that are no longer needed, never of a run that a live process holds."""

import contextlib
from pathlib import Path
from typing import Any

from tbn_bench.catalog import did_you_mean
from tbn_bench.records.store import RecordError, RunStore, tell
from tbn_bench.runs import index, text
from tbn_bench.runs.index import STATUSES
from tbn_bench.runs.lock import held, taken


def wanted(text: str) -> list[str]:
    """'finished,failed' -> both; a dead run is one that says "running". Raises ValueError for what is no status."""
    statuses = [word.strip() for word in text.split(",") if word.strip()]
    for word in statuses:
        if word not in (*STATUSES, "dead"):
            raise ValueError(f"unknown status {word!r}{did_you_mean(word, (*STATUSES, 'dead'))}")
    return ["running" if word == "dead" else word for word in statuses]


def spare(path: Path, keep: str) -> list[Path]:
    """Checkpoints of the run in folder `path` beyond the kept one. Where "best" is not there, nothing is: the last may be all there is."""
    folder = path / "checkpoints"
    best = folder / "best.ckpt"
    if keep == "best" and not best.is_file():
        return []
    kept = {best, best.resolve()} if keep == "best" else set()  # best may be a link to another
    return [
        f
        for f in sorted(folder.glob("*.ckpt"))
        if f.is_file() and f not in kept and f.resolve() not in kept
    ]


def run(store: RunStore, keep: str, status: str, dry_run: bool) -> dict[str, Any]:
    """One line per run with checkpoints to delete; the last line counts runs, files, bytes, and runs left alone since they are held."""
    statuses = wanted(status)
    counts = {"runs": 0, "files": 0, "freed_bytes": 0, "held": 0}
    for row in index.rows(store, []):
        path = store.path(row["sweep"], row["run_id"])
        if _status(store, path) not in statuses or not spare(path, keep):
            continue
        with contextlib.nullcontext(not held(path)) if dry_run else taken(path) as mine:
            files = spare(path, keep) if mine and _status(store, path) in statuses else []
            if not mine:
                counts["held"] += 1
                tell(f"{row['sweep']}/{row['run_id']}: held by a process, left alone")
            elif files:
                _delete(row, files, counts, dry_run)
    verb = "would be freed" if dry_run else "freed"
    tell(
        f"{counts['files']} checkpoints of {counts['runs']} runs, {text.size(counts['freed_bytes'])} {verb}"
    )
    return {**counts, "dry_run": dry_run}


def _status(store: RunStore, path: Path) -> str | None:
    """As it is now, whatever the index said; None where the record cannot be read."""
    try:
        return store.read(path.parent.name, path.name).status
    except RecordError:
        return None


def _delete(row: index.Row, files: list[Path], counts: dict[str, int], dry_run: bool) -> None:
    size = sum(file.lstat().st_size for file in files)
    for file in [] if dry_run else files:
        file.unlink()
    tell(
        f"{row['sweep']}/{row['run_id']}: {', '.join(file.name for file in files)}, {text.size(size)}"
    )
    counts["runs"] += 1
    counts["files"] += len(files)
    counts["freed_bytes"] += size
