"""tbn-bench runs seeds: which seeds of each configuration have finished, and which are missing of those that its sweep has."""

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tbn_bench.config import RunConfig, make
from tbn_bench.records.store import RunStore, tell
from tbn_bench.runs import index, text
from tbn_bench.runs.filters import chosen
from tbn_bench.runs.index import FIELDS, Row


@dataclass
class Group:
    """Runs of one sweep that differ only in seed. config: a row of it; statuses: seed -> status; missing: seeds of the sweep's union
    without a finished run."""

    sweep: str
    group_id: str
    config: Row
    statuses: dict[int, str] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)

    @property
    def finished(self) -> list[int]:
        return sorted(seed for seed, status in self.statuses.items() if status == "finished")


def groups(rows: list[Row]) -> list[Group]:
    """Of all rows, by sweep, then in the order of their first run. A config that this version refuses is in no group."""
    found: dict[tuple[str, str], Group] = {}
    union: defaultdict[str, set[int]] = defaultdict(set)
    for row in rows:
        if row.get("group_id") is None or not isinstance(row["seed"], int):
            continue
        group = found.setdefault(
            (row["sweep"], row["group_id"]), Group(row["sweep"], row["group_id"], row)
        )
        group.statuses[row["seed"]] = row["status"]
        union[row["sweep"]].add(row["seed"])
    for group in found.values():
        group.missing = sorted(union[group.sweep] - set(group.finished))
    return list(found.values())


def missing_seeds(store: RunStore, sweep: str) -> dict[str, list[int]]:
    """Group id -> seeds that some run of the sweep has and this group has not finished (a live run's seed is missing until it ends).

    Groups that lack none are left out; so are runs that cannot be read.
    """
    rows = [row for row in index.rows(store, []) if row["sweep"] == sweep]
    return {group.group_id: group.missing for group in groups(rows) if group.missing}


def missing_configs(store: RunStore, sweep: str) -> list[RunConfig]:
    """What a sweep must still run for every group to have every seed."""
    found = [group for group in groups(index.rows(store, [])) if group.sweep == sweep]
    return [
        make({k: group.config[k] for k in FIELDS} | {"seed": seed})
        for group in found
        for seed in group.missing
    ]


def run(store: RunStore, filters: Sequence[str], missing: bool) -> dict[str, Any]:
    """One line per group: seeds that finished, then the missing ones with their status. A filter chooses runs after the unions are formed."""
    problems: list[str] = []
    every = index.rows(store, problems)
    wanted = {(row["sweep"], row.get("group_id")) for row in chosen(every, filters)}
    found = [g for g in groups(every) if (g.sweep, g.group_id) in wanted]
    lines = [_line(g) for g in found if g.missing or not missing]
    if lines:
        text.say(text.align(lines, limit=text.width()))
    for problem in problems:
        tell(f"unreadable: {problem}", file=sys.stderr)
    complete = sum(not g.missing for g in found)
    return {
        "groups": len(found),
        "complete": complete,
        "missing": sum(len(g.missing) for g in found),
        "unreadable": len(problems),
    }


def _line(group: Group) -> list[str]:
    missing = ", ".join(
        f"{s} ({group.statuses[s]})" if s in group.statuses else str(s) for s in group.missing
    )
    done = ", ".join(map(str, group.finished))
    return [
        group.group_id, f"seeds {done or '—'}", f"missing {missing or '—'}", group.sweep, *(group.config[k] for k in ("data", "model", "binarizer")),
        ", ".join(f"{k}={text.word(group.config[k])}" for k in FIELDS if k not in ("data", "model", "binarizer", "seed") and group.config[k] != FIELDS[k]),
    ]  # fmt: skip
