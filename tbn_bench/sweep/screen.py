"""What a terminal shows of a sweep: the running runs, their scores, and the time that is left.

Lines about runs that have ended scroll above the table.
"""

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tbn_bench.config import RunConfig
from tbn_bench.records.text import printable
from tbn_bench.scores import SCORES, TASKS
from tbn_bench.sweep.estimate import duration

if TYPE_CHECKING:
    from tbn_bench.sweep.local import LocalLaunch, Started

_REDRAW_S = 1.0  # the screen counts whole seconds
_UNKNOWN = "—"
_WORDS = ("model", "binarizer")  # columns that a narrow terminal breaks into lines
_WHOLE = ("run", "seed", "epoch", "score", "best", "time", "left")


def follow(launch: "LocalLaunch", console: Console, pause_s: float) -> None:
    """Steps the launch until its end, and redraws its table in place.

    pause_s: between two steps.
    """
    drawn = 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:
        launch.out = sys.stdout  # which `Live` has replaced by one that prints above the table
        while launch.busy:
            launch.step()
            if time.monotonic() - drawn > _REDRAW_S:
                drawn = time.monotonic()
                live.update(table(launch), refresh=True)
            time.sleep(pause_s)


def table(launch: "LocalLaunch") -> Table:
    """A row per running run. The title counts the others and has the time left for all."""
    shown = Table(title=_title(launch), title_justify="left", box=box.SIMPLE_HEAD)
    for name in _WORDS:
        shown.add_column(name)
    for name in _WHOLE:
        shown.add_column(name, no_wrap=True, justify="right")
    for run_id, started in launch.live.items():
        progress = progress_of(launch, run_id)
        cells = _cells(started, progress)
        # Text, whose brackets are no markup
        shown.add_row(*(Text(printable(cell)) for cell in cells))
    return shown


def _title(launch: "LocalLaunch") -> str:
    of = "" if launch.total is None else f" of {launch.total}"
    parts = [f"{len(launch.done)}{of} finished", f"{len(launch.failed)} failed"]
    if launch.held:
        parts.append(f"{len(launch.held)} run by other processes")
    left = left_s(launch)
    if left is not None:
        parts.append(f"about {duration(left)} left")
    counts = ", ".join(parts)
    return f"{launch.spec.name}: {counts}"


def _cells(started: "Started", progress: "Progress") -> list[str]:
    """In the order of _WORDS and _WHOLE."""
    config = started.trial.config
    attempt = started.attempt
    epoch = f"{progress.epochs}/{config.epochs}"
    if attempt.number > 1:
        epoch = f"attempt {attempt.number}: {epoch}"
    left = progress.left_s
    return [
        config.model,
        config.binarizer,
        config.run_id,
        str(config.seed),
        epoch,
        _score(progress, progress.score),
        _score(progress, progress.best),
        duration(attempt.seconds),
        _UNKNOWN if left is None else duration(left),
    ]


def _score(progress: "Progress", value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    return SCORES[progress.name].text(value)


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    epochs: that are over. name: of SCORES. score, best: on held-out samples, in the last and in the
    best epoch; None where there is none. left_s: None before the first epoch of the first run.
    """

    epochs: int
    name: str
    score: float | None
    best: float | None
    left_s: float | None


def progress_of(launch: "LocalLaunch", run_id: str) -> Progress:
    """Of a running run, by its rows and by the pace of the launch's other runs."""
    trial, attempt = launch.live[run_id]
    config = trial.config
    rows = launch.rows_of(run_id)
    so_far = rows.now()
    name, values = _scores(config, so_far)
    score = SCORES[name]
    best = None
    if values:
        best = max(values, key=score.signed)
    epochs = len(so_far)
    if epochs:
        per_epoch = median(row["seconds"] for row in so_far)
        left = per_epoch * (config.epochs - epochs) - rows.seconds_old
    else:
        whole = launch.paces.seconds_of(config)
        left = None if whole is None else whole - attempt.seconds
    return Progress(
        epochs,
        name,
        values[-1] if values else None,
        best,
        None if left is None else max(0.0, left),
    )


def _scores(config: RunConfig, rows: list[dict[str, float]]) -> tuple[str, list[float]]:
    """The score that chooses the epoch, and its value after each."""
    names = TASKS.get(config.task, tuple(SCORES))
    for name in names:
        key = f"val/{name}"
        values = [row[key] for row in rows if key in row]
        if values:
            return name, values
    return names[0], []


def left_s(launch: "LocalLaunch") -> float | None:
    """Until the last run ends, if every slot is busy until then; None while a part is unknown."""
    running = [progress_of(launch, run_id).left_s for run_id in launch.live]
    to_come = _to_come(launch)
    if to_come is None:
        return None
    waiting = [launch.paces.seconds_of(config) for config in to_come]
    known = [left for left in (*running, *waiting) if left is not None]
    if len(known) < len(running) + len(waiting):
        return None
    longest = max((left for left in running if left is not None), default=0.0)
    return max(longest, sum(known) / launch.places)


def _to_come(launch: "LocalLaunch") -> Iterable[RunConfig] | None:
    """The configs that no process has started; None for a search without a limit.

    A search has not drawn them yet: they are taken to be like its last one.
    """
    if launch.spec.is_search:
        return _to_draw(launch)
    ended = {*launch.done, *launch.skipped, *launch.stopped, *launch.failed}
    taken = ended | set(launch.live)
    return [config for config in launch.spec.configs if config.run_id not in taken]


def _to_draw(launch: "LocalLaunch") -> list[RunConfig] | None:
    drawn = launch.planner.trials
    if launch.exhausted:
        return []
    if launch.spec.run_cap is None or not drawn:
        return None
    last = drawn[max(drawn)].config
    return [last] * (launch.spec.run_cap - len(drawn))
