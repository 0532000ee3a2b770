"""The whole ledger of published numbers with their sources, for reading beside ours."""

from typing import Any

from tbn_bench.reporting import style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.published import DAGGER, is_fraction, percent
from tbn_bench.reporting.write import Column, Table, column


def _value(row: dict[str, Any]) -> str:
    mark = DAGGER * row["second_hand"]
    return f"{percent(row['value'])}{mark} %" if is_fraction(row["metric"]) else style.text(row["value"], "g") + mark


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
    note = f"Others' numbers, by their own recipes; none is part of ours. {DAGGER} Second-hand: quoted, not read in the source."
    return Table("Published numbers", columns, ledger.to_dict("records"), note)
