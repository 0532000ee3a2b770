"""Networks as C libraries on simulated microcontrollers.

Accuracy, bytes, instructions or cycles, and the frame rate that is estimated from them.
"""

from typing import Any

from tbn_bench.reporting import style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Column, Row, Table, column, method_column, text_column

# Two counts may be divided if these are the same.
_SAME = ("data", "model", "device", "sim", "target", "unit")
_ORDER = ("data", "model", "device", "sim", "target")
_RAW = (
    "data",
    "model",
    "binarizer",
    "activations",
    "target",
    "core",
    "device",
    "compiler",
    "optimize",
    "simulator",
    "top1_c",
    "top1_torch",
    "agreement",
    "test_samples",
    "computed_by",
    "table_bytes",
    "code_bytes",
    "constant_bytes",
    "flash_bytes",
    "flash_with_selftest_bytes",
    "arena_bytes",
    "stack_bytes",
    "ram_bytes",
    "unit",
    "count",
    "vectors",
    "clock_hz",
    "frames_per_s_estimate",
    "times_binary",
    "times_full",
    "fused_multiply_add",
    "sweep",
    "run_id",
    "case",
    "model_sha256",
    "command",
    "commit",
    "dirty",
)


def mcu(records: Records) -> Table | None:
    """A row per network, activations, core, compiler and simulator; None if there is none."""
    rows = _sorted(records.mcu.to_dict("records"))
    if not rows:
        return None
    for row in rows:
        row["times_binary"] = _times(rows, row, "bwn", row["activations"])
        row["times_full"] = _times(rows, row, "full_precision", "f32")

    columns = [
        text_column("data", "data"),
        text_column("model", "model"),
        method_column(row["binarizer"] for row in rows),
        text_column("activations", "activations"),
        Column("device", "core, compiler, simulator", _where, numeric=False),
        column("top1_c", "top-1 %, C code", "%"),
        column("top1_torch", "top-1 %, torch", "%"),
        column("agreement", "same class %", "%"),
        column("table_bytes", "table bytes", ",.0f"),
        column("flash_bytes", "flash bytes", ",.0f"),
        column("arena_bytes", "arena bytes", ",.0f"),
        column("stack_bytes", "stack bytes", ",.0f"),
        Column("count", "instructions, or cycles", _count),
        column("frames_per_s_estimate", "frames/s, estimate", ",.1f"),
        column("times_binary", "× binary", ".2f"),
        column("times_full", "× float32", ".2f"),
        text_column("run_id", "run"),
    ]

    return Table(
        "On microcontrollers, simulated",
        columns,
        rows,
        _note(rows),
        sorted(_values(rows, "run_id")),
        sorted(_values(rows, "command")),
        raw=_RAW,
    )


def _sorted(rows: list[Row]) -> list[Row]:
    methods = style.methods(row["binarizer"] for row in rows)

    def place(row: Row) -> tuple[Any, ...]:
        return (
            *(row[key] for key in _ORDER),
            row["activations"] != "u8",
            methods.index(row["binarizer"]),
            row["case"],
        )

    return sorted(rows, key=place)


def _where(row: Row) -> str:
    where = f"{row['device']}, {row['sim']}"
    target = row["target"]
    if target in (row["core"], "avr"):
        return where
    return f"{where}, {target} code"


def _times(rows: list[Row], row: Row, spec: str, activations: str) -> float | None:
    """The ratio of the instructions of the same network with `spec` to those of the row.

    The smallest count is used if there are several. None if one of the two was not counted.
    """
    counts = []
    for other in rows:
        if other["binarizer"] != spec or other["activations"] != activations:
            continue
        is_comparable = all(other[key] == row[key] for key in _SAME)
        if is_comparable and other["count"]:
            counts.append(other["count"])
    if not counts or not row["count"]:
        return None
    return min(counts) / row["count"]


def _count(row: Row) -> str:
    count = row["count"]
    shown = style.text(count, ",.0f")
    if count and row["unit"] == "cycles":
        return f"{shown} cycles"
    return shown


def _values(rows: list[Row], key: str) -> set[str]:
    """The known values of all rows."""
    return {row[key] for row in rows if row[key]}


def _listed(rows: list[Row], key: str) -> str:
    found = sorted(_values(rows, key))
    return "; ".join(found) or "not recorded"


def span(rows: list[Row], key: str, form: str = ",.0f", factor: float = 1) -> str:
    """'4', or '4 to 8' if rows differ."""
    found = [factor * row[key] for row in rows if row[key] is not None]
    if not found:
        return "not recorded"
    low = format(min(found), form)
    high = format(max(found), form)
    if low == high:
        return low
    return f"{low} to {high}"


def estimated(rows: list[Row]) -> str:
    """How the frame rate was estimated from each kind of count."""
    instructions = [row for row in rows if row["unit"] == "instructions"]
    cycles = [row for row in rows if row["unit"] == "cycles"]
    said = []
    if instructions:
        said.append(f"counted instructions at {_megahertz(instructions)} MHz, one cycle each")
    if cycles:
        said.append(f"simulated cycles at {_megahertz(cycles)} MHz")
    source = " or ".join(said) or "nothing was counted"
    return f"frames/s is an estimate: {source}; wait states of the flash and stalls are not in it"


def _megahertz(rows: list[Row]) -> str:
    return span(rows, "clock_hz", "g", 1e-6)


def _note(rows: list[Row]) -> str:
    note = (
        "Nothing ran on a board. Counts are of one run of the network by a simulator "
        f"({_listed(rows, 'simulator')}), the median over {span(rows, 'vectors')} test samples "
        f"whose outputs were those of Python; {estimated(rows)}. Top-1 and same class (as torch): "
        f"the same C code on {span(rows, 'test_samples')} test samples "
        f"({_listed(rows, 'computed_by')}). Tables: weights and scales. Flash: the library with "
        "code and tables, without self-test. × binary, × float32: how many times fewer "
        "instructions than bwn with the same activations, and than full precision in f32, for the "
        "same data, network, core, compiler, simulator and code; below 1 is more. Compilers: "
        f"{_listed(rows, 'compiler')}."
    )
    if any(row["fused_multiply_add"] for row in rows):
        note += " Full precision in f32 is counted with fused multiply-adds."
    return f"{note} docs/draw.html reads drawn digits by networks that are exported in this way."
