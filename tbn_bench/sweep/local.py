"""The engine for one machine: processes, retries from checkpoints, limits, early stops.

Finished runs are skipped, failed ones named. Nothing is kept but the run directories, from which a
launcher that was killed is rebuilt. Several launchers can share one folder, because the process
that trains a run holds its lock.
"""

import contextlib
import signal
import subprocess
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell
from tbn_bench.sweep import estimate, process, screen, stale
from tbn_bench.sweep.checked import check
from tbn_bench.sweep.execution import ExecutionOptions
from tbn_bench.sweep.growing import GrowingRows
from tbn_bench.sweep.launch import Launch
from tbn_bench.sweep.process import PATIENCE, Attempt
from tbn_bench.sweep.spec import SweepSpec
from tbn_bench.sweep.trial import Trial
from tbn_bench.sweep.warm import WarmSlots

BUSY = 75  # exit status of `tbn-bench train` for a run another process holds
_LOOK = 0.1  # seconds between two looks at the processes
_LOOK_AT_LIMITS = 1.0
_LOOK_AT_HELD = 0.5  # at runs that another launcher's process holds
_EARLY = "stopped early"


class Waiting(NamedTuple):
    """A run to start. number: of the attempt, from 1."""

    trial: Trial
    number: int


class Started(NamedTuple):
    """A run that a process trains."""

    trial: Trial
    attempt: Attempt


@dataclass
class LocalLaunch(Launch):
    """waiting: runs to be tried again. held: the same, once another process lets go of them."""

    live: dict[str, Started] = field(default_factory=dict)
    waiting: deque[Waiting] = field(default_factory=deque)
    held: deque[Waiting] = field(default_factory=deque)
    told_held: set[str] = field(default_factory=set)
    locks_checked: bool = False
    rows_seen: dict[str, int] = field(default_factory=dict)
    growing: dict[str, GrowingRows] = field(default_factory=dict)
    paces: estimate.Paces = field(default_factory=estimate.Paces)
    looked: float = 0.0
    looked_at_held: float = 0.0
    places: int = field(init=False)  # runs at once; counting the GPUs takes milliseconds
    warm: WarmSlots = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.places = len(self.options.slots)
        self.warm = WarmSlots(self.options, self.say)

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
        while len(self.live) < self.places and (waiting := self._next()):
            self._start(*waiting)

    def _return_held(self) -> None:
        """To the waiting ones, from which `_next` takes those that are free or finished by now."""
        now = time.monotonic()
        full = len(self.live) == self.places
        if full or not self.held or now - self.looked_at_held < _LOOK_AT_HELD:
            return
        self.looked_at_held = now
        self.waiting += self.held
        self.held.clear()

    def _next(self) -> Waiting | None:
        """A run that can start now. Runs that another process holds are set apart."""
        while candidate := self._candidate():
            run_id = candidate.trial.config.run_id
            if self._is_held(run_id):
                self._set_apart(candidate)
            elif self.store.finished(self.spec.name, run_id):  # by another launcher
                self.skip(candidate.trial)
            else:
                return candidate
        return None

    def _is_held(self, run_id: str) -> bool:
        try:
            return self.store.is_held(self.spec.name, run_id)
        except OSError:
            return False  # the run's own process reports why it cannot have the lock

    def _set_apart(self, waiting: Waiting) -> None:
        run_id = waiting.trial.config.run_id
        self.held.append(waiting)
        if run_id not in self.told_held:
            self.told_held.add(run_id)
            self.say(f"[held] {run_id}  another process runs it")

    def _candidate(self) -> Waiting | None:
        """A search is asked for nothing new while another launcher holds a run.

        Both launchers would give one number to two draws.
        """
        if self.waiting:
            return self.waiting.popleft()
        if self.exhausted or (self.held and self.spec.is_search):
            return None
        trial = self.next()
        if trial is None:
            return None
        return Waiting(trial, 1)

    def _start(self, trial: Trial, number: int) -> None:
        if not self.locks_checked:
            # not earlier: a finished sweep may be in a folder that cannot be written
            self.store.check_locks()
            self.locks_checked = True
        config = trial.config
        taken = {attempt.slot for _, attempt in self.live.values()}
        slot = min(set(range(self.places)) - taken)
        attempt = process.start(
            self.spec.name,
            self.store,
            config,
            self.options,
            slot,
            number,
            trial.number,
            self.warm,
        )
        self.live[config.run_id] = Started(trial, attempt)

    def _watch(self, trial: Trial, attempt: Attempt) -> None:
        """Limits, and the planner's verdict on the rows so far."""
        if attempt.stopping is not None:
            attempt.stop(attempt.stopping)
        elif why := attempt.passed_limit(self.options):
            attempt.stop(why)
        elif self.spec.early_terminate and self._is_behind(trial):
            attempt.stop(_EARLY)

    def _is_behind(self, trial: Trial) -> bool:
        run_id = trial.config.run_id
        rows = self.rows_of(run_id).now()
        new = rows[self.rows_seen.get(run_id, 0) :]
        self.rows_seen[run_id] = len(rows)
        name = self.spec.metrics[0].name
        behind = False
        for row in new:  # every row is reported
            if self.planner.report(trial.number, int(row["epoch"]), row.get(name)):
                behind = True
        return behind

    def rows_of(self, run_id: str) -> GrowingRows:
        """The rows of a run of this launch."""
        if run_id not in self.growing:
            folder = self.store.path(self.spec.name, run_id)
            self.growing[run_id] = GrowingRows(folder / "metrics.jsonl")
        return self.growing[run_id]

    def _collect(self, run_id: str) -> None:
        """Acts on a process that has ended."""
        trial, attempt = self.live[run_id]
        code = attempt.process.poll()
        if code is None:
            return
        del self.live[run_id]
        self.growing.pop(run_id, None)
        if code == BUSY:  # another launcher's process was quicker
            self._set_apart(Waiting(trial, attempt.number))
        elif self.store.finished(self.spec.name, run_id):
            if attempt.number == 1:  # a later one trains a part of the epochs
                self.paces.add(trial.config, attempt.seconds)
            self.finish(trial)
        elif attempt.stopping == _EARLY:
            self.stop_early(trial)
        else:
            self._unfinished(trial, attempt, code)

    def _unfinished(self, trial: Trial, attempt: Attempt, code: int) -> None:
        run_id = trial.config.run_id
        if attempt.stopping:
            self.mark(trial, "failed", attempt.stopping)
        why = self._why(run_id, code)
        record = self.record(run_id)
        can_go_on = record is not None and record.status not in ("diverged", "interrupted")
        if can_go_on and attempt.number <= self.options.retries:
            self.say(f"[again] {run_id}  {why}; attempt {attempt.number + 1}")
            self.waiting.append(Waiting(trial, attempt.number + 1))
            return
        if code < 0 and not attempt.stopping:
            self.mark(trial, "failed", f"killed by signal {-code}")
        self.give_up(trial, self._why(run_id, code))

    def _why(self, run_id: str, code: int) -> str:
        record = self.record(run_id)
        if record is not None and record.error:
            return f"{record.status}: {record.error}"
        if code < 0:
            return f"killed by signal {-code}"
        log = process.log_of(self.store, self.spec.name, run_id)
        try:
            lines = log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return f"exit status {code}: {lines[-1] if lines else 'no output'}"

    def stop(self) -> None:
        """Interrupts the live runs (they record it, and can go on later) and waits."""
        for _, attempt in self.live.values():
            attempt.stop("stopped with the launcher")
        for _, attempt in self.live.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                attempt.process.wait(PATIENCE)
            if attempt.process.poll() is None:
                attempt.process.send_signal(signal.SIGKILL)
        self.warm.close()


def run(
    spec: SweepSpec,
    results: Path,
    options: ExecutionOptions | None = None,
    dry_run: bool = False,
    sampler: str = "tpe",
) -> dict[str, Any]:
    """Runs what is not finished. Returns counts and ids.

    Raises ValueError before the first start.
    """
    options = options or ExecutionOptions()
    store = RunStore(results)
    console = Console()
    check(spec.configs)
    kept = stale.settle(spec, store, options.stale, dry_run)
    launch = LocalLaunch(spec, store, options, sampler)
    tell(f"sweep {spec.name}: {estimate.counts(spec, len(launch.skipped))}")
    if dry_run:
        return estimate.dry_run(spec, store, options) | {"stale": kept}
    try:
        if console.is_terminal:
            screen.follow(launch, console, _LOOK)
        else:
            _run_plain(launch)
    finally:
        launch.stop()
    return launch.summary() | {"stale": kept}


def _run_plain(launch: LocalLaunch) -> None:
    while launch.busy:
        launch.step()
        time.sleep(_LOOK)
