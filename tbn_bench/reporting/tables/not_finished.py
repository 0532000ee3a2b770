"""Runs without a result: why, and the command that fills the gap."""

from tbn_bench.reporting import style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.write import Column, Table, column


def not_finished(records: Records) -> Table | None:
    rows = records.runs[records.runs["status"] != "finished"]
    if rows.empty:
        return None
    rows = rows.astype(object).where(rows.notna(), None).to_dict("records")
    names = style.labels(records.runs["binarizer"])
    columns = [
        column("run_id", "run", numeric=False), column("status", "status", numeric=False), column("model", "model", numeric=False),
        Column("binarizer", "method", lambda r: names[r["binarizer"]], numeric=False), column("seed", "seed", "d"),
        column("error", "error", numeric=False), column("command", "command", numeric=False),
    ]  # fmt: skip
    return Table(
        "Not finished",
        columns,
        rows,
        "Each command starts the run again, or continues it.",
        [r["run_id"] for r in rows],
    )
