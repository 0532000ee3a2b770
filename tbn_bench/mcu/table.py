"""Measurements on simulators as text: a table per core and compiler, and the ratios that tiling is worth, each beside its bar."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tbn_bench.records.store import McuRecord

# Counted once on the same network and core (784-128-10, Cortex-M4F, QEMU): not part of this project, never built by it.
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
    for r in records:
        groups[r.device, r.info["sim"], str(r.info["data"]), str(r.info["model"])].append(r)
    parts = []
    for (device, _sim, data, model), found in sorted(groups.items()):
        unit = next((r.info["unit"] for r in found if r.info["unit"]), "instructions")
        clock = next((r.info["clock_hz"] for r in found if r.info["clock_hz"]), 0)
        parts.append(
            f"{device} ({found[0].info['compiler']}; {found[0].info['simulator']}), {data}, {model}"
        )
        parts.append(
            f"count: {unit} of one run; est. FPS: an estimate, {unit} at {clock / 1e6:.0f} MHz{', one cycle each' if unit == 'instructions' else ''}"
        )
        parts.append(_table(found))
        parts += [
            line.text()
            for target in _targets(found)
            for line in ratios([r for r in found if r.info["target"] == target])
        ]
        parts.append("")
    return "\n".join(parts).rstrip()


def _targets(records: list[McuRecord]) -> list[str]:
    """Orders of weight bits for which ratios are stated: each is compared with itself alone."""
    return sorted({r.info["target"] for r in records} & {"m4", "avr"})


def _table(records: list[McuRecord]) -> str:
    lines = [
        _HEAD,
        *(
            _row(r)
            for r in sorted(
                records, key=lambda r: (r.info["activations"], -(r.info["table_bytes"] or 0))
            )
        ),
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
    return "\n".join(
        "  ".join(
            v.ljust(w) if i < 3 else v.rjust(w)
            for i, (v, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _row(r: McuRecord) -> tuple[str, ...]:
    i = r.info
    share = [
        f"{100 * i[k]:.2f}" if i.get(k) is not None else "—"
        for k in ("top1_c", "top1_torch", "agreement")
    ]
    sizes = [
        f"{i[k]:,.0f}" if i.get(k) is not None else "—"
        for k in (
            "table_bytes",
            "flash_bytes",
            "arena_bytes",
            "stack_bytes",
            "count",
            "frames_per_s_estimate",
        )
    ]
    return (str(i["binarizer"]), i["activations"], i["target"], *share, *sizes)


@dataclass(frozen=True)
class Ratio:
    """A quotient of two measurements beside the bar it should reach; at_most: the bar is an upper one on a size."""

    what: str
    value: float | None
    bar: float
    at_most: bool = False
    unit: str = ""

    def text(self) -> str:
        if self.value is None:
            return f"  {self.what:<70} —  not measured (bar {self.bar:,g})"
        good = self.value <= self.bar if self.at_most else self.value >= self.bar
        shown = f"{self.value:,.0f}{self.unit}" if self.at_most else f"{self.value:.2f}"
        return f"  {self.what:<70} {shown:>10}  {'reached' if good else 'NOT reached'} (bar {'at most' if self.at_most else 'at least'} {self.bar:,g})"


def ratios(records: Sequence[McuRecord]) -> list[Ratio]:
    """Of one core, compiler and network: with all layers tiled, as the bars are stated (784-128-10, Cortex-M4F, gcc -O2; Arduino Uno), and
    with the first layer alone, as published."""
    info = records[0].info
    if (
        info["model"] != _NETWORK
        or not str(info["data"]).startswith("mnist")
        or info["core"] not in ("m4", "uno")
    ):
        return []
    by: dict[tuple[str, str], dict[str, Any]] = {}
    for r in records:  # of several runs of a method the first, by their order on disk
        by.setdefault((r.info["binarizer"], r.info["activations"]), r.info)
    found = []
    for scope, four, eight in _TILED:
        if (four, "u8") in by or (eight, "u8") in by:
            found += _of(by, info["core"], scope, four, eight)
    return found


_TILED = (
    ("all layers", "tbn(min_layer_size=0, p=4)", "tbn(min_layer_size=0, p=8)"),
    ("first layer", "tbn(p=4)", "tbn(p=8)"),
)


def _of(
    by: dict[tuple[str, str], dict[str, Any]], core: str, scope: str, four: str, eight: str
) -> list[Ratio]:
    def value(method: str, activations: str, key: str) -> float | None:
        return by.get((method, activations), {}).get(key)

    def over(a: float | None, b: float | None) -> float | None:
        return a / b if a and b else None

    def line(what: str, a: float | None, b: float | None, bar: float) -> Ratio:
        return Ratio(f"{what} ({scope})", over(a, b), bar)

    count, size = value(four, "u8", "count"), value(four, "u8", "flash_bytes")
    if core == "uno":
        return [Ratio(f"cycles of tbn p=4 ({scope})", count, 800_000, True)]
    return [
        line(
            "table bytes, binary / tbn p=4",
            value("bwn", "u8", "table_bytes"),
            value(four, "u8", "table_bytes"),
            3.8,
        ),
        line(
            "table bytes, binary / tbn p=8",
            value("bwn", "u8", "table_bytes"),
            value(eight, "u8", "table_bytes"),
            7.4,
        ),
        line("instructions, binary / tbn p=4", value("bwn", "u8", "count"), count, 3.3),
        line(
            "instructions, binary / tbn p=8",
            value("bwn", "u8", "count"),
            value(eight, "u8", "count"),
            5.5,
        ),
        line(
            "instructions in float, binary / tbn p=4",
            value("bwn", "f32", "count"),
            value(four, "f32", "count"),
            2.7,
        ),
        line(
            "instructions, our int8 of the same net / tbn p=4",
            value("full_precision", "u8", "count"),
            count,
            1.0,
        ),
        *(
            line(f"instructions, {name} / tbn p=4", n, count, bar)
            for (name, n), bar in zip(RECORDED.items(), (6.5, 90), strict=True)
        ),
        line("flash, float32 / tbn p=4", value("full_precision", "f32", "flash_bytes"), size, 70),
        line("flash, our int8 / tbn p=4", value("full_precision", "u8", "flash_bytes"), size, 18),
        Ratio(f"arena of tbn p=4 ({scope})", value(four, "u8", "arena_bytes"), 1100, True, " B"),
    ]
