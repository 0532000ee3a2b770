"""Measurements on simulators as text: a table per core and compiler, and the gains of tiling.

Each gain is a ratio, printed with the bar that it should reach.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tbn_bench.records.store import McuRecord

# Counted once on the same network and core (784-128-10, Cortex-M4F, QEMU). This project does not
# contain or build them.
RECORDED = {
    "int8 library, recorded": 197_690,  # CMSIS-NN, snapshot 99f736a6 of 2026-07-15
    "published TBN kernel, recorded": 2_746_732,  # the TBN authors' C code with their weights
}
_NETWORK = "mlp(bias=False, hidden=[128])"  # 784-128-10
_HEAD = (
    "method",
    "act.",
    "target",
    "top-1 C %",
    "torch %",
    "same class %",
    "tables B",
    "flash B",
    "arena B",
    "stack B",
    "count",
    "est. FPS",
)


def text(records: Sequence[McuRecord]) -> str:
    groups: dict[tuple[str, str, str, str], list[McuRecord]] = defaultdict(list)
    for record in records:
        info = record.info
        key = (record.device, info["sim"], str(info["data"]), str(info["model"]))
        groups[key].append(record)
    parts = []
    for (device, _sim, data, model), found in sorted(groups.items()):
        info = found[0].info
        tools = f"{info['compiler']}; {info['simulator']}"
        parts.append(f"{device} ({tools}), {data}, {model}")
        parts += _group_lines(found)
        parts.append("")
    return "\n".join(parts).rstrip()


def _group_lines(records: list[McuRecord]) -> list[str]:
    """Units, table and ratios of one core, compiler and network."""
    lines = [_units(records), _table(records)]
    for target in _targets(records):
        same = [record for record in records if record.info["target"] == target]
        for ratio in ratios(same):
            lines.append(ratio.text())
    return lines


def _units(records: list[McuRecord]) -> str:
    """The line that explains the last two columns."""
    unit = _first(records, "unit") or "instructions"
    clock = _first(records, "clock_hz") or 0
    assumed = ", one cycle each" if unit == "instructions" else ""
    mhz = f"{clock / 1e6:.0f} MHz"
    return f"count: {unit} of one run; est. FPS: an estimate, {unit} at {mhz}{assumed}"


def _first(records: list[McuRecord], key: str) -> Any:
    """The first value that is neither missing nor zero; None where there is none."""
    for record in records:
        value = record.info[key]
        if value:
            return value
    return None


def _targets(records: list[McuRecord]) -> list[str]:
    """Orders of weight bits that get ratios. Records are compared within one order."""
    targets = {record.info["target"] for record in records}
    compared = targets & {"m4", "avr"}
    return sorted(compared)


def _table(records: list[McuRecord]) -> str:
    lines: list[Sequence[str]] = [_HEAD]
    for record in sorted(records, key=_rank):
        lines.append(_row(record))
    return aligned(lines, left=3)


def _rank(record: McuRecord) -> tuple[str, int]:
    """Float activations first, then the largest tables first."""
    info = record.info
    size = info["table_bytes"] or 0
    return info["activations"], -size


def aligned(lines: Sequence[Sequence[str]], left: int) -> str:
    """Rows of cells as a text table.

    The first `left` columns are left-aligned, the others right-aligned.
    """
    columns = zip(*lines, strict=True)
    widths = [max(map(len, column)) for column in columns]
    rows = []
    for line in lines:
        cells = []
        for i, cell in enumerate(line):
            justify = str.ljust if i < left else str.rjust
            cells.append(justify(cell, widths[i]))
        row = "  ".join(cells)
        rows.append(row.rstrip())
    return "\n".join(rows)


def _row(record: McuRecord) -> tuple[str, ...]:
    info = record.info
    cells = [str(info["binarizer"]), info["activations"], info["target"]]
    for key in ("top1_c", "top1_torch", "agreement"):
        share = info.get(key)
        cells.append("—" if share is None else f"{100 * share:.2f}")
    for key in (
        "table_bytes",
        "flash_bytes",
        "arena_bytes",
        "stack_bytes",
        "count",
        "frames_per_s_estimate",
    ):
        size = info.get(key)
        cells.append("—" if size is None else f"{size:,.0f}")
    return tuple(cells)


@dataclass(frozen=True)
class Ratio:
    """A quotient of two measurements, and the bar it should reach.

    at_most: the value is a size or a count, and the bar is its upper limit.
    """

    what: str
    value: float | None
    bar: float
    at_most: bool = False
    unit: str = ""

    def text(self) -> str:
        if self.value is None:
            return f"  {self.what:<70} —  not measured (bar {self.bar:,g})"
        if self.at_most:
            reached = self.value <= self.bar
            limit = "at most"
            shown = f"{self.value:,.0f}{self.unit}"
        else:
            reached = self.value >= self.bar
            limit = "at least"
            shown = f"{self.value:.2f}"
        verdict = "reached" if reached else "NOT reached"
        return f"  {self.what:<70} {shown:>10}  {verdict} (bar {limit} {self.bar:,g})"


def ratios(records: Sequence[McuRecord]) -> list[Ratio]:
    """The ratios of one core, compiler and network; [] for other networks than that of the bars.

    Once with all layers tiled, as the bars are stated (784-128-10, Cortex-M4F, gcc -O2; Arduino
    Uno), and once with the first layer alone, as published.
    """
    info = records[0].info
    core = info["core"]
    is_mnist = str(info["data"]).startswith("mnist")
    if info["model"] != _NETWORK or not is_mnist or core not in ("m4", "uno"):
        return []
    by: dict[tuple[str, str], dict[str, Any]] = {}
    for r in records:  # of several runs of a method the first, by their order on disk
        key = (r.info["binarizer"], r.info["activations"])
        by.setdefault(key, r.info)
    found = []
    for scope, four, eight in _TILED:
        if (four, "u8") not in by and (eight, "u8") not in by:
            continue
        measured = _Measured(by, scope, four, eight)
        found += measured.cycles() if core == "uno" else measured.all()
    return found


_TILED = (
    ("all layers", "tbn(min_layer_size=0, p=4)", "tbn(min_layer_size=0, p=8)"),
    ("first layer", "tbn(p=4)", "tbn(p=8)"),
)


@dataclass(frozen=True)
class _Measured:
    """The measurements of one network.

    by: (method, activations) -> its record. scope: the layers that are tiled. four, eight: the
    methods with p = 4 and p = 8.
    """

    by: dict[tuple[str, str], dict[str, Any]]
    scope: str
    four: str
    eight: str

    def cycles(self) -> list[Ratio]:
        count = self._value(self.four, "count")
        what = f"cycles of tbn p=4 ({self.scope})"
        return [Ratio(what, count, 800_000, at_most=True)]

    def all(self) -> list[Ratio]:
        return [*self._tables(), *self._instructions(), *self._memory()]

    def _tables(self) -> list[Ratio]:
        key = "table_bytes"
        return [
            self._ratio("table bytes, binary / tbn p=4", "bwn", self.four, key, 3.8),
            self._ratio("table bytes, binary / tbn p=8", "bwn", self.eight, key, 7.4),
        ]

    def _instructions(self) -> list[Ratio]:
        four = self.four
        eight = self.eight
        full = "full_precision"
        in_float = "instructions in float, binary / tbn p=4"
        int8 = "instructions, our int8 of the same net / tbn p=4"
        return [
            self._ratio("instructions, binary / tbn p=4", "bwn", four, "count", 3.3),
            self._ratio("instructions, binary / tbn p=8", "bwn", eight, "count", 5.5),
            self._ratio(in_float, "bwn", four, "count", 2.7, "f32"),
            self._ratio(int8, full, four, "count", 1.0),
            *self._recorded(),
        ]

    def _recorded(self) -> list[Ratio]:
        """Of the programs that were counted once."""
        bars = (6.5, 90)
        count = self._value(self.four, "count")
        found = []
        for (name, number), bar in zip(RECORDED.items(), bars, strict=True):
            ratio = self._over(f"instructions, {name} / tbn p=4", number, count, bar)
            found.append(ratio)
        return found

    def _memory(self) -> list[Ratio]:
        four = self.four
        full = "full_precision"
        key = "flash_bytes"
        flash = self._value(four, key)
        flash_f32 = self._value(full, key, "f32")
        arena = self._value(four, "arena_bytes")
        what = f"arena of tbn p=4 ({self.scope})"
        return [
            self._over("flash, float32 / tbn p=4", flash_f32, flash, 70),
            self._ratio("flash, our int8 / tbn p=4", full, four, key, 18),
            Ratio(what, arena, 1100, at_most=True, unit=" B"),
        ]

    def _value(self, method: str, key: str, activations: str = "u8") -> float | None:
        record = self.by.get((method, activations), {})
        return record.get(key)

    def _ratio(
        self,
        what: str,
        method: str,
        tiled: str,
        key: str,
        bar: float,
        activations: str = "u8",
    ) -> Ratio:
        """One quantity of a method, over that of a tiled method."""
        a = self._value(method, key, activations)
        b = self._value(tiled, key, activations)
        return self._over(what, a, b, bar)

    def _over(self, what: str, a: float | None, b: float | None, bar: float) -> Ratio:
        quotient = a / b if a and b else None
        return Ratio(f"{what} ({self.scope})", quotient, bar)
