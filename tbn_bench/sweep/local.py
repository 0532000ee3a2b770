"""The engine for one machine: N processes, retries from checkpoints, limits, early stops. What is finished is skipped, what failed is named.

Nothing is kept but the run directories: a launcher that was killed is rebuilt from them, and several launchers share one folder, since
a process that trains a run holds its lock.
"""

import contextlib
import signal
import subprocess
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tbn_bench.records.store import RunStore, printable, tell
from tbn_bench.sweep import estimate, process
from tbn_bench.sweep.launch import Launch, check
from tbn_bench.sweep.planner import Trial
from tbn_bench.sweep.process import PATIENCE, Attempt, How
from tbn_bench.sweep.spec import SweepSpec

BUSY = 75  # exit status of `tbn-bench train` for a run another process holds
_LOOK = 0.1  # seconds between two looks at the processes
_LOOK_AT_LIMITS = 1.0
_REDRAW = 1.0  # the screen counts whole seconds
_LOOK_AT_HELD = 0.5  # at runs that another launcher's process holds


@dataclass
class _Engine(Launch):
    live: dict[str, tuple[Trial, Attempt]] = field(default_factory=dict)
    waiting: deque[tuple[Trial, int]] = field(
        default_factory=deque
    )  # to be tried again: (trial, number of the attempt)
    held: deque[tuple[Trial, int]] = field(
        default_factory=deque
    )  # as waiting, once another process lets go
    told_held: set[str] = field(default_factory=set)
    locks_checked: bool = False
    rows_seen: dict[str, int] = field(default_factory=dict)
    bytes_seen: dict[str, int] = field(default_factory=dict)
    looked: float = 0.0
    looked_at_held: float = 0.0
    places: int = field(init=False)  # runs at once; counting the GPUs takes milliseconds

    def __post_init__(self) -> None:
        super().__post_init__()
        self.places = len(self.how.slots)

    @property
    def busy(self) -> bool:
        return bool(self.live or self.waiting or self.held or not self.exhausted)

    def step(self) -> None:
        for run_id in list(self.live):
            self._collect(run_id)
        if time.monotonic() - self.looked > _LOOK_AT_LIMITS:
            self.looked = time.monotonic()
            for trial, attempt in self.live.values():
                self._watch(trial, attempt)
        self._return_held()
        while len(self.live) < self.places and (waits := self._next()):
            self._start(*waits)

    def _return_held(self) -> None:
        """To the waiting ones, from which `_next` takes what is free or finished by now."""
        now = time.monotonic()
        full = len(self.live) == self.places
        if full or not self.held or now - self.looked_at_held < _LOOK_AT_HELD:
            return
        self.looked_at_held = now
        self.waiting += self.held
        self.held.clear()

    def _next(self) -> tuple[Trial, int] | None:
        """(trial, number of the attempt) that can start now. What another process holds is set apart."""
        while candidate := self._candidate():
            trial, _ = candidate
            run_id = trial.config.run_id
            if self._is_held(run_id):
                self._set_apart(*candidate)
            elif self.store.finished(self.spec.name, run_id):  # by another launcher
                self.skip(trial)
            else:
                return candidate
        return None

    def _is_held(self, run_id: str) -> bool:
        try:
            return self.store.is_held(self.spec.name, run_id)
        except OSError:
            return False  # the run's own process says why it cannot have the lock

    def _set_apart(self, trial: Trial, number: int) -> None:
        run_id = trial.config.run_id
        self.held.append((trial, number))
        if run_id not in self.told_held:
            self.told_held.add(run_id)
            self.say(f"[held] {run_id}  another process runs it")

    def _candidate(self) -> tuple[Trial, int] | None:
        """A search is asked for nothing new while another launcher holds a run: both would give one number to two draws."""
        if self.waiting:
            return self.waiting.popleft()
        if self.exhausted or (self.held and self.spec.is_search):
            return None
        trial = self.next()
        return None if trial is None else (trial, 1)

    def _start(self, trial: Trial, number: int) -> None:
        if (
            not self.locks_checked
        ):  # not before: a finished sweep may lie where nothing can be written
            self.store.check_locks()
            self.locks_checked = True
        config = trial.config
        slot = min(set(range(self.places)) - {a.slot for _, a in self.live.values()})
        attempt = process.start(
            self.spec.name, self.store, config, self.how, slot, number, trial.number
        )
        self.live[config.run_id] = trial, attempt

    def _watch(self, trial: Trial, attempt: Attempt) -> None:
        """Limits, and the planner's word on what the run has logged so far."""
        if attempt.over is not None:
            attempt.stop(attempt.over)
        elif why := attempt.beyond(self.how):
            attempt.stop(why)
        elif self.spec.early_terminate and self._bad(trial):
            attempt.stop("stopped early")

    def _bad(self, trial: Trial) -> bool:
        run_id = trial.config.run_id
        if not self._has_grown(run_id):
            return False
        record = self.record(run_id)
        rows = record.rows() if record else []
        new = rows[self.rows_seen.get(run_id, 0) :]
        self.rows_seen[run_id] = len(rows)
        name = self.spec.metrics[0].name
        return any(
            [self.planner.report(trial.number, int(row["epoch"]), row.get(name)) for row in new]
        )

    def _has_grown(self, run_id: str) -> bool:
        """Whether the run's rows are others than at the last look: reading thousands takes milliseconds."""
        path = self.store.path(self.spec.name, run_id) / "metrics.jsonl"
        try:
            size = path.stat().st_size
        except OSError:
            return False
        grown = size != self.bytes_seen.get(run_id)
        self.bytes_seen[run_id] = size
        return grown

    def _collect(self, run_id: str) -> None:
        """Looks whether a process has ended, and what that means."""
        trial, attempt = self.live[run_id]
        code = attempt.process.poll()
        if code is None:
            return
        del self.live[run_id]
        if code == BUSY:  # another launcher's process was quicker
            self._set_apart(trial, attempt.number)
        elif self.store.finished(self.spec.name, run_id):
            self.finish(trial)
        elif attempt.over == "stopped early":
            self.stop_early(trial)
        else:
            self._unfinished(trial, attempt, code)

    def _unfinished(self, trial: Trial, attempt: Attempt, code: int) -> None:
        run_id = trial.config.run_id
        if attempt.over:
            self.mark(trial, "failed", attempt.over)
        why, record = self._why(run_id, code), self.record(run_id)
        if (
            attempt.number <= self.how.retries
            and record is not None
            and record.status not in ("diverged", "interrupted")
        ):
            self.say(f"[again] {run_id}  {why}; attempt {attempt.number + 1}")
            self.waiting.append((trial, attempt.number + 1))
            return
        if code < 0 and not attempt.over:
            self.mark(trial, "failed", f"killed by signal {-code}")
        self.give_up(trial, self._why(run_id, code))

    def _why(self, run_id: str, code: int) -> str:
        record = self.record(run_id)
        if record is not None and record.error:
            return f"{record.status}: {record.error}"
        if code < 0:
            return f"killed by signal {-code}"
        try:
            lines = (
                process.log_of(self.store, self.spec.name, run_id)
                .read_text(errors="replace")
                .strip()
                .splitlines()
            )
        except OSError:
            lines = []
        return f"exit status {code}: {lines[-1] if lines else 'no output'}"

    def stop(self) -> None:
        """Interrupts what still runs (they record it, and can go on later) and waits."""
        for _, attempt in self.live.values():
            attempt.stop("stopped with the launcher")
        for _, attempt in self.live.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                attempt.process.wait(PATIENCE)
            if attempt.process.poll() is None:
                attempt.process.send_signal(signal.SIGKILL)

    def table(self) -> Table:
        of = "" if self.total is None else f" of {self.total}"
        counts = f"{len(self.done)}{of} finished, {len(self.failed)} failed"
        if self.held:
            counts += f", {len(self.held)} run by other processes"
        table = Table(title=f"{self.spec.name}: {counts}", title_justify="left")
        for column in ("run", "model", "binarizer", "seed", "attempt", "seconds"):
            table.add_column(column)
        for run_id, (trial, a) in self.live.items():
            c = trial.config
            cells = (run_id, c.model, c.binarizer, str(c.seed), str(a.number), f"{a.seconds:.0f}")
            table.add_row(
                *(Text(printable(cell)) for cell in cells)
            )  # Text: its brackets are no markup
        return table


def run(
    spec: SweepSpec,
    results: Path,
    how: How | None = None,
    dry_run: bool = False,
    sampler: str = "tpe",
) -> dict[str, Any]:
    """Runs what is not finished. Returns counts and ids; raises ValueError before the first start."""
    how, store, console = how or How(), RunStore(results), Console()
    check(spec.configs)
    engine = _Engine(spec, store, how, sampler, not console.is_terminal)
    tell(f"sweep {spec.name}: {estimate.counts(spec, len(engine.skipped))}")
    if dry_run:
        return estimate.dry_run(spec, store, how)
    screen = (
        contextlib.nullcontext() if engine.plain else Live(console=console, refresh_per_second=1)
    )
    drawn = 0.0
    try:
        with screen as live:
            while engine.busy:
                engine.step()
                if live is not None and time.monotonic() - drawn > _REDRAW:
                    drawn = time.monotonic()
                    live.update(engine.table())
                time.sleep(_LOOK)
    finally:
        engine.stop()
    return engine.summary()
