"""tb.sweep: it calls what the command calls, and displays in a notebook."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tbn_bench.records.notebook import Outcome
from tbn_bench.sweep import local, spec
from tbn_bench.sweep.execution import ExecutionOptions


def sweep(
    file: str | Path | Mapping[str, Any],
    results: str | Path = "results",
    sets: Iterable[str] = (),
    dry_run: bool = False,
    sampler: str = "tpe",
    **execution: Any,
) -> Outcome:
    """Runs what is not finished of a sweep file, or of its content as a dictionary, in processes.

    sets: other values for this call, e.g. ["epochs=1"]. dry_run: only list and check the runs.
    execution: fields of ExecutionOptions (jobs, device, retries, ...). A dictionary needs `name`.
    Returns counts and ids. Raises ValueError before the first start.
    """
    found = _spec(file, sets)
    options = ExecutionOptions(**execution)
    folder = Path(results)
    counts = local.run(found, folder, options, dry_run, sampler)
    return Outcome(counts)


def _spec(file: str | Path | Mapping[str, Any], sets: Iterable[str]) -> spec.SweepSpec:
    if not isinstance(file, Mapping):
        return spec.load(Path(file), sets)
    content = dict(file)
    return spec.of(content, sets)
