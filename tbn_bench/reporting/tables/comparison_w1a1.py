"""The comparison of the methods with binary weights and binary activations; see comparison.py."""

from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Table
from tbn_bench.reporting.tables.comparison import of_track


def comparison_w1a1(records: Records) -> Table | None:
    return of_track(records, "W1A1")
