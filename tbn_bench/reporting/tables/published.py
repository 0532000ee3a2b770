"""The whole ledger of published numbers with their sources, for comparison with ours."""

from tbn_bench.reporting import names, style
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.published import is_fraction, legend, marks, shown
from tbn_bench.reporting.table import Column, Row, Table, column, text_column
from tbn_bench.scores import SCORES

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
        Column("method", "method", _method, numeric=False),
        Column("dataset", "data", _data_set, numeric=False),
        Column("model", "network", _network, numeric=False),
        column("weight_bits", "weight bits", "g"),
        column("activation_bits", "activation bits", "d"),
        Column("metric", "metric", _metric, numeric=False),
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


def _method(row: Row) -> str:
    return names.method(row["spec"] or row["method"])


def _data_set(row: Row) -> str:
    return names.data_set(row["dataset"]) if row["dataset"] else style.DASH


def _network(row: Row) -> str:
    return names.network(row["model"]) if row["model"] else style.DASH


def _metric(row: Row) -> str:
    """The label of a score; its unit is in the value's cell."""
    score = SCORES.get(row["metric"])
    return score.label.removesuffix(" %") if score else str(row["metric"])


def _value(row: Row) -> str:
    metric = row["metric"]
    value = shown(metric, row["value"])
    value += marks(row)
    if is_fraction(metric):
        return f"{value} %"
    return value
