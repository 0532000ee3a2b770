"""Networks as C libraries on simulated microcontrollers: accuracy, bytes, instructions or cycles, and the rate that is estimated from them."""

from typing import Any

from tbn_bench.reporting import style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.write import Column, Table, column

_SAME = ("data", "model", "device", "sim", "target", "unit")  # of two counts that may be divided
_ORDER = ("data", "model", "device", "sim", "target")
_RAW = (
    "data", "model", "binarizer", "activations", "target", "core", "device", "compiler", "optimize", "simulator", "top1_c", "top1_torch",
    "agreement", "test_samples", "computed_by", "table_bytes", "code_bytes", "constant_bytes", "flash_bytes", "flash_with_selftest_bytes",
    "arena_bytes", "stack_bytes", "ram_bytes", "unit", "count", "vectors", "clock_hz", "frames_per_s_estimate", "times_binary", "times_full",
    "fused_multiply_add", "sweep", "run_id", "case", "model_sha256", "command", "commit", "dirty",
)  # fmt: skip


def mcu(records: Records) -> Table | None:
    """A row per record, i.e. per network, activations, core, compiler and simulator; None where there is none."""
    rows: list[dict[str, Any]] = records.mcu.to_dict("records")
    if not rows:
        return None
    names = style.labels(row["binarizer"] for row in rows)
    place = {spec: i for i, spec in enumerate(names)}
    rows.sort(
        key=lambda r: (
            *(r[key] for key in _ORDER),
            r["activations"] != "u8",
            place[r["binarizer"]],
            r["case"],
        )
    )
    for row in rows:
        row |= {
            "times_binary": _times(rows, row, "bwn", row["activations"]),
            "times_full": _times(rows, row, "full_precision", "f32"),
        }
    columns = [
        column("data", "data", numeric=False), column("model", "model", numeric=False),
        Column("binarizer", "method", lambda r: names[r["binarizer"]], numeric=False), column("activations", "activations", numeric=False),
        Column("device", "core, compiler, simulator", _where, numeric=False),
        column("top1_c", "top-1 %, C code", "%"), column("top1_torch", "top-1 %, torch", "%"), column("agreement", "same class %", "%"),
        column("table_bytes", "table bytes", ",.0f"), column("flash_bytes", "flash bytes", ",.0f"), column("arena_bytes", "arena bytes", ",.0f"),
        column("stack_bytes", "stack bytes", ",.0f"), Column("count", "instructions, or cycles", _count),
        column("frames_per_s_estimate", "frames/s, estimate", ",.1f"), column("times_binary", "× binary", ".2f"),
        column("times_full", "× float32", ".2f"), column("run_id", "run", numeric=False),
    ]  # fmt: skip
    ids = sorted({row["run_id"] for row in rows if row["run_id"]})
    commands = sorted({row["command"] for row in rows if row["command"]})
    return Table(
        "On microcontrollers, simulated", columns, rows, _note(rows), ids, commands, raw=_RAW
    )


def _where(row: dict[str, Any]) -> str:
    code = "" if row["target"] in (row["core"], "avr") else f", {row['target']} code"
    return f"{row['device']}, {row['sim']}{code}"


def _times(
    rows: list[dict[str, Any]], row: dict[str, Any], spec: str, activations: str
) -> float | None:
    """How many times fewer instructions than the same network of `spec`, of several the one with the fewest; None where one was not counted."""
    counts = [
        r["count"] for r in rows
        if r["binarizer"] == spec and r["activations"] == activations and r["count"] and all(r[key] == row[key] for key in _SAME)
    ]  # fmt: skip
    return min(counts) / row["count"] if counts and row["count"] else None


def _count(row: dict[str, Any]) -> str:
    return style.text(row["count"], ",.0f") + (
        " cycles" if row["count"] and row["unit"] == "cycles" else ""
    )


def _listed(rows: list[dict[str, Any]], key: str) -> str:
    return "; ".join(sorted({row[key] for row in rows if row[key]})) or "not recorded"


def span(rows: list[dict[str, Any]], key: str, form: str = ",.0f", factor: float = 1) -> str:
    """'4', or '4 to 8' where rows differ."""
    found = sorted({factor * row[key] for row in rows if row[key] is not None})
    return (
        " to ".join(dict.fromkeys(format(n, form) for n in found[:: max(1, len(found) - 1)]))
        or "not recorded"
    )


def estimated(rows: list[dict[str, Any]]) -> str:
    """How the estimate of each kind of count was made."""
    kinds = (
        ("instructions", "counted instructions at {} MHz, one cycle each"),
        ("cycles", "simulated cycles at {} MHz"),
    )
    said = [
        text.format(span(own, "clock_hz", "g", 1e-6))
        for unit, text in kinds
        if (own := [r for r in rows if r["unit"] == unit])
    ]
    return f"frames/s is an estimate: {' or '.join(said) or 'nothing was counted'}; wait states of the flash and stalls are not in it"


def _note(rows: list[dict[str, Any]]) -> str:
    note = (
        f"Nothing ran on a board. Counts are of one run of the network by a simulator ({_listed(rows, 'simulator')}), the median over "
        f"{span(rows, 'vectors')} test samples whose outputs were those of Python; {estimated(rows)}. Top-1 and same class (as torch): the same C code over "
        f"the whole test set, {span(rows, 'test_samples')} samples ({_listed(rows, 'computed_by')}). Tables: weights and scales. Flash: "
        "the library with code and tables, without self-test. × binary, × float32: how many times fewer instructions than bwn with the same "
        "activations, and than full precision in f32, for the same data, network, core, compiler, simulator and code; below 1 is more. "
        f"Compilers: {_listed(rows, 'compiler')}."
    )
    if any(row["fused_multiply_add"] for row in rows):
        note += " Full precision in f32 is counted with fused multiply-adds."
    return note
