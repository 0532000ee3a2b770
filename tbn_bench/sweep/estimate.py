"""What a sweep will take, before it starts: which runs are done, time and disk by the records of like runs."""

from collections.abc import Iterable
from statistics import median
from typing import Any

from tbn_bench import catalog
from tbn_bench.config import RunConfig
from tbn_bench.records.store import RunRecord, RunStore, tell
from tbn_bench.sweep.process import How
from tbn_bench.sweep.spec import SweepSpec


def counts(spec: SweepSpec, finished: int) -> str:
    if not spec.configs:
        return f"{spec.method} search" + (
            f" of at most {spec.run_cap} runs" if spec.run_cap else ""
        )
    return f"{len(spec.configs)} runs, {finished} already finished, {len(spec.configs) - finished} to run"


def like(config: RunConfig, done: Iterable[RunRecord]) -> list[RunRecord]:
    """Finished runs of the same data, model and batch size: of the same method where there are any, else of every method."""
    same = [
        r
        for r in done
        if all(
            r.config[k] == getattr(config, k) for k in ("data", "model", "batch_size", "precision")
        )
    ]
    method = catalog.parse(config.binarizer)[0]
    return [r for r in same if catalog.parse(r.config["binarizer"])[0] == method] or same


def seconds_of(config: RunConfig, done: Iterable[RunRecord]) -> float | None:
    """Median seconds per epoch of like runs, times the epochs; None where there is none."""
    per_epoch = [
        r.summary["seconds"] / r.config["epochs"]
        for r in like(config, done)
        if r.summary and "seconds" in r.summary
    ]
    return median(per_epoch) * config.epochs if per_epoch else None


def bytes_of(config: RunConfig, done: Iterable[RunRecord]) -> int | None:
    """The largest folder of a like run that still has its checkpoints; None where there is none."""
    sizes = [
        sum(f.stat().st_size for f in r.path.rglob("*") if f.is_file())
        for r in like(config, done)
        if any(r.path.rglob("*.ckpt"))
    ]
    return max(sizes, default=None)


def dry_run(spec: SweepSpec, store: RunStore, how: How) -> dict[str, Any]:
    """Prints every run with its state and command, then the estimates; what no record is like is said."""
    done = [r for r in store.runs([]) if r.status == "finished"]
    finished = {c.run_id for c in spec.configs if store.finished(spec.name, c.run_id)}
    for c in spec.configs:
        tell(f"{c.run_id}  {'done' if c.run_id in finished else 'to run'}  {c.command}")
    todo = [c for c in spec.configs if c.run_id not in finished]
    times = [s for c in todo if (s := seconds_of(c, done)) is not None]
    sizes = [b for c in todo if (b := bytes_of(c, done)) is not None]
    jobs = len(how.slots)
    if todo:
        tell(_time(sum(times) / jobs, len(times), len(todo), jobs))
        tell(_disk(sum(sizes), len(sizes), len(todo)))
    return {
        "sweep": spec.name, "runs": len(spec.configs), "finished": len(finished), "to_run": len(todo),
        "estimated_seconds": round(sum(times) / jobs, 1) if times and len(times) == len(todo) else None,
        "estimated_bytes": sum(sizes) if sizes and len(sizes) == len(todo) else None,
    }  # fmt: skip


def _time(seconds: float, known: int, runs: int, jobs: int) -> str:
    if not known:
        return "time: unknown, no run of the same data, model and batch size is recorded"
    rest = f", and {runs - known} runs that no record is like" if known < runs else ""
    text = (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
    return f"time: about {text} with {jobs} at once, by the records of like runs (of any machine){rest}"


def _disk(size: int, known: int, runs: int) -> str:
    if not known:
        return "disk: unknown, no like run has its checkpoints here"
    rest = f", and {runs - known} runs that no record is like" if known < runs else ""
    return f"disk: about {size / 1e6:,.0f} MB, checkpoints included{rest}"
