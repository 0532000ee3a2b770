"""How near each native timing is to what its machine could do, and what keeps it away."""

from typing import Any

import pandas as pd

from tbn_bench.reporting import ceilings, names, style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Row, Table, column, method_column, text_column
from tbn_bench.reporting.tables.comparison import EXACT

_SHORT_MS = 0.04  # a call of 40 microseconds: its fixed part is no small one
_HALF = 0.5
_BOUNDS = {
    "multiply-adds": ceilings.arithmetic_ms,
    "reading weights": ceilings.reading_ms,
}
_RAW = (
    "device",
    "case",
    "data",
    "model",
    "batch",
    "binarizer",
    "implementation",
    "time_ms_p50",
    "bound_ms",
    "bound",
    "share",
    "why",
)
_NOTE = (
    "The bound is the larger of two times: the distinct multiply-adds at the measured rate of "
    "table lookup (of the matrix unit where there is one, of multiply-adds for dense weights), and "
    "the bytes of weights at the measured reading rate. Both rates are of the same record. The "
    "bound leaves out building tables, writing the p copies and what is dense: on ResNet-18 with "
    "p = 8 and batch 64, tables took 28 % and copies 10 % of the native time (perf, EPYC, Zen 5)."
)


def limits(records: Records) -> Table | None:
    """A row per native float32 timing with warm caches on one thread; None if there is none.

    The lower bound of a row is known only where its record has the ceilings of its machine.
    """
    rows = _rows(records.latency)
    if not rows:
        return None
    columns = [
        text_column("device", "device"),
        text_column("model", "layer or network"),
        column("batch", "batch", "d"),
        method_column(row["binarizer"] for row in rows),
        column("time_ms_p50", "ms", ".3g"),
        column("bound_ms", "bound, ms", ".3g"),
        text_column("bound", "bound by"),
        column("share", "share of the bound, %", ".0f"),
        text_column("why", "if under half: likely why"),
    ]
    ids = {row["run_id"] for row in rows if row["run_id"]}
    commands = {row["command"] for row in rows if row["command"]}
    return Table(
        "Limits: the share of its bound that each native timing reaches",
        columns,
        rows,
        _NOTE,
        sorted(ids),
        sorted(commands),
        raw=_RAW,
    )


def _rows(latency: pd.DataFrame) -> list[Row]:
    timed = _timed(latency)
    methods = style.methods(timed["binarizer"])
    rows = []
    for row in timed.to_dict("records"):
        bounds = {name: bound(row) for name, bound in _BOUNDS.items()}
        known = {name: ms for name, ms in bounds.items() if ms is not None}
        if len(known) == len(_BOUNDS):
            rows.append(_row(row, known))

    def place(row: Row) -> tuple[str, str, int]:
        return row["device"], row["case"], methods.index(row["binarizer"])

    return sorted(rows, key=place)


def _timed(latency: pd.DataFrame) -> pd.DataFrame:
    """The native rows in float32, with warm caches, on one thread."""
    native = latency["implementation"].astype(str).str.fullmatch(r"native \w+")
    is_timed = latency["unavailable"].isna() & latency["time_ms_p50"].notna()
    is_exact = latency["tolerance"].astype(float) <= EXACT
    is_hot = (latency["cache"] == "hot") & (latency["threads"] == 1)
    at_best_level = ~latency["case"].astype(str).str.endswith("-avx2")
    return latency[native & is_timed & is_exact & is_hot & at_best_level]


def _row(row: dict[str, Any], bounds: dict[str, float]) -> Row:
    slowest = max(bounds, key=lambda name: bounds[name])
    share = bounds[slowest] / row["time_ms_p50"]
    found = {key: None if style.missing(row.get(key)) else row[key] for key in _RAW}
    network = names.network(row["model"]) if row["model"] else style.DASH
    return found | {
        "model": network,
        "batch": style.whole(row["batch"]),
        "bound_ms": bounds[slowest],
        "bound": slowest,
        "share": 100 * share,
        "why": "" if share >= _HALF else _why(row),
        "run_id": _text(row["run_id"]),
        "command": _text(row["command"]),
    }


def _text(value: Any) -> str | None:
    return None if style.missing(value) else str(value)


def _why(row: dict[str, Any]) -> str:
    """What the bound leaves out and probably matters most here."""
    if row["binarizer"] == "full_precision":
        return "loads beside multiply-adds; laying out and writing maps"
    if row["time_ms_p50"] < _SHORT_MS:
        return "short call: what it costs by itself"
    if not style.missing(row["data"]):
        return "tables, copies, and dense first and last layers"
    if row["case"].startswith("op-conv"):
        return "converting the layout of input and output, tables, copies"
    return "tables and copies"
