"""report --paper: every published number that we can run, compared with our runs.

Each cell has a verdict and the command that fills it. A verdict states the epochs of our run, so
that nobody takes a short run for a failed reproduction.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from tbn_bench import catalog
from tbn_bench.records.store import RecordError, tell
from tbn_bench.reporting import groups, published, style, write
from tbn_bench.reporting.commands import command_of, settings_of
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records, load
from tbn_bench.reporting.published import Line
from tbn_bench.reporting.stats import Interval
from tbn_bench.reporting.table import Column, Row, Table, column, run_ids, text_column
from tbn_bench.reporting.tables import ablations, cnn, pointnet, time_series, transformers_mlps
from tbn_bench.reporting.tables._cited import cite
from tbn_bench.reporting.tables._paper import (
    is_ablation,
    is_study,
    matched,
    name_of,
    natural,
    ours,
    score_column,
)
from tbn_bench.scores import SCORES

_SCOPES = (cnn.SCOPE, transformers_mlps.SCOPE, pointnet.SCOPE, time_series.SCOPE, ablations.SCOPE)
_REST = "Baselines and further scores, published and ours"
# One published value, whichever sources give it.
_CELL = ("dataset", "model", "spec", "activation_bits", "metric", "value")
_RAW = (
    "dataset",
    "model",
    "spec",
    "score",
    "published_value",
    "second_hand",
    "published_source",
    "published_note",
    "binarizer",
    "sweep",
    "value",
    "half",
    "n",
    "epochs",
    "difference",
    "kind",
    "verdict",
    "command",
)
_NOTE = (
    "reproduced: the published value is within our 95 % interval. A wide interval makes that easy, "
    "so read its width. One seed has no interval. Epochs are ours; a run of few epochs says "
    "nothing about the published result. Published values come from other authors' recipes, mostly "
    "at the best test epoch. Ours are at the epoch chosen on held-out data."
)


def of_folder(results: Path, out: Path, repository: Path = Path()) -> dict[str, Any]:
    """Writes out/paper.md and out/paper.csv and prints the number of cells per kind.

    repository: has sweeps/ and recipes/, from which the commands are taken. Raises ValueError if
    there are no records.
    """
    records = load(results)
    tables, left = paper(records, repository)
    page = out / "paper.md"
    values = write.comma_separated(_flat(tables))

    try:
        out.mkdir(parents=True, exist_ok=True)
        page.write_text(_page(tables, left), encoding="utf-8")
        (out / "paper.csv").write_text(values, encoding="utf-8")
    except OSError as error:
        raise RecordError(
            f"cannot write to {out}: {error.strerror}; choose another folder with --out"
        ) from error

    counts = _counts(tables)
    cells = counts.total()
    tell(f"{cells} published cells: {_said(counts)}; {_said(left)}")
    tell(f"paper: {page}")
    return {"paper": str(page), "cells": cells, **counts}


def paper(records: Records, repository: Path = Path()) -> tuple[list[Table], Counter[str]]:
    """(a table per published table, the reasons why lines of the ledger are in none).

    A table has a row per published value and group of ours that it is about.
    """
    settings = settings_of(repository)
    found = groups.groups(records)
    sections: dict[str, list[Row]] = {}
    for scope in _SCOPES:
        sections[scope.title] = []
    sections[_REST] = []

    ledger = records.published.to_dict("records")
    cells, left = _cells(ledger)
    for lines in cells:
        command = command_of(lines[0], settings)
        section = sections[_section(lines[0])]
        section += _rows(lines, found, command)

    tables = []
    for title, rows in sections.items():
        if rows:
            tables.append(_table(title, rows))
    return tables, left


def _section(line: Line) -> str:
    """The title of the table that a line is in."""
    for scope in _SCOPES:
        if scope.has_line(line):
            return scope.title
    return _REST


def _cells(ledger: list[Line]) -> tuple[list[list[Line]], Counter[str]]:
    """(the lines of each published value, the reasons why other lines have no cell of ours).

    A value that several sources give is one value.
    """
    cells: dict[tuple[Any, ...], list[Line]] = {}
    left: Counter[str] = Counter()
    for line in ledger:
        reason = _unfit(line)
        if reason:
            left[reason] += 1
            continue
        key = tuple(line[name] for name in _CELL)
        cells.setdefault(key, []).append(line)
    return list(cells.values()), left


def _unfit(line: Line) -> str | None:
    """The reason why a line has no cell of ours; None if it has one."""
    if line["metric"] not in SCORES:
        return "of a quantity that no run records"
    packages = {"spec": "binarizers", "model": "models", "dataset": "data"}
    for key, package in packages.items():
        if name_of(line[key]) not in catalog.names(package):
            return "of a method, network or data set that is not ours"
    return None


def _rows(lines: list[Line], found: list[Group], command: str) -> list[Row]:
    """A row per group that a published value is about; if there is none, a row without ours."""
    line = lines[0]
    blank = _blank(lines) | {"command": command}
    rows = []
    for g in found:
        if _is_about(line, g):
            rows.append(blank | _own(line, g))
    return rows or [blank | {"kind": "not run", "verdict": "not run"}]


def _is_about(line: Line, g: Group) -> bool:
    """Whether a line may be compared with a group of ours that has its score."""
    score = line["metric"]
    if score not in g.results:
        return False
    if is_study(g.sweep) != is_ablation(line["spec"]):
        return False
    found = matched([line], g, score)
    return bool(found)


def _blank(lines: list[Line]) -> Row:
    """The row of a published value, in which our numbers are None."""
    line = lines[0]
    sources = [each["source"] for each in lines]
    notes = [each["note"] or "" for each in lines]
    return {
        "dataset": line["dataset"],
        "model": line["model"],
        "spec": line["spec"],
        "published_value": line["value"],
        "published_source": "; ".join(sources),
        "published_note": " | ".join(notes),
        "second_hand": all(each["second_hand"] for each in lines),
        "binarizer": line["spec"],
        "score": line["metric"],
        "lines": lines,
        "run_ids": [],
        **dict.fromkeys(("value", "half", "n", "epochs", "sweep", "difference")),
    }


def _own(line: Line, g: Group) -> Row:
    result = g.results[line["metric"]]
    epochs = g.first["epochs"]
    kind, verdict = judged(line["metric"], line["value"], result, epochs)
    return {
        "value": result.mean,
        "half": result.half,
        "n": result.n,
        "epochs": epochs,
        "sweep": g.sweep,
        "binarizer": g.binarizer,
        "difference": result.mean - line["value"],
        "kind": kind,
        "verdict": verdict,
        "run_ids": g.run_ids,
    }


def judged(score: str, value: float, result: Interval, epochs: int) -> tuple[str, str]:
    """(kind, sentence) of a published value and ours.

    The interval decides, whatever its width. One seed has no interval and decides nothing.
    """
    s = SCORES[score]
    difference = result.mean - value
    gap = f"{s.factor * difference:+.{s.digits}f}"
    if s.factor == 100:
        gap += " points"
    trained = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    if result.half is None:
        return "one seed", f"one seed, differs by {gap}, {trained}"
    if abs(difference) > result.half:
        return "differs", f"differs by {gap}, {trained}"
    half = s.text(result.half, False)
    return "reproduced", f"reproduced within ± {half}, {trained}"


def _table(title: str, rows: list[Row]) -> Table:
    methods = style.methods(row["spec"] for row in rows)

    def place(row: Row) -> tuple[Any, ...]:
        return (
            natural(row["dataset"]),
            row["model"],
            methods.index(row["spec"]),
            row["score"],
            row["published_value"],
        )

    rows = sorted(rows, key=place)
    sources = cite(rows, lambda row: {"reported": row["lines"]})

    columns = [
        text_column("dataset", "data"),
        text_column("model", "model"),
        text_column("spec", "method"),
        score_column(),
        column("reported", "published"),
        Column("value", "ours", ours),
        column("n", "n", "d"),
        text_column("verdict", "verdict"),
        text_column("command", "command"),
    ]

    return Table(
        title,
        columns,
        rows,
        published.legend(row["reported"] for row in rows),
        run_ids(rows),
        sources=sources,
        raw=_RAW,
    )


def _flat(tables: list[Table]) -> Table:
    """All rows in one table, for the CSV."""
    rows = []
    for table in tables:
        for row in table.rows:
            rows.append(row | {"table": table.title})
    keys = ("table", *_RAW) if tables else ("table",)
    return Table("", [], rows, raw=keys)


def _counts(tables: list[Table]) -> Counter[str]:
    """The number of cells of each kind of verdict."""
    counts: Counter[str] = Counter()
    for table in tables:
        for row in table.rows:
            counts[row["kind"]] += 1
    return counts


def _said(counts: Counter[str]) -> str:
    said = []
    for what, n in sorted(counts.items()):
        said.append(f"{n} {what}")
    return ", ".join(said) or "none"


def _page(tables: list[Table], left: Counter[str]) -> str:
    counts = _counts(tables)
    head = (
        f"# Published and ours\n\n{_NOTE}\n\n"
        f"Cells: {_said(counts)}. Lines of the ledger in no table: {_said(left)}.\n"
    )
    return "\n".join([head, *map(write.markdown, tables)])
