"""Latency and memory of kernels and networks: the fastest exact implementation of each method; latency.py lists all of them."""

from typing import Any

import pandas as pd

from tbn_bench.reporting import style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.tables.comparison import EXACT
from tbn_bench.reporting.write import Column, Table, column

# timm's names and units (its benchmark's CSVs), then ours
_RAW = ("model", "infer_samples_per_sec", "infer_step_time", "infer_batch_size", "device", "case", "data", "binarizer", "implementation",
        "run_id", "time_ms_p20", "time_ms_p50", "time_ms_p80", "n", "ratio", "relative_error", "weight_bytes", "memory_peak")  # fmt: skip


def kernels(records: Records) -> Table | None:
    """A row per device, case and method, on one thread or a GPU, caches hot. None where nothing was timed."""
    rows = _rows(records.latency)
    if not rows:
        return None
    names = style.labels(row["binarizer"] for row in rows)
    columns = [
        column("device", "device", numeric=False), Column("model", "layer or network", _what, numeric=False), column("batch", "batch", "d"),
        Column("binarizer", "method", lambda r: names[r["binarizer"]], numeric=False), column("implementation", "fastest", numeric=False),
        Column("time_ms_p50", "ms p50, (p20 to p80)", _time), column("n", "n", "d"), column("ratio", "× dense", ".2f"),
        column("weight_bytes", "weight bytes, read", ",d"), column("process_peak_mib", "process peak, MiB", ".2f"),
    ]  # fmt: skip
    note = (
        "The fastest implementation in float32 of each method, after its parity check, interleaved with the others; × dense: median of the "
        "ratios to full precision in eager torch, above 1 is faster. Process peak: what loading and running the packed network adds to a "
        "fresh process on a CPU."
    )
    ids = sorted({row["run_id"] for row in rows if row["run_id"]})
    commands = sorted({row["command"] for row in rows if row["command"]})
    return Table("Kernels: latency and memory", columns, rows, note, ids, commands, raw=_RAW)


def _rows(latency: pd.DataFrame) -> list[dict[str, Any]]:
    hot = latency["cache"].isna() | (latency["cache"] == "hot")
    single = (latency["threads"] == 1) & ~latency["case"].astype(str).str.startswith(
        "training_step"
    )
    exact = latency["unavailable"].isna() & ~(latency["tolerance"].astype(float) > EXACT)
    timed = latency[hot & single & exact & latency["time_ms_p50"].notna()]
    order = {spec: i for i, spec in enumerate(style.methods(timed["binarizer"]))}
    rows = []
    for _, same in timed.groupby(["device", "case", "binarizer"], sort=True):
        rows.append(_plain(same.loc[same["time_ms_p50"].astype(float).idxmin()].to_dict()))
    return sorted(rows, key=lambda row: (row["device"], row["case"], order[row["binarizer"]]))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    row = {key: None if style.missing(value) else value for key, value in row.items()}
    counts = {
        key: None if row[key] is None else int(row[key]) for key in ("batch", "n", "weight_bytes")
    }
    peak = row.get("memory_peak")
    timm = {
        "infer_step_time": row["time_ms_p50"],
        "infer_samples_per_sec": round(1000 * row["batch"] / row["time_ms_p50"], 2),
        "infer_batch_size": counts["batch"],
    }
    return row | counts | timm | {"process_peak_mib": None if peak is None else peak / 2**20}


def _what(row: dict[str, Any]) -> str:
    """With its data, and the instruction set where the case is held to one."""
    isa = ", avx2" if row["case"].endswith("-avx2") else ""
    data = f" on {row['data']}" if row["data"] else ""
    return f"{row['model']}{data}{isa}"


def _time(row: dict[str, Any]) -> str:
    return f"{row['time_ms_p50']:.3f} ({row['time_ms_p20']:.3f} to {row['time_ms_p80']:.3f})"
