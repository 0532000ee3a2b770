"""Lower bounds of a timing, from the peaks of one core that its own record has measured."""

from typing import Any

from tbn_bench.reporting import style

Row = dict[str, Any]


def arithmetic_ms(row: Row) -> float | None:
    """The distinct multiply-adds at the rate of the matrix unit, or else of table lookup.

    Dense float32 weights have the rate of multiply-adds. None where the record lacks a number.
    """
    peaks = _peaks(row)
    peak = peaks.get("matrix_gmacs") or peaks.get("lookup_gmacs")
    if row["binarizer"] == "full_precision":
        peak = peaks.get("fma_gmacs")
    if not peak or _lacks(row, "tile_macs", "batch", "threads"):
        return None
    macs: float = row["tile_macs"] * row["batch"]  # tile_macs are of one sample
    return macs / row["threads"] / peak / 1e6


def reading_ms(row: Row) -> float | None:
    """The bytes of weights at the measured rate: of the next larger block, or of the largest."""
    rates = {}
    for block, rate in (_peaks(row).get("read_gb_s") or {}).items():
        rates[float(block.removesuffix(" MB"))] = rate
    if not rates or _lacks(row, "weight_bytes", "threads"):
        return None
    weight_bytes: float = row["weight_bytes"]
    larger = [mb for mb in rates if mb * 1e6 >= weight_bytes]
    rate = rates[min(larger, default=max(rates))]
    return weight_bytes / row["threads"] / rate / 1e6


def _peaks(row: Row) -> dict[str, Any]:
    peaks = row["ceilings"]
    return peaks if isinstance(peaks, dict) else {}


def _lacks(row: Row, *keys: str) -> bool:
    return any(style.missing(row[key]) for key in keys)
