"""Runs without a result: the reason, and the command that completes each."""

from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Table, column, method_column, text_column


def not_finished(records: Records) -> Table | None:
    """A row per run that has not finished; None if all have."""
    found = records.runs[records.runs["status"] != "finished"]
    if found.empty:
        return None
    rows = found.astype(object).where(found.notna(), None).to_dict("records")
    columns = [
        text_column("run_id", "run"),
        text_column("status", "status"),
        text_column("model", "model"),
        method_column(records.runs["binarizer"]),
        column("seed", "seed", "d"),
        text_column("error", "error"),
        text_column("command", "command"),
    ]

    return Table(
        "Not finished",
        columns,
        rows,
        "Each command starts or resumes its run.",
        [row["run_id"] for row in rows],
    )
