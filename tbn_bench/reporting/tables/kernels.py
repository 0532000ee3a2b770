"""Latency and memory of kernels and networks: the fastest exact implementation of each method.

latency.py lists all implementations.
"""

import pandas as pd

from tbn_bench.reporting import names, style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Column, Row, Table, column, method_column, text_column
from tbn_bench.reporting.tables.comparison import EXACT

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
    "The fastest float32 implementation of each method that passed its parity check, timed in turn "
    "with the others. × eager FP32: median of the ratios to full precision in eager torch; above 1 "
    "is faster. The comparison has × fastest FP32 instead. Process peak: growth of a fresh process "
    "on a CPU that loads and runs the packed network."
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
        column("ratio", "× eager FP32", ".2f"),
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


def _rows(latency: pd.DataFrame) -> list[Row]:
    timed = _comparable(latency)
    methods = style.methods(timed["binarizer"])
    rows = []
    for _, same in timed.groupby(["device", "case", "binarizer"], sort=True):
        fastest = same["time_ms_p50"].astype(float).idxmin()
        row = same.loc[fastest].to_dict()
        rows.append(_plain(row))

    def place(row: Row) -> tuple[str, str, int]:
        method = methods.index(row["binarizer"])
        return row["device"], row["case"], method

    return sorted(rows, key=place)


def _comparable(latency: pd.DataFrame) -> pd.DataFrame:
    """Exact inference with warm caches, on one thread or a GPU."""
    case = latency["case"].astype(str)
    tolerance = latency["tolerance"].astype(float)
    return latency[
        (latency["cache"].isna() | (latency["cache"] == "hot"))
        & (latency["threads"] == 1)
        & ~case.str.startswith("training_step")
        & ~(tolerance > EXACT)
        & latency["unavailable"].isna()
        & latency["time_ms_p50"].notna()
    ]


def _plain(row: Row) -> Row:
    """The row with Python's own numbers, None if unknown, and with timm's names added."""
    plain = {}
    for key, value in row.items():
        plain[key] = None if style.missing(value) else value
    for key in ("batch", "n", "weight_bytes"):
        plain[key] = style.whole(plain[key])
    batch = plain["batch"]
    time_ms = plain["time_ms_p50"]
    plain["infer_step_time"] = time_ms
    per_s = None if batch is None else round(1000 * batch / time_ms, 2)
    plain["infer_samples_per_sec"] = per_s
    plain["infer_batch_size"] = batch
    peak_bytes = plain.get("memory_peak")
    plain["process_peak_mib"] = None if peak_bytes is None else peak_bytes / 2**20
    return plain


def _network(row: Row) -> str:
    """With its data, and with the instruction set if the case is limited to one."""
    name = names.network(row["model"]) if row["model"] else style.DASH
    if row["data"]:
        name += f" on {names.data_set(row['data'])}"
    if row["case"].endswith("-avx2"):
        name += ", avx2"
    return name


def _time(row: Row) -> str:
    low = _milliseconds(row["time_ms_p20"])
    high = _milliseconds(row["time_ms_p80"])
    return f"{_milliseconds(row['time_ms_p50'])} ({low} to {high})"


def _milliseconds(value: float | None) -> str:
    return style.DASH if value is None else f"{value:.3f}"
