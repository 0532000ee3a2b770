"""report --paper: every published number that we can run, compared with our runs.

Each cell has one target, a verdict and the command that fills it. Writes a page, its tables as
Markdown, and the numbers as CSV.
"""

from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

from tbn_bench.records.files import RecordError, replace
from tbn_bench.records.text import tell
from tbn_bench.reporting import groups, published, write
from tbn_bench.reporting.commands import settings_of
from tbn_bench.reporting.load import Records, load
from tbn_bench.reporting.reproduction import cells, page, recipe, sizes, tables, teaser
from tbn_bench.reporting.reproduction.cells import Found
from tbn_bench.reporting.reproduction.matrix import matrices
from tbn_bench.reporting.reproduction.tables import Tables


def of_folder(results: Path, out: Path, repository: Path = Path()) -> dict[str, Any]:
    """Writes out/paper.html, paper.md and paper.csv, and prints the number of cells per kind.

    repository: has sweeps/ and recipes/, from which the commands are taken. Raises ValueError if
    there are no records.
    """
    ledger_folder = published.home(results)
    records = load(results, ledger_folder)
    found = cells_of(records, repository)
    ledger = records.published.to_dict("records")
    planned = sizes.read(ledger_folder)
    checks = sizes.checks(ledger, planned)
    built = tables.tables(found, checks, planned, recipe.recipes(records))
    points = teaser.points(found, groups.groups(records), planned)
    command = f"tbn-bench report --paper --results {results} --out {out}"
    texts = {
        "paper.html": page.page(found, matrices(found, checks), points, built, command),
        "paper.md": _markdown(found, built),
        "paper.csv": write.comma_separated(tables.flat(built.tables)),
    }
    _write(texts, out)

    counts = found.kinds
    every = chain.from_iterable(checks.values())
    verified = [check.is_verified for check in every]
    tell(f"{len(found.cells)} published cells: {_said(counts)}; {_said(found.left)}")
    tell(f"{len(verified)} published sizes: {sum(verified)} verified by a plan")
    tell(f"paper: {out / 'paper.html'}")
    return {
        "paper": str(out / "paper.html"),
        "cells": len(found.cells),
        **counts,
        "sizes": len(verified),
        "sizes_verified": sum(verified),
    }


def cells_of(records: Records, repository: Path = Path()) -> Found:
    """The cells of the paper's tables, with our runs."""
    ledger = records.published.to_dict("records")
    return cells.find(ledger, groups.groups(records), settings_of(repository))


def _write(texts: dict[str, str], out: Path) -> None:
    """Writes each file, whole or not at all."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            replace(out / name, text.encode())
    except OSError as error:
        raise RecordError(
            f"cannot write to {out}: {error.strerror}; choose another folder with --out"
        ) from error


def _markdown(found: Found, built: Tables) -> str:
    rules = "\n\n".join((published.RULE, page.TOLERANCE, sizes.RULE))
    head = (
        f"# The paper's tables and ours\n\n{rules}\n\n"
        f"Cells: {_said(found.kinds)}. Lines of the ledger in no table: {_said(found.left)}.\n"
    )
    parts = [head]
    for table in built.tables:
        parts.append(write.markdown(table))
    parts.append(_sources(built.sources))
    return "\n".join(parts)


def _sources(sources: list[str]) -> str:
    lines = ["### Sources", ""]
    for number, source in enumerate(sources, 1):
        lines.append(f"{number}. {source}")
    return "\n".join(lines) + "\n"


def _said(counts: Counter[str]) -> str:
    said = []
    for what, n in sorted(counts.items()):
        said.append(f"{n} {what}")
    return ", ".join(said) or "none"
