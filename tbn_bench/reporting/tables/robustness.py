"""Accuracy of stored networks under flipped bits, wrong scales and corrupted images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tbn_bench.records.robustness import RobustnessRecord
from tbn_bench.reporting import names, style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Column, Row, Table, column, run_ids, text_column
from tbn_bench.scores import FIRST, SCORES

NOTE = (
    "Top-1 of the packed network, by the native executor. Bits: each stored bit of the binary "
    "weights flips with this probability. Code: the same with a Hamming code, whose bits the "
    "second column of bits per weight counts. Weights: the sign of each weight flips, after the "
    "tile was laid out. Scales: each bit of the scales flips. Intervals are Student's 95 % over "
    "the draws. Noise, blur, contrast and JPEG: mean of five severities (docs/robustness.md)."
)


@dataclass(frozen=True)
class _Cell:
    """A column: of one fault at one rate, or of a corruption over its severities."""

    fault: str
    header: str
    rate: float | None = None
    code: str | None = None

    @property
    def key(self) -> str:
        """In the CSV: bits_0.001_percent."""
        parts = [self.fault]
        if self.code:
            parts.append(self.code)
        if self.rate is not None:
            parts.append(f"{self.rate:g}")
        return "_".join([*parts, "percent"])

    @property
    def half(self) -> str:
        return self.key.removesuffix("percent") + "points"


_CELLS = (
    _Cell("bits", "bits 1e-4", 1e-4),
    _Cell("bits", "bits 1e-3", 1e-3),
    _Cell("bits", "bits 1e-2", 1e-2),
    _Cell("bits", "bits 1e-2, code", 1e-2, "hamming"),
    _Cell("weights", "weights 1e-2", 1e-2),
    _Cell("scales", "scales 1e-4", 1e-4),
    _Cell("gaussian_noise", "noise"),
    _Cell("gaussian_blur", "blur"),
    _Cell("contrast", "contrast"),
    _Cell("jpeg", "JPEG"),
)
_RAW = (
    "data",
    "model",
    "binarizer",
    "seed",
    FIRST,
    "bits_per_weight",
    "code_bits_per_weight",
    *(key for cell in _CELLS for key in (cell.key, cell.half)),
    "draws",
    "samples",
    "sweep",
    "run_id",
)


def robustness(records: Records) -> Table | None:
    """A row per measured run, a part per data set and network; None without records."""
    by_network: dict[tuple[str, str], list[RobustnessRecord]] = {}
    for record in records.robustness:
        network = (record.info["data"], record.info["model"])
        by_network.setdefault(network, []).append(record)
    if not by_network:
        return None
    parts = []
    rows: list[Row] = []
    for (data, model), members in by_network.items():
        own = [_row(record, label) for label, record in labelled(members)]
        rows += own
        title = f"{names.data_set(data)}, {names.network(model)}"
        parts.append(Table(title, _columns(), own, run_ids=run_ids(own), raw=_RAW))
    commands = {record.provenance.get("command") or "" for record in records.robustness}
    return Table(
        "Faults and corrupted images",
        _columns(),
        rows,
        NOTE,
        run_ids(rows),
        sorted(commands - {""}),
        raw=_RAW,
        parts=tuple(parts),
    )


def labelled(members: list[RobustnessRecord]) -> list[tuple[str, RobustnessRecord]]:
    """(display name, record), in reading order; the seed is named where a method has several."""
    specs = [record.info["binarizer"] for record in members]
    order = style.methods(specs)
    known = names.methods(order)
    found = []
    for record in sorted(members, key=lambda one: _place(one, order)):
        spec = record.info["binarizer"]
        label = known[spec]
        if specs.count(spec) > 1:
            label += f", seed {record.info['seed']}"
        found.append((label, record))
    return found


def _place(record: RobustnessRecord, order: list[str]) -> tuple[int, int, str]:
    return order.index(record.info["binarizer"]), record.info["seed"], record.run_id


def _columns() -> list[Column]:
    shown = [Column(cell.key, cell.header, _show(cell), half=cell.half) for cell in _CELLS]
    return [
        text_column("method", "method"),
        column("bits_per_weight", "bits per weight", ".3f"),
        column("code_bits_per_weight", "with the code", ".3f"),
        column(FIRST, "no fault", "%"),
        *shown,
    ]


def _show(cell: _Cell) -> Callable[[Row], str]:
    """The text of a cell: 85.37 ± 0.49."""

    def show(row: Row) -> str:
        value = row[cell.key]
        half = row[cell.half]
        if value is None:
            return style.DASH
        if half is None:
            return f"{value:.2f}"
        return f"{value:.2f} ± {half:.2f}"

    return show


def _row(record: RobustnessRecord, label: str) -> Row:
    info = record.info
    row: Row = dict.fromkeys(_RAW) | {"method": label}
    for key in ("data", "model", "binarizer", "seed", FIRST, "bits_per_weight"):
        row[key] = info[key]
    for cell in _CELLS:
        row |= _values(cell, record)
    of_draws = [own for own in record.rows if own.get("draws")]
    coded = [own for own in record.rows if own.get("code")]
    return row | {
        "code_bits_per_weight": coded[0]["bits_per_weight"] if coded else None,
        "draws": of_draws[0]["draws"] if of_draws else None,
        "samples": of_draws[0]["samples"] if of_draws else None,
        "sweep": record.sweep,
        "run_id": record.run_id,
        "run_ids": [record.run_id],
    }


def _values(cell: _Cell, record: RobustnessRecord) -> dict[str, Any]:
    """The percentage of a cell, and half of its interval; None where it was not measured."""
    found = []
    for own in record.rows:
        is_fault = own["fault"] == cell.fault and own.get("code") == cell.code
        if is_fault and own.get("rate") == cell.rate:
            found.append(own)
    if not found:
        return {cell.key: None, cell.half: None}
    factor = SCORES[FIRST].factor
    mean = sum(own[FIRST] for own in found) / len(found)
    half = None
    low = found[0].get("low")
    if cell.rate is not None and low is not None:
        half = round(factor * (found[0]["high"] - low) / 2, 6)
    return {cell.key: round(factor * mean, 6), cell.half: half}
