"""Forecasting: errors on scaled data, lower is better; see comparison.py."""

from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Table
from tbn_bench.reporting.tables.comparison import of_scores


def forecasting(records: Records) -> Table | None:
    return of_scores(records, ("mse",), ("mae",), "Forecasting")
