"""The table of all runs; its first column opens a run's own view."""

from typing import Any

from tbn_bench.reporting import names, style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Column, Table, column
from tbn_bench.scores import shown


def table(records: Records) -> Table:
    known = records.runs.notna()
    plain = records.runs.astype(object).where(known, None)

    def result(row: dict[str, Any]) -> str:
        return shown(row) if row["status"] == "finished" else style.DASH

    def method(row: dict[str, Any]) -> str:
        return names.method(row["binarizer"])

    def data(row: dict[str, Any]) -> str:
        return names.data_set(row["data"])

    def network(row: dict[str, Any]) -> str:
        return names.network(row["model"])

    columns = [
        column("run_id", "run", numeric=False),
        Column("status", "status", _status, numeric=False),
        Column("result", "test score", result, numeric=False),
        Column("data", "data", data, numeric=False),
        Column("model", "network", network, numeric=False),
        Column("binarizer", "method", method, numeric=False),
        column("seed", "seed", "d"),
        column("epochs", "epochs", "d"),
        column("sweep", "sweep", numeric=False),
    ]
    return Table("Runs", columns, plain.to_dict("records"))


def _status(row: dict[str, Any]) -> str:
    said = [str(row["status"])]
    if row["dirty"]:
        said.append("changed files")
    if row["stale"]:
        said.append(f"code has changed since: {row['stale']}")
    return ", ".join(said)
