"""The comparison of the methods with 8-bit activations; see comparison.py."""

from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Table
from tbn_bench.reporting.tables.comparison import of_track


def comparison_w1a8(records: Records) -> Table | None:
    return of_track(records, "W1A8")
