"""The whole ledger of published numbers with their sources, for comparison with ours."""

from tbn_bench.reporting.load import Records
from tbn_bench.reporting.published import is_fraction, legend, marks, shown
from tbn_bench.reporting.table import Column, Row, Table, column, text_column


def published(records: Records) -> Table | None:
    """A row per line of the ledger; None if it is empty."""
    ledger = records.published
    if ledger.empty:
        return None
    columns = [
        text_column("method", "method"),
        text_column("dataset", "data"),
        text_column("model", "model"),
        column("weight_bits", "weight bits", "g"),
        column("activation_bits", "activation bits", "d"),
        text_column("metric", "metric"),
        Column("value", "value", _value),
        text_column("source", "source"),
        text_column("note", "note"),
        text_column("spec", "our spec"),
        text_column("second_hand", "second-hand"),
    ]
    rows = ledger.to_dict("records")
    note = "Numbers of other authors, with their own recipes. Our tables never include them. "
    note += legend(map(marks, rows))
    return Table("Published numbers", columns, rows, note.strip())


def _value(row: Row) -> str:
    metric = row["metric"]
    value = shown(metric, row["value"])
    value += marks(row)
    if is_fraction(metric):
        return f"{value} %"
    return value
