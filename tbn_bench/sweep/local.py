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


@dataclass
class _Engine(Launch):
    live: dict[str, tuple[Trial, Attempt]] = field(default_factory=dict)
    waiting: deque[tuple[Trial, int]] = field(
        default_factory=deque
    )  # to be tried again: (trial, number of the attempt)
    rows_seen: dict[str, int] = field(default_factory=dict)
    looked: float = 0.0

    @property
    def busy(self) -> bool:
        return bool(self.live or self.waiting or not self.exhausted)

    def step(self) -> None:
        for run_id in list(self.live):
            self._collect(run_id)
        if time.monotonic() - self.looked > _LOOK_AT_LIMITS:
            self.looked = time.monotonic()
            for trial, attempt in self.live.values():
                self._watch(trial, attempt)
        while len(self.live) < len(self.how.slots) and (waits := self._next()):
            self._start(*waits)

    def _next(self) -> tuple[Trial, int] | None:
        """(trial, number of the attempt) that can start now."""
        while self.waiting:
            trial, number = self.waiting.popleft()
            if self.store.finished(self.spec.name, trial.config.run_id):  # by another launcher
                self.skip(trial)
            else:
                return trial, number
        trial = self.next()
        return None if trial is None else (trial, 1)

    def _start(self, trial: Trial, number: int) -> None:
        config = trial.config
        slot = min(set(range(len(self.how.slots))) - {a.slot for _, a in self.live.values()})
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
        run_id, record = trial.config.run_id, self.record(trial.config.run_id)
        rows = record.rows() if record else []
        new = rows[self.rows_seen.get(run_id, 0) :]
        self.rows_seen[run_id] = len(rows)
        name = self.spec.metrics[0].name
        return any(
            [self.planner.report(trial.number, int(row["epoch"]), row.get(name)) for row in new]
        )

    def _collect(self, run_id: str) -> None:
        """Looks whether a process has ended, and what that means."""
        trial, attempt = self.live[run_id]
        code = attempt.process.poll()
        if code is None:
            return
        del self.live[run_id]
        if code == BUSY:  # another launcher has it: look again when the others are through
            self.waiting.append((trial, attempt.number))
            time.sleep(0.5)
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
        table = Table(
            title=f"{self.spec.name}: {len(self.done)}{of} finished, {len(self.failed)} failed",
            title_justify="left",
        )
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
        contextlib.nullcontext() if engine.plain else Live(console=console, refresh_per_second=4)
    )
    try:
        with screen as live:
            while engine.busy:
                engine.step()
                if live is not None:
                    live.update(engine.table())
                time.sleep(_LOOK)
    finally:
        engine.stop()
    return engine.summary()
