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
        parts.append(f"{device} ({info['compiler']}; {info['simulator']}), {data}, {model}")
        parts.append(_units(found))
        parts.append(_table(found))
        for target in _targets(found):
            same = [r for r in found if r.info["target"] == target]
            parts += [ratio.text() for ratio in ratios(same)]
        parts.append("")
    return "\n".join(parts).rstrip()


def _units(records: list[McuRecord]) -> str:
    """The line that explains the last two columns."""
    units = [r.info["unit"] for r in records if r.info["unit"]]
    clocks = [r.info["clock_hz"] for r in records if r.info["clock_hz"]]
    unit = units[0] if units else "instructions"
    clock = clocks[0] if clocks else 0
    assumed = ", one cycle each" if unit == "instructions" else ""
    return (
        f"count: {unit} of one run; est. FPS: an estimate, {unit} at {clock / 1e6:.0f} MHz{assumed}"
    )


def _targets(records: list[McuRecord]) -> list[str]:
    """Orders of weight bits that get ratios. Records are compared within one order."""
    found = {r.info["target"] for r in records}
    return sorted(found & {"m4", "avr"})


def _table(records: list[McuRecord]) -> str:
    lines = [_HEAD]
    for record in sorted(records, key=_rank):
        lines.append(_row(record))
    return aligned(lines, left=3)


def _rank(record: McuRecord) -> tuple[str, int]:
    """Float activations first, then the largest tables first."""
    info = record.info
    return info["activations"], -(info["table_bytes"] or 0)


def aligned(lines: Sequence[Sequence[str]], left: int) -> str:
    """Rows of cells as a text table.

    The first `left` columns are left-aligned, the others right-aligned.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = []
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        for i in range(left):
            cells[i] = line[i].ljust(widths[i])
        rows.append("  ".join(cells).rstrip())
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
        measured = _Measured(
            by,
            scope,
            four,
            eight,
        )
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
        return [
            Ratio(
                f"cycles of tbn p=4 ({self.scope})",
                count,
                800_000,
                at_most=True,
            )
        ]

    def all(self) -> list[Ratio]:
        four = self.four
        eight = self.eight
        tables = "table_bytes"
        flash = "flash_bytes"
        full = "full_precision"
        recorded = [
            self._over(
                f"instructions, {name} / tbn p=4",
                number,
                self._value(four, "count"),
                bar,
            )
            for (name, number), bar in zip(RECORDED.items(), (6.5, 90), strict=True)
        ]
        flash_f32 = self._value(full, flash, "f32")
        arena = self._value(four, "arena_bytes")
        return [
            self._ratio(
                "table bytes, binary / tbn p=4",
                "bwn",
                four,
                tables,
                3.8,
            ),
            self._ratio(
                "table bytes, binary / tbn p=8",
                "bwn",
                eight,
                tables,
                7.4,
            ),
            self._ratio(
                "instructions, binary / tbn p=4",
                "bwn",
                four,
                "count",
                3.3,
            ),
            self._ratio(
                "instructions, binary / tbn p=8",
                "bwn",
                eight,
                "count",
                5.5,
            ),
            self._ratio(
                "instructions in float, binary / tbn p=4", "bwn", four, "count", 2.7, "f32"
            ),
            self._ratio(
                "instructions, our int8 of the same net / tbn p=4", full, four, "count", 1.0
            ),
            *recorded,
            self._over(
                "flash, float32 / tbn p=4",
                flash_f32,
                self._value(four, flash),
                70,
            ),
            self._ratio(
                "flash, our int8 / tbn p=4",
                full,
                four,
                flash,
                18,
            ),
            Ratio(
                f"arena of tbn p=4 ({self.scope})",
                arena,
                1100,
                at_most=True,
                unit=" B",
            ),
        ]

    def _value(
        self,
        method: str,
        key: str,
        activations: str = "u8",
    ) -> float | None:
        return self.by.get((method, activations), {}).get(key)

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
        return self._over(
            what,
            a,
            b,
            bar,
        )

    def _over(
        self,
        what: str,
        a: float | None,
        b: float | None,
        bar: float,
    ) -> Ratio:
        quotient = a / b if a and b else None
        return Ratio(f"{what} ({self.scope})", quotient, bar)
