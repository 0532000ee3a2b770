"""Every timed implementation with its peers, spread, n, parity error and weight bytes.

A missing peer says why it is missing.
"""

from tbn_bench.reporting import style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Column, Row, Table, column, method_column, text_column

_NOTE = (
    "All implementations of a case are timed in turn, in one process, after each has matched its "
    "float64 reference. Ratios are medians over rounds; above 1 is faster. × eager FP32: compared "
    "with full precision in eager torch. Cold: caches are "
    "flushed before each call."
)


def latency(records: Records) -> Table | None:
    """A row per timed implementation; None if nothing was timed."""
    timed = records.latency
    if timed.empty:
        return None
    rows = timed.astype(object).where(timed.notna(), None).to_dict("records")
    for row in rows:
        for key in ("batch", "threads", "n", "weight_bytes"):
            row[key] = style.whole(row[key])

    columns = [
        text_column("device", "device"),
        Column("case", "case", _case, numeric=False),
        column("batch", "batch", "d"),
        column("threads", "threads", "d"),
        method_column(timed["binarizer"]),
        Column("implementation", "implementation", _implementation, numeric=False),
        column("time_ms_p50", "ms p50", ".3f"),
        column("time_ms_p20", "p20", ".3f"),
        column("time_ms_p80", "p80", ".3f"),
        column("n", "n", "d"),
        column("ratio", "× eager FP32", ".2f"),
        column("ratio_compiled", "× compiled", ".2f"),
        column("ratio_ort_int8", "× ORT int8", ".2f"),
        column("relative_error", "error", ".1e"),
        column("weight_bytes", "weight bytes read", ",d"),
        text_column("run_id", "run"),
    ]
    ids = {row["run_id"] for row in rows if row["run_id"]}
    commands = {row["command"] for row in rows if row["command"]}
    return Table("Latency", columns, rows, _NOTE, sorted(ids), sorted(commands))


def _case(row: Row) -> str:
    """Without its batch, which has a column."""
    case = row["case"]
    name, _, _ = case.rpartition("-b")
    if case.endswith("-cold"):
        return f"{name}, cold"
    return name


def _implementation(row: Row) -> str:
    name = row["implementation"]
    reason = row["unavailable"]
    if reason:
        return f"{name}: {reason}"
    return name
