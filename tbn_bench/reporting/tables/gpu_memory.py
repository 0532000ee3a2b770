"""GPU memory at inference, batch 1, from the author's figures and traces, and our measurements.

kernels.py has our times and bytes.
"""

import pandas as pd

from tbn_bench.reporting import published, style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.published import Line
from tbn_bench.reporting.table import Row, Table, column, method_column, text_column
from tbn_bench.reporting.tables._cited import cite

_PEAK = "gpu_peak_MiB"
_RESTING = "gpu_resting_MiB"
_MIB = 2**20  # bytes

_Key = tuple[str, str, str]
_RAW = (
    "data",
    "model",
    "binarizer",
    f"{_PEAK}_value",
    f"{_PEAK}_source",
    f"{_RESTING}_value",
    f"{_RESTING}_source",
    "ours",
    "ours_resting",
    "implementation",
)


def gpu_memory(records: Records) -> Table | None:
    """A row per data set, model and method, published or measured; None if there is neither."""
    lines = _lines(records.published)
    measured = _measured(records.latency)
    keys = {*lines, *measured}
    if not keys:
        return None
    methods = style.methods(spec for _, _, spec in keys)

    def place(key: _Key) -> tuple[str, str, int]:
        data, model, spec = key
        return data, model, methods.index(spec)

    rows = []
    for key in sorted(keys, key=place):
        data, model, spec = key
        row = {
            "data": data,
            "model": model,
            "binarizer": spec,
            "lines": lines.get(key, {}),
            "ours": None,
        }
        rows.append(row | measured.get(key, {}))
    sources = cite(rows, lambda row: row["lines"])

    columns = [
        text_column("data", "data"),
        text_column("model", "model"),
        method_column(methods),
        column(_PEAK, "peak MiB, reported"),
        column(_RESTING, "resting MiB, reported"),
        column("ours", "peak MiB, ours", ".2f"),
        column("ours_resting", "resting MiB, ours", ".2f"),
        text_column("implementation", "implementation, ours"),
    ]
    note = _note(rows, bool(measured))
    return Table("GPU memory, published and ours", columns, rows, note, sources=sources, raw=_RAW)


def _lines(ledger: pd.DataFrame) -> dict[_Key, dict[str, list[Line]]]:
    """(data, model, method) -> metric -> the published lines."""
    found: dict[_Key, dict[str, list[Line]]] = {}
    for line in ledger.to_dict("records"):
        metric = line["metric"]
        if metric in (_PEAK, _RESTING) and line["spec"]:
            key = (line["dataset"], line["model"], line["spec"])
            cells = found.setdefault(key, {})
            cells.setdefault(metric, []).append(line)
    return found


def _measured(latency: pd.DataFrame) -> dict[_Key, Row]:
    """(data, model, method) -> our memory in MiB, of the implementation that needs least."""
    found = {}
    measured = latency[latency["gpu_peak_bytes"].notna()]
    for key, same in measured.groupby(["data", "model", "binarizer"]):
        least = same.sort_values(["gpu_peak_bytes", "implementation"]).iloc[0]
        resting = least["gpu_resting_bytes"]
        found[key] = {
            "ours": least["gpu_peak_bytes"] / _MIB,
            "implementation": least["implementation"].split(",")[0],
            "ours_resting": None if style.missing(resting) else resting / _MIB,
        }
    return found


def _note(rows: list[Row], measured: bool) -> str:
    cells = []
    for row in rows:
        cells += [row.get(_PEAK), row.get(_RESTING)]
    not_run = "" if measured else "Ours was not run. "
    note = (
        "Allocated GPU memory of one forward pass of a single input. The author's tiled kernels "
        "keep a tile of full-precision values, one per distinct weight; our Triton kernels keep "
        f"bits. {not_run}{published.legend(cells)}"
    )
    return note.strip()
