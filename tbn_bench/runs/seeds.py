"""tbn-bench runs seeds: which seeds of each configuration have finished, and which are missing."""

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tbn_bench.config import RunConfig, make
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell
from tbn_bench.runs import index, text
from tbn_bench.runs.filters import chosen
from tbn_bench.runs.index import FIELDS, Row

_SHOWN = ("data", "model", "binarizer")


@dataclass
class SeedGroup:
    """Runs of one sweep that differ only in seed.

    config: a row of one of them. statuses: seed -> status. missing: seeds that some run of the
    sweep has, and that have not finished here.
    """

    sweep: str
    group_id: str
    config: Row
    statuses: dict[int, str] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str]:
        return self.sweep, self.group_id

    @property
    def finished(self) -> list[int]:
        seeds = [seed for seed, status in self.statuses.items() if status == "finished"]
        return sorted(seeds)


def groups(rows: list[Row]) -> list[SeedGroup]:
    """Of all rows, by sweep, then in the order of their first run.

    A config that this version refuses is in no group.
    """
    found: dict[tuple[str, str], SeedGroup] = {}
    seeds: defaultdict[str, set[int]] = defaultdict(set)
    for row in rows:
        seed = row["seed"]
        sweep = row["sweep"]
        if row.get("group_id") is None or not isinstance(seed, int):
            continue
        new = SeedGroup(sweep, row["group_id"], row)
        group = found.setdefault(new.key, new)
        group.statuses[seed] = row["status"]
        seeds[sweep].add(seed)
    for group in found.values():
        missing = seeds[group.sweep] - set(group.finished)
        group.missing = sorted(missing)
    return list(found.values())


def missing_seeds(store: RunStore, sweep: str) -> dict[str, list[int]]:
    """Group id -> seeds that some run of the sweep has and this group has not finished.

    A live run's seed is missing until it ends. Groups that lack none are left out; so are runs that
    cannot be read.
    """
    found = {}
    for group in _groups_of(store, sweep):
        if group.missing:
            found[group.group_id] = group.missing
    return found


def missing_configs(store: RunStore, sweep: str) -> list[RunConfig]:
    """What a sweep must still run for every group to have every seed."""
    configs = []
    for group in _groups_of(store, sweep):
        values = {name: group.config[name] for name in FIELDS}
        configs += [make(values | {"seed": seed}) for seed in group.missing]
    return configs


def _groups_of(store: RunStore, sweep: str) -> list[SeedGroup]:
    rows = index.rows(store, [])
    every = groups(rows)
    return [group for group in every if group.sweep == sweep]


def run(store: RunStore, filters: Sequence[str], missing: bool) -> dict[str, Any]:
    """Prints one line per group: seeds that finished, then the missing ones with their status.

    The filters choose runs after all runs have been counted for the seeds of their sweep. missing:
    print only groups that lack a seed.
    """
    problems: list[str] = []
    every = index.rows(store, problems)
    wanted = {(row["sweep"], row.get("group_id")) for row in chosen(every, filters)}
    found = [group for group in groups(every) if group.key in wanted]
    lines = [_line(group) for group in found if group.missing or not missing]
    if lines:
        text.say(text.align(lines, limit=text.width()))
    for problem in problems:
        tell(f"unreadable: {problem}", file=sys.stderr)
    lacking = [group for group in found if group.missing]
    return {
        "groups": len(found),
        "complete": len(found) - len(lacking),
        "missing": sum(len(group.missing) for group in lacking),
        "unreadable": len(problems),
    }


def _line(group: SeedGroup) -> list[str]:
    done = ", ".join(map(str, group.finished))
    missing = ", ".join(_seed(group, seed) for seed in group.missing)
    return [
        group.group_id,
        f"seeds {done or text.UNKNOWN}",
        f"missing {missing or text.UNKNOWN}",
        group.sweep,
        *(group.config[name] for name in _SHOWN),
        _changes(group.config),
    ]


def _seed(group: SeedGroup, seed: int) -> str:
    """'4', or '4 (failed)' for a seed that was begun."""
    status = group.statuses.get(seed)
    if status is None:
        return str(seed)
    return f"{seed} ({status})"


def _changes(config: Row) -> str:
    """'lr=0.05' for each further field that is not at its default."""
    found = []
    for name, default in FIELDS.items():
        if name in _SHOWN or name == "seed":
            continue
        value = config[name]
        if value == default:
            continue
        word = text.word(value)
        found.append(f"{name}={word}")
    return ", ".join(found)
