"""The gaps of the results, and the command that would fill each: seeds, second seeds, latencies.

Runs without a result are in tables/not_finished.py.
"""

import shlex
from pathlib import Path
from typing import Any

from tbn_bench.config import RunConfig, make
from tbn_bench.records.store import RunStore
from tbn_bench.reporting import names
from tbn_bench.reporting.groups import groups
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Column, Table, column
from tbn_bench.runs import index, seeds
from tbn_bench.runs.index import FIELDS

Panel = tuple[str, str, str]  # sweep, data and model
Labels = dict[Panel, dict[str, str]]  # of a panel: binarizer -> its name there


def gaps(records: Records, results: Path) -> dict[str, Table]:
    """Tables of the gaps by name; one without rows is left out."""
    found = seeds.groups(index.rows(RunStore(results), [], keep_cache=False))
    labels = _labels(found)
    tables = {
        "missing_seeds": _missing_seeds(found, labels, results),
        "single_seeds": _single_seeds(found, labels, results),
        "missing_latency": _missing_latency(records, results),
    }
    return {name: table for name, table in tables.items() if table.rows}


def _in(results: Path) -> str:
    if results == Path("results"):
        return ""
    return f" --results {shlex.quote(str(results))}"


def _table(title: str, note: str, rows: list[dict[str, Any]], own: list[Column]) -> Table:
    shared = ("sweep", "data", "model", "method")
    same = [column(key, key, numeric=False) for key in shared]
    command = column("command", "command", numeric=False)
    return Table(title, [*same, *own, command], rows, note)


def _panel(group: seeds.SeedGroup) -> Panel:
    return group.config["sweep"], group.config["data"], group.config["model"]


def _labels(found: list[seeds.SeedGroup]) -> Labels:
    """Panel -> the name of each of its methods, which tells it from the others there."""
    specs: dict[Panel, list[str]] = {}
    for group in found:
        specs.setdefault(_panel(group), []).append(group.config["binarizer"])
    return {panel: names.methods(own) for panel, own in specs.items()}


def _row(group: seeds.SeedGroup, labels: Labels) -> dict[str, Any]:
    config = group.config
    return {
        "sweep": config["sweep"],
        "data": names.data_set(config["data"]),
        "model": names.network(config["model"]),
        "method": labels[_panel(group)][config["binarizer"]],
    }


def _missing_seeds(found: list[seeds.SeedGroup], labels: Labels, results: Path) -> Table:
    rows = []
    for group in found:
        if not group.missing:
            continue
        gap = {
            "finished": len(group.finished),
            "missing": ", ".join(map(str, group.missing)),
            "command": _fill(group, results),
        }
        rows.append(_row(group, labels) | gap)
    own = [
        column("finished", "seeds finished", "d"),
        column("missing", "numbers of the missing seeds", numeric=False),
    ]
    return _table(
        "Seeds missing",
        "Other rows of the same sweep have these seeds. The command runs all missing seeds of the "
        "sweep.",
        rows,
        own,
    )


def _fill(group: seeds.SeedGroup, results: Path) -> str:
    """The command that runs all missing seeds of a sweep; of a given object, the first one."""
    config = _with_seed(group, group.missing[0])
    if config.given:
        return config.command_in(group.sweep)
    sweep = shlex.quote(group.sweep)
    return f"tbn-bench sweep --fill {sweep}{_in(results)}"


def _single_seeds(found: list[seeds.SeedGroup], labels: Labels, results: Path) -> Table:
    """Groups of one seed whose sweep has no other: without an interval."""
    rows = []
    for group in found:
        if len(group.finished) != 1 or group.missing:
            continue
        gap = {
            "seed": group.finished[0],
            "command": _next(group, results),
        }
        rows.append(_row(group, labels) | gap)
    note = "One seed gives no interval. The command trains the next one."
    return _table("Rows of a single seed", note, rows, [column("seed", "seed", "d")])


def _next(group: seeds.SeedGroup, results: Path) -> str:
    """The command that trains the next seed."""
    config = _with_seed(group, group.finished[0] + 1)
    command = config.command_in(group.sweep)
    return command if config.given else f"{command}{_in(results)}"


def _with_seed(group: seeds.SeedGroup, seed: int) -> RunConfig:
    values = {field: group.config[field] for field in FIELDS}
    return make(values | {"seed": seed})


def _missing_latency(records: Records, results: Path) -> Table:
    """A row per sweep, data set and model with finished groups of which no run was timed."""
    timed = set(records.latency["run_id"].dropna())
    panels: dict[tuple[str, str, str], dict[str, bool]] = {}
    for g in groups(records):
        if g.result is None:
            continue
        panel = panels.setdefault(g.panel, {})
        panel[g.label] = bool(timed & set(g.run_ids))
    rows = []
    for (sweep, data, model), found in panels.items():
        if all(found.values()):
            continue
        suite = shlex.quote(sweep)
        row = {
            "sweep": sweep,
            "data": names.data_set(data),
            "model": names.network(model),
            "method": _said(found),
            "command": f"tbn-bench latency --suite {suite} --skip-done{_in(results)}",
        }
        rows.append(row)
    note = (
        "The command times all trained networks of the sweep. It first trains the runs whose "
        "checkpoints are not on this machine."
    )
    return _table("Methods without a latency", note, rows, [])


def _said(timed: dict[str, bool]) -> str:
    """Names of the methods that were not timed."""
    lacking = [name for name, done in timed.items() if not done]
    if len(lacking) == len(timed) > 1:
        return f"all {len(lacking)}"
    return ", ".join(lacking)
