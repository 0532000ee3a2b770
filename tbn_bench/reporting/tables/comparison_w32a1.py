"""The comparison of the methods with binary activations and float weights; see comparison.py."""

from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Table
from tbn_bench.reporting.tables.comparison import of_track


def comparison_w32a1(records: Records) -> Table | None:
    return of_track(records, "W32A1")
