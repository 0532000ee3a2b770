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
        "The reported errors are from the paper that preceded TBN. It uses other spans and another "
        "scaling of the data, so they have their own rows and are not comparable with ours. No "
        "source gives a readable forecasting error of a tiled network."
    ),
)


def time_series(records: Records) -> Table | None:
    ledger = records.published
    apart = ledger[ledger["metric"] == "mse_standardised"]
    return of(records, SCOPE, apart.to_dict("records"))
