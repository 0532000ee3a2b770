"""Language models: bits per byte and nats per token, lower is better; see comparison.py."""

from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Table
from tbn_bench.reporting.tables.comparison import of_scores


def language(records: Records) -> Table | None:
    return of_scores(records, ("bits_per_byte",), ("nats_per_token",), "Language")
