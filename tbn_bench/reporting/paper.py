"""report --paper: every published number that we can run, beside what we ran, with a verdict per cell and the command that fills it.

A verdict states the epochs of ours: a short run is never read as a failed reproduction.
"""

import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from tbn_bench import catalog, yaml_file
from tbn_bench.records.store import RecordError, tell
from tbn_bench.reporting import groups, published, style, write
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records, load
from tbn_bench.reporting.stats import Interval
from tbn_bench.reporting.tables import ablations, cnn, pointnet, time_series, transformers_mlps
from tbn_bench.reporting.tables._paper import (
    cite,
    is_ablation,
    is_study,
    matched,
    name_of,
    natural,
    ours,
)
from tbn_bench.reporting.write import Column, Table, column
from tbn_bench.scores import SCORES

_SCOPES = (cnn.SCOPE, transformers_mlps.SCOPE, pointnet.SCOPE, time_series.SCOPE, ablations.SCOPE)
_REST = "Baselines and further scores, published and ours"
_NOTE = (
    "reproduced: the published value lies within our 95 % interval, which a wide interval makes easy: read its width. One seed has no "
    "interval. Epochs are ours; a run of few epochs says nothing about the published one. Published values are by others' recipes, mostly at "
    "the best test epoch; ours are at the epoch chosen on held-out data."
)


def of_folder(results: Path, out: Path, repository: Path = Path()) -> dict[str, Any]:
    """Writes out/paper.md and out/paper.csv and prints how many cells stand where. Raises ValueError where there are no records.

    repository: holds sweeps/ and recipes/, from which the commands are taken.
    """
    tables, left = paper(load(results), repository)
    rows = [row for table in tables for row in table.rows]
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "paper.md").write_text(_page(tables, left), encoding="utf-8")
        (out / "paper.csv").write_text(write.comma_separated(_flat(tables)), encoding="utf-8")
    except OSError as error:
        raise RecordError(
            f"cannot write to {out}: {error.strerror}; choose another folder with --out"
        ) from error
    counts = Counter(row["kind"] for row in rows)
    tell(f"{len(rows)} published cells: {_said(counts)}; {_said(left)}")
    tell(f"paper: {out / 'paper.md'}")
    return {"paper": str(out / "paper.md"), "cells": len(rows), **counts}


def paper(records: Records, repository: Path = Path()) -> tuple[list[Table], Counter[str]]:
    """(a table per published table, why lines of the ledger are in none): a row per published value and group of ours that it is about."""
    settings = _settings(repository)
    found = groups.groups(records)
    sections: dict[str, list[dict[str, Any]]] = {
        title: [] for title in (*(scope.title for scope in _SCOPES), _REST)
    }
    cells, left = _cells(records.published.to_dict("records"))
    for lines in cells:
        title = next((scope.title for scope in _SCOPES if scope.has_line(lines[0])), _REST)
        sections[title] += _rows(lines, found, _command(lines[0], settings))
    return [_table(title, rows) for title, rows in sections.items() if rows], left


def _cells(ledger: list[dict[str, Any]]) -> tuple[list[list[dict[str, Any]]], Counter[str]]:
    """(the lines of each published value, a value that several sources give being one; why other lines have no cell of ours)."""
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    left: Counter[str] = Counter()
    for line in ledger:
        if reason := _unfit(line):
            left[reason] += 1
        else:
            cells.setdefault(
                tuple(
                    line[k]
                    for k in ("dataset", "model", "spec", "activation_bits", "metric", "value")
                ),
                [],
            ).append(line)
    return list(cells.values()), left


def _unfit(line: dict[str, Any]) -> str | None:
    """Why a line has no cell of ours; None where it has."""
    if line["metric"] not in SCORES:
        return "of a quantity that no run records"
    named = (("spec", "binarizers"), ("model", "models"), ("dataset", "data"))
    if not all(name_of(line[key]) in catalog.names(package) for key, package in named):
        return "of a method, network or data set that is not ours"
    return None


def _rows(lines: list[dict[str, Any]], found: list[Group], command: str) -> list[dict[str, Any]]:
    """A row per group that a published value is about; one without anything of ours where there is none."""
    line = lines[0]
    score = line["metric"]
    study = is_ablation(line["spec"])
    own = [
        g
        for g in found
        if is_study(g.sweep) == study and score in g.results and matched([line], g, score)
    ]
    blank = {key: line[key] for key in ("dataset", "model", "spec")} | {
        "published_value": line["value"], "published_source": "; ".join(each["source"] for each in lines),
        "published_note": " | ".join(each["note"] or "" for each in lines), "second_hand": all(each["second_hand"] for each in lines),
        "binarizer": line["spec"], "score": score, "command": command, "lines": lines, "run_ids": [],
        **dict.fromkeys(("value", "half", "n", "epochs", "sweep", "difference")),
    }  # fmt: skip
    return [blank | _own(line, g) for g in own] or [
        blank | {"kind": "not run", "verdict": "not run"}
    ]


def _own(line: dict[str, Any], g: Group) -> dict[str, Any]:
    score, result = line["metric"], g.results[line["metric"]]
    epochs = g.first["epochs"]
    kind, verdict = judged(score, line["value"], result, epochs)
    return {
        "value": result.mean, "half": result.half, "n": result.n, "epochs": epochs, "sweep": g.sweep, "binarizer": g.binarizer,
        "difference": result.mean - line["value"], "kind": kind, "verdict": verdict, "run_ids": g.run_ids,
    }  # fmt: skip


def judged(score: str, value: float, result: Interval, epochs: int) -> tuple[str, str]:
    """(kind, sentence) of a published value and ours. The interval decides, whatever its width; one seed decides nothing."""
    s = SCORES[score]
    gap = f"{s.factor * (result.mean - value):+.{s.digits}f}" + (
        " points" if s.factor == 100 else ""
    )
    trained = f"{epochs} epoch{'s' if epochs != 1 else ''}"
    if result.half is None:
        return "one seed", f"one seed, differs by {gap}, {trained}"
    if abs(result.mean - value) <= result.half:
        return "reproduced", f"reproduced within ± {s.text(result.half, False)}, {trained}"
    return "differs", f"differs by {gap}, {trained}"


def _settings(repository: Path) -> list[tuple[str, dict[str, Any]]]:
    """(command, parameter -> its values) of every sweep, then of every recipe. Raises ValueError for a file that is not YAML."""
    out = []
    for path in sorted(repository.glob("sweeps/*.yaml")):
        parameters = _mapping(path).get("parameters") or {}
        values = {
            key: _listed(p.get("values", p.get("value")))
            for key, p in parameters.items()
            if isinstance(p, dict)
        }
        out.append((f"tbn-bench sweep {path.relative_to(repository)}", values))
    for path in sorted(repository.glob("recipes/*.yaml")):
        out.append(
            (
                f"tbn-bench train --config {path.relative_to(repository)}",
                {k: [v] for k, v in _mapping(path).items()},
            )
        )
    return out


def _mapping(path: Path) -> dict[str, Any]:
    value = yaml_file.read(path)
    return value if isinstance(value, dict) else {}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _command(line: dict[str, Any], settings: list[tuple[str, dict[str, Any]]]) -> str:
    """The sweep or recipe that has a line's setting, the longest where several have, else a run by default settings."""
    fitting = [
        (command, values)
        for command, values in settings
        if _covers(values, line) and _is_study(command) == is_ablation(line["spec"])
    ]
    if fitting:
        return max(fitting, key=lambda known: max(known[1].get("epochs", [0])))[0]
    flags = (
        f"--{key}={line[name]}"
        for key, name in (("data", "dataset"), ("model", "model"), ("binarizer", "spec"))
    )
    return f"{shlex.join(['tbn-bench', 'train', *flags])}  # default settings: no sweep or recipe has it"


def _is_study(command: str) -> bool:
    return is_study(Path(command.split()[-1]).stem)


def _covers(values: dict[str, Any], line: dict[str, Any]) -> bool:
    wanted = (("dataset", "data"), ("model", "model"), ("spec", "binarizer"))
    return all(
        any(published.is_same(line[k], str(v), k != "spec") for v in values.get(key, []))
        for k, key in wanted
    )


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    order = {spec: i for i, spec in enumerate(style.methods(row["spec"] for row in rows))}
    rows = sorted(
        rows,
        key=lambda r: (
            natural(r["dataset"]),
            r["model"],
            order[r["spec"]],
            r["score"],
            r["published_value"],
        ),
    )
    sources = cite(rows, lambda row: {"reported": row["lines"]})
    columns = [
        column("dataset", "data", numeric=False), column("model", "model", numeric=False), column("spec", "method", numeric=False),
        Column("score", "score", lambda r: SCORES[r["score"]].label, numeric=False),
        column("reported", "published"), Column("value", "ours", ours), column("n", "n", "d"),
        column("verdict", "verdict", numeric=False), column("command", "command", numeric=False),
    ]  # fmt: skip
    raw = ("dataset", "model", "spec", "score", "published_value", "second_hand", "published_source", "published_note", "binarizer", "sweep",
           "value", "half", "n", "epochs", "difference", "kind", "verdict", "command")  # fmt: skip
    legend = published.legend(row["reported"] for row in rows)
    ids = sorted({run_id for row in rows for run_id in row["run_ids"]})
    return Table(title, columns, rows, legend, ids, sources=sources, raw=raw)


def _flat(tables: list[Table]) -> Table:
    """All rows in one table, for the CSV."""
    rows = [row | {"table": table.title} for table in tables for row in table.rows]
    return Table("", [], rows, raw=("table", *(tables[0].raw if tables else ())))


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{n} {what}" for what, n in sorted(counts.items())) or "none"


def _page(tables: list[Table], left: Counter[str]) -> str:
    counts = Counter(row["kind"] for table in tables for row in table.rows)
    head = f"# Published and ours\n\n{_NOTE}\n\nCells: {_said(counts)}. Lines of the ledger in no table: {_said(left)}.\n"
    return "\n".join([head, *map(write.markdown, tables)])
