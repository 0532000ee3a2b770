"""Latency and memory of kernels and networks: the fastest exact implementation of each method.

latency.py lists all implementations.
"""

from typing import Any

import pandas as pd

from tbn_bench.reporting import style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.tables.comparison import EXACT
from tbn_bench.reporting.write import Column, Table, column, method_column, text_column

# timm's names and units (its benchmark's CSVs), then ours
_RAW = (
    "model",
    "infer_samples_per_sec",
    "infer_step_time",
    "infer_batch_size",
    "device",
    "case",
    "data",
    "binarizer",
    "implementation",
    "run_id",
    "time_ms_p20",
    "time_ms_p50",
    "time_ms_p80",
    "n",
    "ratio",
    "relative_error",
    "weight_bytes",
    "memory_peak",
)
_NOTE = (
    "The fastest implementation in float32 of each method, after its parity check, interleaved "
    "with the others; × dense: median of the ratios to full precision in eager torch, above 1 is "
    "faster. Process peak: what loading and running the packed network adds to a fresh process on "
    "a CPU."
)


def kernels(records: Records) -> Table | None:
    """A row per device, case and method, on one thread or a GPU, with warm caches.

    None if nothing was timed.
    """
    rows = _rows(records.latency)
    if not rows:
        return None
    columns = [
        text_column("device", "device"),
        Column("model", "layer or network", _network, numeric=False),
        column("batch", "batch", "d"),
        method_column(row["binarizer"] for row in rows),
        text_column("implementation", "fastest"),
        Column("time_ms_p50", "ms p50, (p20 to p80)", _time),
        column("n", "n", "d"),
        column("ratio", "× dense", ".2f"),
        column("weight_bytes", "weight bytes, read", ",d"),
        column("process_peak_mib", "process peak, MiB", ".2f"),
    ]
    ids = {row["run_id"] for row in rows if row["run_id"]}
    commands = {row["command"] for row in rows if row["command"]}
    return Table(
        "Kernels: latency and memory",
        columns,
        rows,
        _NOTE,
        sorted(ids),
        sorted(commands),
        raw=_RAW,
    )


def _rows(latency: pd.DataFrame) -> list[dict[str, Any]]:
    timed = _comparable(latency)
    methods = style.methods(timed["binarizer"])
    rows = []
    for _, same in timed.groupby(["device", "case", "binarizer"], sort=True):
        fastest = same["time_ms_p50"].astype(float).idxmin()
        rows.append(_plain(same.loc[fastest].to_dict()))

    def place(row: dict[str, Any]) -> tuple[str, str, int]:
        return row["device"], row["case"], methods.index(row["binarizer"])

    return sorted(rows, key=place)


def _comparable(latency: pd.DataFrame) -> pd.DataFrame:
    """Exact inference with warm caches, on one thread or a GPU."""
    warm = latency["cache"].isna() | (latency["cache"] == "hot")
    single = latency["threads"] == 1
    training = latency["case"].astype(str).str.startswith("training_step")
    lossy = latency["tolerance"].astype(float) > EXACT
    available = latency["unavailable"].isna() & latency["time_ms_p50"].notna()
    return latency[warm & single & ~training & ~lossy & available]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Python's numbers, None where unknown, and timm's names beside ours."""
    row = {key: None if style.missing(value) else value for key, value in row.items()}
    for key in ("batch", "n", "weight_bytes"):
        row[key] = style.whole(row[key])
    time_ms = row["time_ms_p50"]
    peak = row.get("memory_peak")
    return row | {
        "infer_step_time": time_ms,
        "infer_samples_per_sec": round(1000 * row["batch"] / time_ms, 2),
        "infer_batch_size": row["batch"],
        "process_peak_mib": None if peak is None else peak / 2**20,
    }


def _network(row: dict[str, Any]) -> str:
    """With its data, and with the instruction set if the case is limited to one."""
    isa = ", avx2" if row["case"].endswith("-avx2") else ""
    data = f" on {row['data']}" if row["data"] else ""
    return f"{row['model']}{data}{isa}"


def _time(row: dict[str, Any]) -> str:
    return f"{row['time_ms_p50']:.3f} ({row['time_ms_p20']:.3f} to {row['time_ms_p80']:.3f})"
