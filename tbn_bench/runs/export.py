"""tbn-bench runs export: every run as a row of one CSV, whole or not at all."""

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tbn_bench.atomic import replace_file
from tbn_bench.records.files import RecordError
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell
from tbn_bench.runs import index
from tbn_bench.runs.filters import chosen
from tbn_bench.runs.index import Row
from tbn_bench.runs.text import csv_cell


def table(rows: list[Row]) -> str:
    """CSV with a head: identity, config, scores, cost, provenance, then the rest of summaries.

    A cell is empty where its value is unknown. Cells as by text.csv_cell.
    """
    out = io.StringIO()
    names = index.columns(rows)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(csv_cell, names))
    for row in rows:
        values = [row.get(name, "") for name in names]
        writer.writerow(map(csv_cell, values))
    return out.getvalue()


def write(path: Path, content: str) -> None:
    """By a temporary file and a rename. Raises RecordError where that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content.encode())
    except OSError as error:
        raise RecordError(
            f"cannot write {path}: {error.strerror}; give another file with --out"
        ) from error


def run(store: RunStore, filters: Sequence[str], out: Path) -> dict[str, Any]:
    """Writes the runs that satisfy every filter to the file `out`."""
    problems: list[str] = []
    found = chosen(index.rows(store, problems), filters)
    write(out, table(found))
    tell(f"{len(found)} runs in {out}")
    for problem in problems:
        tell(f"unreadable: {problem}", file=sys.stderr)
    return {"runs": len(found), "unreadable": len(problems), "file": str(out)}
