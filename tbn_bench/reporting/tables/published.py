"""The whole ledger of published numbers with their sources, for reading beside ours."""

from typing import Any

from tbn_bench.reporting.load import Records
from tbn_bench.reporting.published import is_fraction, legend, marks, shown
from tbn_bench.reporting.write import Column, Table, column


def _value(row: dict[str, Any]) -> str:
    return shown(row["metric"], row["value"]) + marks(row) + " %" * is_fraction(row["metric"])


def published(records: Records) -> Table | None:
    ledger = records.published
    if ledger.empty:
        return None
    columns = [
        column("method", "method", numeric=False), column("dataset", "data", numeric=False),
        column("model", "model", numeric=False), column("weight_bits", "weight bits", "g"), column("activation_bits", "activation bits", "d"),
        column("metric", "metric", numeric=False), Column("value", "value", _value), column("source", "source", numeric=False),
        column("note", "note", numeric=False), column("spec", "our spec", numeric=False),
        column("second_hand", "second-hand", numeric=False),
    ]  # fmt: skip
    rows = ledger.to_dict("records")
    note = f"Others' numbers, by their own recipes; none is part of ours. {legend(map(marks, rows))}".strip()
    return Table("Published numbers", columns, rows, note)
