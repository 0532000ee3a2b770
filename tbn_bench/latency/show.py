"""A latency record as a table on the terminal."""

import sys
from typing import Any

from tbn_bench.latency.timing import PEERS
from tbn_bench.records.store import LatencyRecord
from tbn_bench.records.text import tell

_COLUMNS = {"ratio": "x eager", "ratio_compiled": "x compil", "ratio_ort_int8": "x int8"}


def show(record: LatencyRecord) -> None:
    """The record as a table on the terminal."""
    tell("")
    for line in lines(record):
        tell(line)
    sys.stdout.flush()


def lines(record: LatencyRecord) -> list[str]:
    """The record as a table: a line per implementation, with why a column of ratios is empty."""
    info = record.case_info
    cache = info.get("cache", "hot")
    found = [f"{record.case}  ({info['clock']}, {info['threads']} thread(s), {cache})"]
    if info.get("ceilings"):
        found.append(_said(info["ceilings"]))
    found.append(
        f"{'method [implementation]':<66}{'p50 ms':>9}{'p20':>9}{'p80':>9}{'n':>4}"
        f"{'x eager':>9}{'x compil':>9}{'x int8':>9}{'weights':>14}{'error':>9}{'x FMA':>7}"
    )
    found += [_line(row) for row in record.rows]
    found += missing_ratios(record.rows)
    return found


def _line(row: dict[str, Any]) -> str:
    """A row of the table: its numbers, or why there are none."""
    name = f"{row['binarizer']} [{row['implementation']}]"
    cells = f"  {row['unavailable']}"
    if not row["unavailable"]:
        cells = _cells(row)
    return f"{name:<66}{cells}"


def missing_ratios(rows: list[dict[str, Any]]) -> list[str]:
    """Why a column of ratios is empty, one line each."""
    lines = []
    for key, title in _COLUMNS.items():
        timed = [row for row in rows if row["unavailable"] is None]
        if not timed or any(row.get(key) is not None for row in timed):
            continue
        peer = PEERS[key]
        reasons = [row["unavailable"] for row in rows if _is_peer(row, peer)]
        why = reasons[0] if reasons else "it was not timed here"
        if not any(row["binarizer"] == "full_precision" for row in rows):
            why = "no full-precision network was timed; add one, for example its run to the sweep"
        lines.append(f"no {title}: it needs full_precision [{peer}]: {why}")
    return lines


def _is_peer(row: dict[str, Any], peer: str) -> bool:
    return bool(row["binarizer"] == "full_precision" and row["implementation"] == peer)


def _said(peaks: dict[str, Any]) -> str:
    """The ceilings as a line."""
    names = {
        "lookup_gmacs": "lookup",
        "matrix_gmacs": "matrix unit in float32",
        "matrix_a14_gmacs": "in 14 bits",
    }
    others = [f", {name} {peaks[key]:.0f}" for key, name in names.items() if peaks.get(key)]
    reads = [f"{rate} GB/s from {size}" for size, rate in peaks["read_gb_s"].items()]
    return (
        f"this machine, one thread: {peaks['fma_gmacs']:.0f} GMAC/s by FMA{''.join(others)}; "
        f"reads {', '.join(reads)}; native level {peaks['level']}"
    )


def _cells(row: dict[str, Any]) -> str:
    """A measured row, under the head that show prints."""
    times = (row["time_ms_p50"], row["time_ms_p20"], row["time_ms_p80"])
    ratios = (row["ratio"], row.get("ratio_compiled"), row.get("ratio_ort_int8"))
    of_peak = row.get("of_fma_peak")
    cells = [f"{time:>9.3f}" for time in times]
    cells.append(f"{row['n']:>4}")
    cells += [f"{_ratio(value):>9}" for value in ratios]
    cells.append(f"{row['weight_bytes']:>12,} B{row['relative_error']:>9.1e}")
    if of_peak:
        cells.append(f"{of_peak:>7.2f}")
    return "".join(cells)


def _ratio(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}"
