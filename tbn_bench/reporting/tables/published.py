"""The whole ledger of published numbers with their sources, for comparison with ours."""

from tbn_bench.reporting.load import Records
from tbn_bench.reporting.published import is_fraction, legend, marks, shown
from tbn_bench.reporting.table import Column, Row, Table, column, text_column

_RAW = (
    "method",
    "spec",
    "dataset",
    "model",
    "weight_bits",
    "activation_bits",
    "metric",
    "value_percent",
    "value_in_metric",
    "second_hand",
    "source",
    "note",
)


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
    shown_rows = [row | _numbers(row) for row in rows]
    return Table(
        "Published numbers",
        columns,
        shown_rows,
        note.strip(),
        raw=_RAW,
    )


def _numbers(row: Row) -> Row:
    """The value by its unit: percent, or that of the metric's name."""
    is_percent = is_fraction(row["metric"])
    value = row["value"]
    return {
        "value_percent": round(100 * value, 6) if is_percent else None,
        "value_in_metric": None if is_percent else value,
    }


def _value(row: Row) -> str:
    metric = row["metric"]
    value = shown(metric, row["value"])
    value += marks(row)
    if is_fraction(metric):
        return f"{value} %"
    return value
