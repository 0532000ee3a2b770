"""Every timed implementation with its peers, spread, n, parity error and weight bytes; a missing peer says why."""

from tbn_bench.reporting import style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.write import Column, Table, column


def latency(records: Records) -> Table | None:
    timed = records.latency
    if timed.empty:
        return None
    timed = timed.astype(object).where(timed.notna(), None)
    rows = timed.to_dict("records")
    for row in rows:
        for key in ("batch", "threads", "n", "weight_bytes"):
            row[key] = None if row[key] is None else int(row[key])
    names = style.labels(timed["binarizer"])
    columns = [
        column("device", "device", numeric=False), Column("case", "case", lambda r: r["case"].rpartition("-b")[0] + (", cold" if r["case"].endswith("-cold") else ""), numeric=False),
        column("batch", "batch", "d"), column("threads", "threads", "d"),
        Column("binarizer", "method", lambda r: names[r["binarizer"]], numeric=False),
        Column("implementation", "implementation", lambda r: r["implementation"] + (f": {r['unavailable']}" if r["unavailable"] else ""), numeric=False),
        column("time_ms_p50", "ms p50", ".3f"), column("time_ms_p20", "p20", ".3f"), column("time_ms_p80", "p80", ".3f"),
        column("n", "n", "d"), column("ratio", "× dense", ".2f"), column("ratio_compiled", "× compiled", ".2f"),
        column("ratio_ort_int8", "× ORT int8", ".2f"), column("relative_error", "error", ".1e"),
        column("weight_bytes", "weight bytes read", ",d"), column("run_id", "run", numeric=False),
    ]  # fmt: skip
    ids = sorted({r["run_id"] for r in rows if r["run_id"]})
    note = "Interleaved in one process, each gated against its float64 reference first; ratios: median over rounds, above 1 is faster. Cold: caches flushed before each call."
    return Table("Latency", columns, rows, note, ids, sorted({r["command"] for r in rows}))
