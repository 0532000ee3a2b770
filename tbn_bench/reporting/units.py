"""Names and units of the columns of CSV files: one unit per column, stated in its name.

A row keeps a score as its task computes it (an accuracy as a fraction). The CSV has percent.
"""

from dataclasses import dataclass
from typing import Any

from tbn_bench.reporting.style import missing
from tbn_bench.reporting.table import Row, Table
from tbn_bench.scores import FIRST, SCORES

# Keys of values whose unit depends on the row's score -> the unit of an accuracy.
_BY_SCORE = {
    "value": "percent",
    "half": "points",
    "difference": "points",
    "difference_half": "points",
    "reported_value": "percent",
}
# key -> (name, factor)
_RENAMED = {
    "top1_c": ("top1_c_percent", 100),
    "top1_torch": ("top1_torch_percent", 100),
    "agreement": ("agreement_percent", 100),
    "iqm": ("iqm_percent", 100),
    "mean": ("mean_percent", 100),
    "ratio": ("times_dense", 1),
    "ratio_compiled": ("times_compiled", 1),
    "ratio_ort_int8": ("times_ort_int8", 1),
    "mbit": ("stored_mbit", 1),
    "memory_peak": ("memory_peak_bytes", 1),
    "infer_step_time": ("infer_step_time_ms", 1),
    "reported_bits_per_weight_value": ("reported_bits_per_weight", 1),
    "reported_kB_value": ("reported_stored_kb", 1),
    "reported_ms_value": ("reported_time_ms", 1),
    "gpu_peak_MiB_value": ("reported_gpu_peak_mib", 1),
    "gpu_resting_MiB_value": ("reported_gpu_resting_mib", 1),
    "gpu_peak_MiB_source": ("reported_gpu_peak_source", 1),
    "gpu_resting_MiB_source": ("reported_gpu_resting_source", 1),
    "ours": ("gpu_peak_mib", 1),
    "ours_resting": ("gpu_resting_mib", 1),
}


@dataclass(frozen=True)
class Named:
    """A column of a CSV file. key: of the rows. factor: from the row's number to the file's."""

    key: str
    name: str
    factor: float = 1
    scores: frozenset[str] = frozenset()

    def value(self, row: Row) -> Any:
        """The value of a row, None where the row's score has another unit."""
        value = row.get(self.key)
        if self.scores and row.get("score", FIRST) not in self.scores:
            return None
        if self.factor == 1 or value is None or missing(value):
            return value
        return round(self.factor * value, 6)


def named(table: Table) -> list[Named]:
    """The columns of a table's CSV, in the order of its keys."""
    found = []
    for key in table.raw or [c.key for c in table.columns]:
        found += _named(key, table.rows)
    return found


def _named(key: str, rows: list[Row]) -> list[Named]:
    if key in _BY_SCORE:
        return _by_score(key, rows)
    if key in _RENAMED:
        name, factor = _RENAMED[key]
        return [Named(key, name, factor)]
    score = key.removesuffix("_half")
    if score in SCORES and SCORES[score].factor == 100:
        unit = "points" if key.endswith("_half") else "percent"
        return [Named(key, f"{key}_{unit}", 100)]
    return [Named(key, key)]


def _by_score(key: str, rows: list[Row]) -> list[Named]:
    """A column for each unit that the scores of the rows have."""
    used = {row.get("score", FIRST) for row in rows}
    accuracies = frozenset(score for score in SCORES if SCORES[score].factor == 100)
    errors = frozenset(SCORES) - accuracies
    stem = key.removesuffix("_value")
    found = []
    if used & accuracies or not used:
        found.append(Named(key, f"{stem}_{_BY_SCORE[key]}", 100, accuracies))
    if used & errors:
        found.append(Named(key, f"{stem}_error", 1, errors))
    return found
