"""Finished runs whose code has changed since: named, then kept, run again, or refused."""

import sys
from collections.abc import Iterator

from tbn_bench import fingerprint
from tbn_bench.config import make
from tbn_bench.records.run import RunRecord
from tbn_bench.records.set_aside import set_aside
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell
from tbn_bench.sweep.spec import SweepSpec

POLICIES = ("keep", "rerun", "error")
_NAMED = 6  # runs that a line names


def settle(spec: SweepSpec, store: RunStore, policy: str, dry_run: bool = False) -> list[str]:
    """Follows the policy, and says on stderr what was found and done.

    Returns the ids of the stale runs that are kept. In a search later draws depend on earlier
    results, so that "rerun" moves all runs of the search to set_aside if one is stale. A dry run
    moves nothing. Raises ValueError for the policy "error" if a run is stale.
    """
    changed = dict(_changed(spec, store))
    if not changed:
        return []
    said = _said(spec, changed)
    if policy == "error":
        raise ValueError(f"{said}; --stale rerun trains them again, --stale keep keeps them")
    if policy == "rerun" and not dry_run:
        moved = _ids(spec, store) if spec.is_search else list(changed)
        for run_id in moved:
            set_aside(store.root, store.path(spec.name, run_id))
        tell(
            f"{said}; {len(moved)} runs are moved to {store.root / 'set_aside' / spec.name} "
            "and trained again",
            file=sys.stderr,
        )
        return []
    will = "would be trained again" if policy == "rerun" else "are kept"
    tell(f"warning: {said}; they {will}, see --stale keep|rerun|error", file=sys.stderr)
    return sorted(changed)


def _changed(spec: SweepSpec, store: RunStore) -> Iterator[tuple[str, list[str]]]:
    """(run id, changed parts) of the finished runs whose code is known to differ."""
    wanted = {config.run_id for config in spec.configs}
    for record in store.runs_of(spec.name):
        is_wanted = spec.is_search or record.run_id in wanted
        if record.status == "finished" and is_wanted:
            parts = _parts(record)
            if parts:
                yield record.run_id, parts


def _parts(record: RunRecord) -> list[str]:
    """The parts that differ; [] where none does or nothing is known."""
    try:
        config = make(record.config)
    except ValueError:  # of another version; the launch says so
        return []
    return fingerprint.changed(record.fingerprint, config) or []


def _ids(spec: SweepSpec, store: RunStore) -> list[str]:
    return [record.run_id for record in store.runs_of(spec.name)]


def _said(spec: SweepSpec, changed: dict[str, list[str]]) -> str:
    """What has changed, with the ids: "binarizer (0a1b..., 2c3d...)"."""
    by_part: dict[str, list[str]] = {}
    for run_id, parts in changed.items():
        for part in parts:
            by_part.setdefault(part, []).append(run_id)
    groups = []
    for part, ids in sorted(by_part.items()):
        more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
        groups.append(f"{part} ({', '.join(ids[:_NAMED])}{more})")
    return (
        f"sweep {spec.name}: {len(changed)} finished runs are stale, because code or files have "
        f"changed since: {'; '.join(groups)}"
    )
