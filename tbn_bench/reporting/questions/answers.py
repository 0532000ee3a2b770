"""All questions of the arena, in the order in which a reader has them."""

import functools
from collections.abc import Iterator

from tbn_bench.reporting.load import Records
from tbn_bench.reporting.questions import arena, fragile, growth, law, rivals, worth
from tbn_bench.reporting.questions.question import Question

_PARTS = (rivals, growth, law, worth, fragile)


@functools.lru_cache(maxsize=2)  # the page, the tables, the figures and the summary ask
def questions(records: Records) -> tuple[Question, ...]:
    """Empty where the records have no finished run of the arena or of its small networks."""
    if not arena.whole(records) and not arena.small(records):
        return ()
    return tuple(_asked(records))


def _asked(records: Records) -> Iterator[Question]:
    for part in _PARTS:
        for ask in part.ALL:
            yield ask(records)
