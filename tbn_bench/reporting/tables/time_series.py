"""Forecasting, published and ours; forecasting.py compares our methods with each other."""

from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Table
from tbn_bench.reporting.tables._paper import Scope, of

SCOPE = Scope(
    "Forecasting, published and ours",
    frozenset(),
    frozenset(),
    ("mse", "mae"),
    note=(
        "The reported errors are of the paper that preceded TBN, on other spans and another "
        "scaling of the data: they stand in rows of their own and compare with nothing of ours. "
        "No forecasting error of a tiled network could be read in any source."
    ),
)


def time_series(records: Records) -> Table | None:
    ledger = records.published
    apart = ledger[ledger["metric"] == "mse_standardised"]
    return of(records, SCOPE, apart.to_dict("records"))
