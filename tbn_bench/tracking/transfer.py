"""Between W&B and the store: `tbn-bench runs import` and `tbn-bench runs sync`."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from tbn_bench.config import make
from tbn_bench.records.run import RunRecord
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell
from tbn_bench.tracking.account import require_key, wandb_id, where


def import_runs(
    paths: list[Path], results: Path, project: str | None = None, api: Any = None
) -> dict[str, Any]:
    """Imports W&B's offline folders, or a project on its server, into the store.

    Runs that do not fit are refused on stderr, the others imported. Raises ValueError without
    either, and for a project without a key.
    """
    from tbn_bench.tracking import offline

    if bool(paths) == bool(project):
        raise ValueError(
            "name W&B offline folders to import, or --project ENTITY/NAME, and not both"
        )
    store = RunStore(results)
    if paths:
        imported, refused = offline.import_logs(paths, store)
    else:
        imported, refused = offline.import_project(project, store, api or _api())
    for line in imported:
        tell(f"imported {line}")
    for line in refused:
        tell(f"refused: {line}", file=sys.stderr)
    return {"imported": imported, "refused": refused, "failed": len(refused)}


def _api() -> Any:
    require_key("runs import --project")
    import wandb

    return wandb.Api()


def folders(record: RunRecord) -> list[Path]:
    """W&B's offline folders of a run that were not pushed yet, oldest first."""
    own = record.path.resolve() / "wandb"
    shared = where(record.path) / "wandb"
    found = sorted(own.glob("offline-run-*"))  # by any id: earlier versions cut it
    if shared != own:
        run_id = make(record.config).run_id
        name = wandb_id(run_id, record.sweep)
        found += sorted(shared.glob(f"offline-run-*-{name}"))
    return [folder for folder in found if not any(folder.glob("*.wandb.synced"))]


def sync(runs: list[str], results: Path, dry_run: bool = False) -> dict[str, Any]:
    """Pushes the offline folders of finished runs by `wandb sync`.

    runs: ids or their beginnings; empty for all. Raises ValueError for a named run that is not
    finished, and without a key; RuntimeError where wandb fails.
    """
    chosen = _chosen(runs, RunStore(results))
    of_runs = [(record, folders(record)) for record in chosen]
    pushed = [(record, found) for record, found in of_runs if found]
    if pushed and not dry_run:
        require_key("runs sync")
    doing = "would push" if dry_run else "pushing"
    every: list[Path] = []
    for record, found in pushed:
        every += found
        for folder in found:
            tell(f"{doing} {record.sweep}/{record.run_id}  {folder}")
    if pushed and not dry_run:
        _push(every)
    return {
        "runs": len(pushed),
        "folders": [str(folder) for folder in every],
        "dry_run": dry_run,
    }


def _chosen(runs: list[str], store: RunStore) -> list[RunRecord]:
    """Raises ValueError for a named run that is not finished."""
    if not runs:
        return [record for record in store.runs([]) if record.status == "finished"]
    chosen = [store.find(name) for name in runs]
    for record in chosen:
        if record.status != "finished":
            raise ValueError(
                f"run {record.run_id} is {record.status}; only finished runs are pushed"
            )
    return chosen


def _push(found: list[Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", *map(str, found)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        why = lines[-1] if lines else f"exit status {done.returncode}"
        raise RuntimeError(f"wandb sync failed: {why}")
