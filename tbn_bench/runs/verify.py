"""tbn-bench runs verify: every record against its schema, its config's hash, and its own numbers.

experiment/verify.py is behind --scores, which runs the packed networks beside the records: it needs
torch.
"""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tbn_bench.records import robustness
from tbn_bench.records.run import NETWORK, RunBusy
from tbn_bench.records.set_aside import set_aside as move_aside
from tbn_bench.records.store import RunStore
from tbn_bench.runs import text
from tbn_bench.runs.faults import AGAIN, RESTORE, Fault, faults, leftovers

# whole records that say other than their folder, or that another version wrote
_READABLE = ("name", "config", "hash", "command")
_OLD_S = 60  # an atomic write takes less


def run(store: RunStore, sets_aside: bool) -> dict[str, Any]:
    """Prints one line per fault. `failed` is the number of paths at fault; not 0: exit status 1.

    sets_aside: move runs whose records are damaged to <results>/set_aside, so that their sweep
    makes them again; `failed` counts what is left.
    """
    hidden: list[str] = []
    folders = [store.path(*names) for names in store.folders(hidden)]
    if not folders and not hidden:
        raise ValueError(f"no runs under {store.root}; choose another folder with --results")
    found = _all_faults(store, folders, hidden)
    moved = set_aside(store, found) if sets_aside else {}
    networks = sum((path / NETWORK).exists() for path in folders)
    more = f"; {networks} with {NETWORK}, whose scores --scores computes again" if networks else ""
    lines = [str(fault) for fault in found]
    lines += [f"{path} is now {new}" for path, new in moved.items()]
    lines.append(f"{len(folders)} runs, {len(found)} faults{more}")
    text.say(lines)
    left = {fault.path for fault in found} - set(moved)
    kinds = Counter(fault.kind for fault in found)
    return {
        "runs": len(folders),
        "faults": len(found),
        "failed": len(left),
        "kinds": dict(sorted(kinds.items())),
        "set_aside": len(moved),
        "networks": networks,
    }


def _all_faults(store: RunStore, folders: list[Path], hidden: list[str]) -> list[Fault]:
    """hidden: what is known of folders that cannot be read."""
    found = []
    for what in hidden:
        found.append(Fault(store.root / "runs", "unreadable", what, "see above"))
    for path in folders:
        found += faults(path)
    found += _measurements(store)
    found += _old_leftovers(store)
    return found


def set_aside(store: RunStore, found: Iterable[Fault]) -> dict[Path, Path]:
    """Moves the folders of damaged runs that no process holds. Returns old path -> new path.

    The new one is <root>/set_aside/<sweep>/<run id>.<n>. Raises RecordError where that folder
    cannot be written.
    """
    damaged: dict[Path, None] = {}
    for fault in found:
        if fault.todo in (AGAIN, RESTORE) and fault.kind not in _READABLE:
            damaged[fault.path] = None
    moved = {}
    for path in damaged:
        with contextlib.suppress(RunBusy):
            moved[path] = move_aside(store.root, path)

    return moved


def _measurements(store: RunStore) -> Iterator[Fault]:
    """Unreadable records of latency, of microcontrollers and of robustness."""
    problems: list[str] = []
    for _ in store.latencies(problems, strict=True):
        pass
    for _ in store.versions(problems, strict=True):
        pass
    for problem in problems:
        todo = "delete the file and time it again"
        yield Fault(store.root / "latency", "latency", problem, todo)
    problems = []
    for _ in store.mcus(problems, strict=True):
        pass
    for problem in problems:
        todo = "delete the file and measure it again"
        yield Fault(store.root / "mcu", "mcu", problem, todo)
    problems = []
    robustness.records(store.root, problems, strict=True)
    for problem in problems:
        todo = "delete the file and measure it again"
        yield Fault(store.root / robustness.FOLDER, "robustness", problem, todo)


def _old_leftovers(store: RunStore) -> Iterator[Fault]:
    """Of writes beside the runs that cannot still be going on."""
    root = store.root
    cases = sorted(root.glob("latency/*/"))
    for folder in (root, *cases):
        for fault in leftovers(folder):
            if _age_s(fault.path) > _OLD_S:
                yield fault


def _age_s(path: Path) -> float:
    """0 where it is gone meanwhile."""
    try:
        return time.time() - os.stat(path).st_mtime
    except OSError:
        return 0.0
