"""What is missing, and the command that would fill it: seeds, second seeds, latencies. Runs without a result are in tables/not_finished.py."""

import shlex
from pathlib import Path
from typing import Any

from tbn_bench.config import make
from tbn_bench.records.store import RunStore
from tbn_bench.reporting import style
from tbn_bench.reporting.groups import groups
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.write import Column, Table, column
from tbn_bench.runs import index, seeds
from tbn_bench.runs.index import FIELDS


def gaps(records: Records, results: Path) -> dict[str, Table]:
    """Tables of what is missing by name; one without rows is left out."""
    found = seeds.groups(index.rows(RunStore(results), []))
    tables = {
        "missing_seeds": _missing_seeds(found, results),
        "single_seeds": _single_seeds(found, results),
        "missing_latency": _missing_latency(records, results),
    }
    return {name: table for name, table in tables.items() if table.rows}


def _in(results: Path) -> str:
    return "" if results == Path("results") else f" --results {shlex.quote(str(results))}"


def _table(title: str, note: str, rows: list[dict[str, Any]], own: list[Column]) -> Table:
    same = [column(key, key, numeric=False) for key in ("sweep", "data", "model", "method")]
    return Table(title, [*same, *own, column("command", "command", numeric=False)], rows, note)


def _row(group: seeds.Group, names: dict[str, str]) -> dict[str, Any]:
    return {k: group.config[k] for k in ("sweep", "data", "model")} | {
        "method": names[group.config["binarizer"]]
    }


def _missing_seeds(found: list[seeds.Group], results: Path) -> Table:
    names = style.labels(g.config["binarizer"] for g in found)
    rows = [
        _row(g, names)
        | {"finished": len(g.finished), "missing": ", ".join(map(str, g.missing)),
           "command": f"tbn-bench sweep --fill {shlex.quote(g.sweep)}{_in(results)}"}
        for g in found if g.missing
    ]  # fmt: skip
    own = [column("finished", "seeds done", "d"), column("missing", "seeds missing", numeric=False)]
    return _table(
        "Seeds missing",
        "Seeds that other rows of the same sweep have. The command runs all that the sweep lacks.",
        rows,
        own,
    )


def _single_seeds(found: list[seeds.Group], results: Path) -> Table:
    """Groups of one seed whose sweep has no other: without an interval."""
    alone = [g for g in found if len(g.finished) == 1 and not g.missing]
    names = style.labels(g.config["binarizer"] for g in found)
    rows = [
        _row(g, names) | {"seed": g.finished[0], "command": f"{_next(g)}{_in(results)}"}
        for g in alone
    ]
    note = "One seed gives no interval. The command trains the next one."
    return _table("Rows of a single seed", note, rows, [column("seed", "seed", "d")])


def _next(group: seeds.Group) -> str:
    config = make({k: group.config[k] for k in FIELDS} | {"seed": group.finished[0] + 1})
    return f"{config.command} --sweep {shlex.quote(group.sweep)}"


def _missing_latency(records: Records, results: Path) -> Table:
    """A row per sweep, data set and model with finished groups of which no run was timed."""
    timed = set(records.latency["run_id"].dropna())
    names = style.labels(records.runs["binarizer"])
    panels: dict[tuple[str, str, str], dict[str, bool]] = {}
    for g in groups(records):
        if g.result is not None:
            panels.setdefault(g.panel, {})[names[g.binarizer]] = bool(timed & set(g.run_ids))
    without = {panel: _said(found) for panel, found in panels.items() if not all(found.values())}
    rows = [
        {"sweep": sweep, "data": data, "model": model, "method": methods,
         "command": f"tbn-bench latency --suite {shlex.quote(sweep)} --skip-done{_in(results)}"}
        for (sweep, data, model), methods in without.items()
    ]  # fmt: skip
    note = "The command times all trained networks of the sweep; runs whose checkpoint is not on this machine are trained first."
    return _table("Methods without a latency", note, rows, [])


def _said(timed: dict[str, bool]) -> str:
    """Names of the methods that were not timed."""
    lacking = [name for name, done in timed.items() if not done]
    return f"all {len(lacking)}" if len(lacking) == len(timed) > 1 else ", ".join(lacking)
