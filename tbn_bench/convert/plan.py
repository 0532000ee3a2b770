"""The plan that binarize_ returns: one row per weight, and warnings. str(plan) is its table."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from tbn_bench.records import notebook


@dataclass(frozen=True)
class PlanRow:
    """One weight: N = numel weights, p copies of a tile of q = N / p values.

    names: of all parameters that share the weight. weight_bits: of the values. alpha_bits: of the
    scales, with offsets. activation_bits: of the input that its layer multiplies by. rank: of a
    product of two factors (then p = 1), else 0.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    numel: int
    p: int
    q: int
    weight_bits: int
    alpha_bits: int
    binarized: bool
    reuse: bool
    reason: str
    codebook_bits: int = 0
    activation_bits: int = 32
    code: str = "sign"
    copies: str = "aligned"
    rank: int = 0

    @property
    def name(self) -> str:
        """All names in one: "a.weight = b.weight"."""
        return " = ".join(self.names)

    @property
    def stored_bits(self) -> int:
        return self.weight_bits + self.alpha_bits + self.codebook_bits

    def record(self) -> dict[str, Any]:
        """The row as a run's summary keeps it: a value for each of RECORD_KEYS."""
        values = {key: getattr(self, key) for key in RECORD_KEYS}
        values["shape"] = list(self.shape)
        return values


_FIELDS = [f.name for f in fields(PlanRow) if f.name != "names"]
RECORD_KEYS = ("name", *_FIELDS, "stored_bits")


@dataclass(frozen=True)
class Plan:
    """The result of binarize_. str(plan) is the table that `tbn-bench plan` prints."""

    rows: list[PlanRow]
    warnings: list[str] = field(default_factory=list)

    @property
    def weights(self) -> int:
        return sum(row.numel for row in self.rows)

    @property
    def stored_bits(self) -> int:
        return sum(row.stored_bits for row in self.rows)

    @property
    def track(self) -> str:
        """The class in which the network competes: "W32A32", "W1A32" (weights alone), "W1A1", ...

        The second number is the fewest bits of any activation.
        """
        is_binary = any(row.binarized for row in self.rows)
        weights = 1 if is_binary else 32
        bits = [row.activation_bits for row in self.rows]
        activations = min(bits, default=32)
        return f"W{weights}A{activations}"

    def __str__(self) -> str:
        cells = [_cells(row) for row in self.rows]
        total = self._total()
        table = _aligned([_HEAD, *cells, total])
        warnings = [f"warning: {warning}" for warning in self.warnings]
        lines = table + warnings
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        lines = [_cells(row) for row in self.rows]
        total = self._total()
        lines.append(total)
        notes = "\n".join(self.warnings)
        return notebook.table(_HEAD, lines, notes)

    def _total(self) -> tuple[str, ...]:
        per_weight = "no weights"
        if self.weights:
            per_weight = f"{self.stored_bits / self.weights:.4f} bits per weight"
        weights = f"{self.weights:,}"
        bits = f"{self.stored_bits:,}"
        return ("total", "", weights, "", "", bits, "", "", per_weight)


_HEAD = ("weight", "shape", "N", "p", "q", "bits", "input", "reuse", "why")
_RIGHT_ALIGNED = {"N", "p", "q", "bits", "input"}


def _cells(row: PlanRow) -> tuple[str, ...]:
    return (
        row.name,
        "x".join(map(str, row.shape)),
        f"{row.numel:,}",
        str(row.p),
        f"{row.q:,}",
        f"{row.stored_bits:,}",
        f"{row.activation_bits} bit",
        "yes" if row.reuse else "-",
        row.reason,
    )


def _aligned(lines: Sequence[tuple[str, ...]]) -> list[str]:
    """The lines as text, each column as wide as its widest cell."""
    columns = []
    for column in zip(*lines, strict=True):
        title = column[0]
        width = max(map(len, column))
        justify = str.rjust if title in _RIGHT_ALIGNED else str.ljust
        cells = [justify(cell, width) for cell in column]
        columns.append(cells)
    padded = zip(*columns, strict=True)
    joined = ["  ".join(cells) for cells in padded]
    return [line.rstrip() for line in joined]
