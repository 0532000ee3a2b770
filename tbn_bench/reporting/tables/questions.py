"""The tests behind the arena's questions."""

from tbn_bench.reporting.load import Records
from tbn_bench.reporting.questions import answers, proof
from tbn_bench.reporting.table import Table


def questions(records: Records) -> Table | None:
    """None where the records have no run of the arena."""
    return proof.whole(answers.questions(records))
