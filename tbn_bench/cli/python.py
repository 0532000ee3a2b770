"""tb.report and tb.compare: they call what their commands call, and display in a notebook."""

from pathlib import Path
from typing import TYPE_CHECKING

from tbn_bench.records.notebook import Outcome
from tbn_bench.records.run import RunRecord
from tbn_bench.records.store import RunStore

if TYPE_CHECKING:
    from tbn_bench.runs.compare import Comparison


def report(results: str | Path = "results", out: str | Path = "reports") -> Outcome:
    """Tables, figures and one page of the records. Raises ValueError if there are none."""
    from tbn_bench.reporting import build

    made = build.report(Path(results), Path(out))
    return Outcome(made)


def compare(
    a: RunRecord | str, b: RunRecord | str, results: str | Path = "results"
) -> "Comparison":
    """The differences between two runs, each a record or the beginning of its id.

    Raises RecordError where no run, or several, have such an id.
    """
    from tbn_bench.runs.compare import differences

    store = RunStore(results)
    first = _found(store, a)
    second = _found(store, b)
    return differences(first, second)


def _found(store: RunStore, run: RunRecord | str) -> RunRecord:
    if isinstance(run, RunRecord):
        return run
    return store.find(run)
