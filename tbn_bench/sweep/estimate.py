"""The time and disk space of a sweep, before it starts, estimated from the records of like runs."""

from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from tbn_bench import catalog
from tbn_bench.config import RunConfig, plugin_flags
from tbn_bench.records.run import RunRecord
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell
from tbn_bench.sweep.execution import ExecutionOptions
from tbn_bench.sweep.spec import SweepSpec

_ALIKE = ("data", "model", "batch_size", "precision")


def counts(spec: SweepSpec, finished: int) -> str:
    if not spec.configs:
        most = f" of at most {spec.run_cap} runs" if spec.run_cap else ""
        return f"{spec.method} search{most}"
    runs = len(spec.configs)
    return f"{runs} runs, {finished} already finished, {runs - finished} to run"


def like(config: RunConfig, done: Iterable[RunRecord]) -> list[RunRecord]:
    """Finished runs of the same data, model and batch size.

    Of the same method if there are any, else of every method.
    """
    same = [record for record in done if _is_alike(record, config)]
    method = catalog.parse(config.binarizer)[0]
    of_method = []
    for record in same:
        if catalog.parse(record.config["binarizer"])[0] == method:
            of_method.append(record)
    return of_method or same


def _is_alike(record: RunRecord, config: RunConfig) -> bool:
    return all(record.config[name] == getattr(config, name) for name in _ALIKE)


def seconds_of(config: RunConfig, done: Iterable[RunRecord]) -> float | None:
    """Median seconds per epoch of like runs, times the epochs; None without a like run."""
    per_epoch = []
    for record in like(config, done):
        if record.summary and "seconds" in record.summary:
            per_epoch.append(record.summary["seconds"] / record.config["epochs"])
    return median(per_epoch) * config.epochs if per_epoch else None


def bytes_of(config: RunConfig, done: Iterable[RunRecord]) -> int | None:
    """The largest folder of a like run that still has its checkpoints; None without one."""
    sizes = []
    for record in like(config, done):
        has_checkpoints = any(record.path.rglob("*.ckpt"))
        if has_checkpoints:
            sizes.append(_folder_bytes(record.path))
    return max(sizes, default=None)


def _folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        if path.is_file():
            total += path.stat().st_size
    return total


class Paces:
    """Seconds per epoch of the finished runs of a launch, with all that surrounds the epochs."""

    def __init__(self) -> None:
        self._of_alike: dict[tuple[str, str], list[float]] = {}
        self._all: list[float] = []

    def add(self, config: RunConfig, seconds: float) -> None:
        pace = seconds / config.epochs
        alike = self._of_alike.setdefault((config.data, config.model), [])
        alike.append(pace)
        self._all.append(pace)

    def seconds_of(self, config: RunConfig) -> float | None:
        """Of a whole run, by those of the same data and model, else by all; None without one."""
        alike = self._of_alike.get((config.data, config.model), self._all)
        if not alike:
            return None
        return median(alike) * config.epochs


def dry_run(spec: SweepSpec, store: RunStore, options: ExecutionOptions) -> dict[str, Any]:
    """Prints every run with its state and command, then the estimates and what is unknown."""
    done = [record for record in store.runs([]) if record.status == "finished"]
    todo = []
    for config in spec.configs:
        is_finished = store.finished(spec.name, config.run_id)
        command = config.command + plugin_flags(plugin.name for plugin in config.plugins)
        tell(f"{config.run_id}  {'done' if is_finished else 'to run'}  {command}")
        if not is_finished:
            todo.append(config)
    times = [seconds for c in todo if (seconds := seconds_of(c, done)) is not None]
    sizes = [size for c in todo if (size := bytes_of(c, done)) is not None]
    jobs = len(options.slots)
    seconds = sum(times) / jobs
    if todo:
        tell(_time(seconds, len(times), len(todo), jobs))
        tell(_disk(sum(sizes), len(sizes), len(todo)))
    knows_time = bool(times) and len(times) == len(todo)
    knows_size = bool(sizes) and len(sizes) == len(todo)
    return {
        "sweep": spec.name,
        "runs": len(spec.configs),
        "finished": len(spec.configs) - len(todo),
        "to_run": len(todo),
        "estimated_seconds": round(seconds, 1) if knows_time else None,
        "estimated_bytes": sum(sizes) if knows_size else None,
    }


def _time(seconds: float, known: int, runs: int, jobs: int) -> str:
    if not known:
        return "time: unknown, no run of the same data, model and batch size is recorded"
    return (
        f"time: about {duration(seconds)} with {jobs} at once, "
        f"by the records of like runs (of any machine){_rest(known, runs)}"
    )


def duration(seconds: float) -> str:
    """12 s, 5 min or 3.1 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _disk(size: int, known: int, runs: int) -> str:
    if not known:
        return "disk: unknown, no like run has its checkpoints here"
    return f"disk: about {size / 1e6:,.0f} MB, checkpoints included{_rest(known, runs)}"


def _rest(known: int, runs: int) -> str:
    if known == runs:
        return ""
    return f", and {runs - known} runs that no record is like"
