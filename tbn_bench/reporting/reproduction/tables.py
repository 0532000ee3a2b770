"""The tables of the paper report: a row per cell and group of ours, and the sizes by plan."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

from tbn_bench.reporting import names, published
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.reproduction.cells import Cell, Found
from tbn_bench.reporting.reproduction.matrix import interval
from tbn_bench.reporting.reproduction.recipe import Recipes, spent
from tbn_bench.reporting.reproduction.sizes import Check, Key, Size
from tbn_bench.reporting.style import DASH
from tbn_bench.reporting.table import Column, Row, Table, column, run_ids, text_column
from tbn_bench.reporting.tables._cited import cite, numbered
from tbn_bench.reporting.tables._paper import score_column
from tbn_bench.scores import NAMED

SIZES = "Sizes by plan"
_RAW = (
    "table",
    "dataset",
    "model",
    "spec",
    "method",
    "activation_bits",
    "score",
    "target_percent",
    "target_error",
    "second_hand",
    "source",
    "note",
    "binarizer",
    "sweep",
    "group_id",
    "ours_percent",
    "ours_error",
    "interval_points",
    "interval_error",
    "seeds",
    "epochs",
    "difference_points",
    "difference_error",
    "kind",
    "verdict",
    "recipe",
    "cpu_hours",
    "train_pflop",
    "plan_bits_per_weight",
    "plan_stored_bits",
    "size_verdict",
    "command",
)


@dataclass(frozen=True)
class Tables:
    """The tables of a report, and the sources that all of them cite, numbered from 1."""

    tables: list[Table]
    sources: list[str]
    numbers: dict[str, int]


def tables(
    found: Found,
    checks: dict[Key, list[Check]],
    sizes: dict[Key, Size],
    recipes: Recipes | None = None,
) -> Tables:
    """A table for each published table, and one of sizes. recipes: of our runs."""
    known = recipes or {}
    labels = names.methods(cell.spec for cell in found.cells)
    sections: dict[str, list[Row]] = {}
    for cell in found.cells:
        key = (*cell.network, cell.spec)
        shared = _published(cell, labels) | _planned(sizes.get(key), checks.get(key, []))
        rows = sections.setdefault(cell.section, [])
        if not cell.groups:
            rows.append(shared | _own(cell, None))
        for group in cell.groups:
            rows.append(shared | _own(cell, group) | spent(cell, group, known))

    every = list(chain.from_iterable(sections.values()))
    size_rows = _size_rows(checks, sizes)
    numbers = numbered([*every, *size_rows], _cells)
    sources = cite([*every, *size_rows], _cells)
    out = [_table(title, rows) for title, rows in sections.items()]
    if size_rows:
        out.append(_size_table(size_rows))
    return Tables(out, sources, numbers)


def _cells(row: Row) -> dict[str, list[published.Line]]:
    """The cells of a row that cite their sources."""
    if "others" not in row:
        return {"cited": row["lines"]}
    same, others = published.of_target(row["lines"])
    return {"target": same, "others": others}


def flat(found: list[Table]) -> Table:
    """All rows but those of sizes in one table, for the CSV."""
    rows: list[Row] = []
    for table in found:
        if table.title != SIZES:
            rows += table.rows
    return Table("", [], rows, raw=_RAW)


def _published(cell: Cell, labels: dict[str, str]) -> Row:
    """What was published of a cell."""
    line = cell.target
    data, model = cell.network
    return {
        "table": cell.section,
        "dataset": data,
        "model": model,
        "data_name": names.data_set(data),
        "network": names.network(model),
        "spec": cell.spec,
        "method": labels[cell.spec],
        "activation_bits": line["activation_bits"],
        "score": cell.score,
        **_united(cell.score, "target", line["value"]),
        "second_hand": line["second_hand"],
        "source": line["source"],
        "note": line["note"],
        "others": None,
        "lines": cell.lines,
        "command": cell.command,
    }


def _own(cell: Cell, group: Group | None) -> Row:
    """Our runs of a cell, and the verdict."""
    verdict = cell.verdict(group)
    row: Row = {"kind": verdict.kind, "verdict": verdict.text, "run_ids": []}
    if group is None:
        return row
    result = group.results[cell.score]
    difference = result.mean - cell.target["value"]
    return row | {
        "binarizer": group.binarizer,
        "sweep": group.sweep,
        "group_id": group.group_id,
        "ours": interval(group, cell.score),
        **_united(cell.score, "ours", result.mean),
        **_united(cell.score, "interval", result.half, "points"),
        **_united(cell.score, "difference", difference, "points"),
        "seeds": result.n,
        "epochs": group.first["epochs"],
        "run_ids": group.run_ids,
    }


def _united(score: str, name: str, value: float | None, unit: str = "percent") -> dict[str, Any]:
    """A score's value under a key that says its unit: percent or points, or an error."""
    factor = NAMED[score].factor
    key = f"{name}_{unit}" if factor == 100 else f"{name}_error"
    return {key: None if value is None else round(factor * value, 6)}


def _planned(size: Size | None, checks: list[Check]) -> Row:
    """The sizes of a cell's network by its plan."""
    if size is None:
        return {}
    return {
        "plan_bits_per_weight": round(size.stored_bits / size.weights, 6),
        "plan_stored_bits": size.stored_bits,
        "size_verdict": size_kind(checks),
    }


def size_kind(checks: list[Check]) -> str | None:
    """verified or differs; None if no size was published."""
    if not checks:
        return None
    is_verified = all(check.is_verified for check in checks)
    return "verified" if is_verified else "differs"


def _table(title: str, rows: list[Row]) -> Table:
    columns = [
        text_column("data_name", "data"),
        text_column("network", "network"),
        text_column("method", "method"),
        score_column(),
        column("target", "target"),
        column("others", "also published"),
        Column("ours_percent", "ours", _shown("ours")),
        column("seeds", "seeds", "d"),
        column("epochs", "epochs", "d"),
        text_column("verdict", "verdict"),
        text_column("recipe", "our recipe"),
        column("cpu_hours", "CPU hours a run", ".2f"),
        column("train_pflop", "PFLOP a run", ".3f"),
        text_column("command", "command"),
    ]
    note = published.legend(f"{row['target']} {row['others']}" for row in rows)
    return Table(title, columns, rows, note, run_ids(rows), raw=_RAW)


def _shown(key: str) -> Callable[[Row], str]:
    def show(row: Row) -> str:
        return row.get(key) or DASH

    return show


def _size_rows(checks: dict[Key, list[Check]], sizes: dict[Key, Size]) -> list[Row]:
    rows = []
    labels = names.methods(spec for _, _, spec in checks)
    for key, found in checks.items():
        data, model, spec = key
        for check in found:
            row = {
                "data_name": names.data_set(data),
                "network": names.network(model),
                "method": labels[spec],
                "numbers": check.numbers,
                "verdict": "verified" if check.is_verified else "differs",
                "cited": None,
                "lines": [check.line],
                "command": sizes[key].command,
                "run_ids": [],
            }
            rows.append(row)
    return sorted(rows, key=_size_place)


def _size_place(row: Row) -> tuple[str, str]:
    return row["data_name"], row["network"]


def _size_table(rows: list[Row]) -> Table:
    columns = [
        text_column("data_name", "data"),
        text_column("network", "network"),
        text_column("method", "method"),
        text_column("numbers", "size"),
        text_column("verdict", "verdict"),
        Column("source", "source", _citation, numeric=False),
        text_column("command", "command"),
    ]
    return Table(SIZES, columns, rows)


def _citation(row: Row) -> str:
    """[1] of "0.538688 [1]"."""
    _, _, number = str(row["cited"]).rpartition(" ")
    return number
