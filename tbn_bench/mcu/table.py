"""Measurements on simulators as text: a table per core and compiler, and the ratios that tiling is worth, each beside its bar."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tbn_bench.records import McuRecord

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
        parts.append(f"{device} ({found[0].info['compiler']}; {found[0].info['simulator']}), {data}, {model}")
        parts.append(
            f"count: {unit} of one run; est. FPS: an estimate, {unit} at {clock / 1e6:.0f} MHz{', one cycle each' if unit == 'instructions' else ''}"
        )
        parts.append(_table(found))
        parts += [line.text() for line in ratios(found)]
        parts.append("")
    return "\n".join(parts).rstrip()


def _table(records: list[McuRecord]) -> str:
    lines = [_HEAD, *(_row(r) for r in sorted(records, key=lambda r: (r.info["activations"], -(r.info["table_bytes"] or 0))))]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
    return "\n".join(
        "  ".join(v.ljust(w) if i < 3 else v.rjust(w) for i, (v, w) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    )


def _row(r: McuRecord) -> tuple[str, ...]:
    i = r.info
    share = [f"{100 * i[k]:.2f}" if i.get(k) is not None else "—" for k in ("top1_c", "top1_torch", "agreement")]
    sizes = [
        f"{i[k]:,.0f}" if i.get(k) is not None else "—"
        for k in ("table_bytes", "flash_bytes", "arena_bytes", "stack_bytes", "count", "frames_per_s_estimate")
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
            return f"  {self.what:<58} —  not measured (bar {self.bar:,g})"
        good = self.value <= self.bar if self.at_most else self.value >= self.bar
        shown = f"{self.value:,.0f}{self.unit}" if self.at_most else f"{self.value:.2f}"
        return f"  {self.what:<58} {shown:>10}  {'reached' if good else 'NOT reached'} (bar {'at most' if self.at_most else 'at least'} {self.bar:,g})"


def ratios(records: Sequence[McuRecord]) -> list[Ratio]:
    """Of one core, compiler and network. Bars are stated for 784-128-10 with all layers tiled on a Cortex-M4F by gcc -O2, and on an Uno."""
    info = records[0].info
    if info["model"] != _NETWORK or info["core"] not in ("m4", "uno"):
        return []
    by = {(r.info["binarizer"], r.info["activations"]): r.info for r in records}
    tiled4, tiled8 = "tbn(min_layer_size=0, p=4)", "tbn(min_layer_size=0, p=8)"

    def over(a: tuple[str, str], b: tuple[str, str], key: str) -> float | None:
        first, second = by.get(a), by.get(b)
        return None if first is None or second is None or not second[key] or not first[key] else first[key] / second[key]

    four, eight, binary = (tiled4, "u8"), (tiled8, "u8"), ("bwn", "u8")
    if info["core"] == "uno":
        return [Ratio("cycles of tbn p=4", by[four]["count"] if four in by else None, 800_000, True)]
    known = by.get(four, {}).get("count")
    return [
        Ratio("table bytes, binary / tbn p=4", over(binary, four, "table_bytes"), 3.8),
        Ratio("table bytes, binary / tbn p=8", over(binary, eight, "table_bytes"), 7.4),
        Ratio("instructions, binary / tbn p=4", over(binary, four, "count"), 3.3),
        Ratio("instructions, binary / tbn p=8", over(binary, eight, "count"), 5.5),
        Ratio("instructions in float, binary / tbn p=4", over(("bwn", "f32"), (tiled4, "f32"), "count"), 2.7),
        Ratio("instructions, our int8 of the same net / tbn p=4", over(("full_precision", "u8"), four, "count"), 1.0),
        *(Ratio(f"instructions, {name} / tbn p=4", n / known if known else None, bar) for (name, n), bar in zip(RECORDED.items(), (6.5, 90), strict=True)),
        Ratio("flash, float32 / tbn p=4", over(("full_precision", "f32"), four, "flash_bytes"), 70),
        Ratio("flash, int8 / tbn p=4", over(("full_precision", "u8"), four, "flash_bytes"), 18),
        Ratio("arena of tbn p=4", by[four]["arena_bytes"] if four in by else None, 1100, True, " B"),
    ]  # fmt: skip
