"""The table of all runs; its first column opens a run's own view."""

from typing import Any

from tbn_bench.reporting import style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Column, Table, column
from tbn_bench.scores import shown


def table(records: Records) -> Table:
    known = records.runs.notna()
    plain = records.runs.astype(object).where(known, None)
    names = style.labels(records.runs["binarizer"])

    def result(row: dict[str, Any]) -> str:
        return shown(row) if row["status"] == "finished" else style.DASH

    def method(row: dict[str, Any]) -> str:
        return names[row["binarizer"]]

    columns = [
        column("run_id", "run", numeric=False),
        Column("status", "status", _status, numeric=False),
        Column("result", "test score", result, numeric=False),
        column("data", "data", numeric=False),
        column("model", "model", numeric=False),
        Column("binarizer", "method", method, numeric=False),
        column("seed", "seed", "d"),
        column("epochs", "epochs", "d"),
        column("sweep", "sweep", numeric=False),
    ]
    return Table("Runs", columns, plain.to_dict("records"))


def _status(row: dict[str, Any]) -> str:
    if row["dirty"]:
        return f"{row['status']}, changed files"
    return str(row["status"])
