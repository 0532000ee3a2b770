"""tbn-bench runs delete: moves runs to <results>/set_aside, from where they can be moved back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tbn_bench.records.run import RunBusy
from tbn_bench.records.set_aside import FOLDER, set_aside
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell


def run(store: RunStore, names: Sequence[str]) -> dict[str, Any]:
    """Prints the new place of each run. `failed` counts the runs that another process holds.

    names: run ids, their beginnings, or SWEEP/RUN. Raises RecordError, before anything is moved,
    where a name matches no run or several.
    """
    paths: dict[Path, None] = {}
    for name in names:
        paths[store.folder_of(name)] = None
    moved = {}
    failed = 0
    for path in paths:
        try:
            moved[path] = set_aside(store.root, path)
        except RunBusy as error:
            failed += 1
            tell(f"{error}; left alone")
    for path, new in moved.items():
        tell(f"{path} is now {new}")
    if moved:
        trash = store.root / FOLDER
        tell(f"remove {trash} to free its space")
    places = [str(new) for new in moved.values()]
    return {"set_aside": places, "failed": failed}
