"""The engine for one machine: N processes, retries from checkpoints, limits, early stops. What is finished is skipped, what failed is named.

Nothing is kept but the run directories: a launcher that was killed is rebuilt from them, and several launchers share one folder, since
a process that trains a run holds its lock.
"""

import contextlib
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tbn_bench import assembly, catalog, convert
from tbn_bench.config import RunConfig, make
from tbn_bench.records import RecordError, RunRecord, RunStore
from tbn_bench.scores import shown
from tbn_bench.sweep import estimate, process
from tbn_bench.sweep.planner import Past, Planner, Trial
from tbn_bench.sweep.process import PATIENCE, Attempt, How
from tbn_bench.sweep.spec import SweepSpec

BUSY = 75  # exit status of `tbn-bench train` for a run another process holds
_LOOK = 0.1  # seconds between two looks at the processes
_LOOK_AT_LIMITS = 1.0


def check(configs: list[RunConfig]) -> None:
    """Builds every distinct network on the meta device. Raises ValueError listing every config that no layer can satisfy."""
    import torch

    errors: dict[str, None] = {}
    seen: dict[str, Any] = {}
    for c in configs:
        key = f"{c.data} | {c.task} | {c.model} | {c.binarizer} | {','.join(c.keep)}"
        if key in seen:
            continue
        seen[key] = True
        try:
            data = assembly.data_of(c)
            with torch.device("meta"):
                model = catalog.build("models", c.model, **assembly.offered(data))
                convert.binarize_(model, c.binarizer, c.keep)
        except ValueError as error:
            errors |= {f"{c.model} with {c.binarizer}: {line}": None for line in str(error).splitlines()}
    if errors:
        raise ValueError("\n".join(errors))


@dataclass
class _Engine:
    """One launcher's work on one sweep."""

    spec: SweepSpec
    store: RunStore
    how: How
    planner: Planner
    total: int | None
    plain: bool
    live: dict[str, tuple[Trial, Attempt]] = field(default_factory=dict)
    waiting: deque[tuple[Trial, int]] = field(default_factory=deque)  # to be tried again: (trial, number of the attempt)
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    rows_seen: dict[str, int] = field(default_factory=dict)
    exhausted: bool = False
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
        while len(self.live) < len(self.how.slots) and self._next():
            pass

    def _next(self) -> bool:
        """Starts one more run, if there is any to start now."""
        again = self.waiting.popleft() if self.waiting else None
        trial, number = again or (self.planner.ask(), 1)
        if trial is None:
            self.exhausted = True
            return False
        run_id = trial.config.run_id
        if self.spec.is_search and number == 1 and not self._possible(trial):
            return True
        if run_id in self.live:  # held by another launcher a moment ago, and waiting twice
            return True
        if self.store.finished(self.spec.name, run_id):
            self.skipped.append(run_id)
            self._tell(trial, "finished")
        else:
            slot = min(set(range(len(self.how.slots))) - {a.slot for _, a in self.live.values()})
            self.live[run_id] = (
                trial,
                process.start(self.spec.name, self.store, trial.config, self.how, slot, number, trial.number),
            )
        return True

    def _possible(self, trial: Trial) -> bool:
        """Whether the network of a drawn config can be built; if not, the point has failed, with the reason in its record."""
        try:
            check([trial.config])
        except ValueError as error:
            why = " ".join(str(error).split())
            self._mark(trial, "failed", why)
            self.failed[trial.config.run_id] = why
            self._tell(trial, "failed")
            return False
        return True

    def _record(self, run_id: str) -> RunRecord | None:
        try:
            return self.store.read(self.spec.name, run_id)
        except (RecordError, KeyError):
            return None

    def _watch(self, trial: Trial, attempt: Attempt) -> None:
        """Limits, and the planner's word on what the run has logged so far."""
        if attempt.over is not None:
            attempt.stop(attempt.over)
        elif why := attempt.beyond(self.how):
            attempt.stop(why)
        elif self.spec.early_terminate and self._bad(trial):
            attempt.stop("stopped early")

    def _bad(self, trial: Trial) -> bool:
        run_id, record = trial.config.run_id, self._record(trial.config.run_id)
        rows = record.rows() if record else []
        new = rows[self.rows_seen.get(run_id, 0) :]
        self.rows_seen[run_id] = len(rows)
        name = self.spec.metrics[0].name
        return any([self.planner.report(trial.number, int(row["epoch"]), row.get(name)) for row in new])

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
            self.done.append(run_id)
            self._tell(trial, "finished")
            self._say_finished(trial, attempt)
        elif attempt.over == "stopped early":
            self._mark(trial, "stopped", f"stopped early by {self.spec.name}'s early_terminate")
            self.stopped.append(run_id)
            self._tell(trial, "stopped")
        else:
            self._unfinished(trial, attempt, code)

    def _unfinished(self, trial: Trial, attempt: Attempt, code: int) -> None:
        run_id = trial.config.run_id
        if attempt.over:
            self._mark(trial, "failed", attempt.over)
        why, record = self._why(run_id, code), self._record(run_id)
        if attempt.number <= self.how.retries and record is not None and record.status not in ("diverged", "interrupted"):
            if self.plain:
                print(f"[again] {run_id}  {why}; attempt {attempt.number + 1}", flush=True)
            self.waiting.append((trial, attempt.number + 1))
            return
        if code < 0 and not attempt.over:
            self._mark(trial, "failed", f"killed by signal {-code}")
        self.failed[run_id] = self._why(run_id, code)
        self._tell(trial, "diverged" if record is not None and record.status == "diverged" else "failed")
        if self.plain:
            print(f"[failed] {run_id}  {self.failed[run_id]}", flush=True)

    def _mark(self, trial: Trial, status: str, why: str) -> None:
        config = trial.config
        self.store.mark(self.spec.name, config.run_id, status, why, config.model_dump(mode="json"), trial.number)

    def _tell(self, trial: Trial, state: str) -> None:
        record = self._record(trial.config.run_id)
        rows, summary = (record.rows(), record.summary or {}) if record else ([], {})
        self.planner.tell(trial.number, state, [metric.value(rows, summary) for metric in self.spec.metrics])

    def _say_finished(self, trial: Trial, attempt: Attempt) -> None:
        if not self.plain:
            return
        count, c = len(self.done) + len(self.failed), trial.config
        of = "" if self.total is None else f"/{self.total}"
        score = shown(self.store.read(self.spec.name, c.run_id).summary)
        print(f"[{count}{of}] {c.run_id}  {score}  {attempt.seconds:.0f} s  {c.model}  {c.binarizer}  seed {c.seed}", flush=True)

    def _why(self, run_id: str, code: int) -> str:
        record = self._record(run_id)
        if record is not None and record.error:
            return f"{record.status}: {record.error}"
        if code < 0:
            return f"killed by signal {-code}"
        try:
            lines = process.log_of(self.store, self.spec.name, run_id).read_text(errors="replace").strip().splitlines()
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
        table = Table(title=f"{self.spec.name}: {len(self.done)}{of} finished, {len(self.failed)} failed", title_justify="left")
        for column in ("run", "model", "binarizer", "seed", "attempt", "seconds"):
            table.add_column(column)
        for run_id, (trial, a) in self.live.items():
            c = trial.config
            table.add_row(run_id, c.model, c.binarizer, str(c.seed), str(a.number), f"{a.seconds:.0f}")
        return table


def rebuilt(spec: SweepSpec, store: RunStore, sampler: str = "tpe") -> tuple[Planner, list[str], list[str]]:
    """(the planner as the sweep's records leave it, ids of finished runs, ids of runs stopped early).

    A grid's failed and diverged runs are asked again, a search's are points that failed. Raises what Planner raises.
    """
    planner, past = Planner(spec, sampler), []
    configs = {c.run_id for c in spec.configs}
    for record in store.runs_of(spec.name):
        if spec.is_search or record.run_id in configs:
            again = not spec.is_search and record.status in ("failed", "diverged")
            past.append(
                Past(
                    make(record.config),
                    "again" if again else record.status,
                    record.rows(),
                    record.summary or {},
                    record.provenance.get("trial"),
                )
            )
    planner.replay(past)
    return planner, *([p.config.run_id for p in past if p.state == state] for state in ("finished", "stopped"))


def run(spec: SweepSpec, results: Path, how: How | None = None, dry_run: bool = False, sampler: str = "tpe") -> dict[str, Any]:
    """Runs what is not finished. Returns counts and ids; raises ValueError before the first start."""
    how, store = how or How(), RunStore(results)
    check(spec.configs)
    planner, skipped, stopped = rebuilt(spec, store, sampler)
    print(f"sweep {spec.name}: {estimate.counts(spec, len(skipped))}", flush=True)
    if dry_run:
        return estimate.dry_run(spec, store, how)
    console = Console()
    to_run = None if spec.is_search else len(spec.configs) - len(skipped) - len(stopped)
    engine = _Engine(spec, store, how, planner, to_run, not console.is_terminal, skipped=skipped, stopped=stopped)
    screen = contextlib.nullcontext() if engine.plain else Live(console=console, refresh_per_second=4)
    try:
        with screen as live:
            while engine.busy:
                engine.step()
                if live is not None:
                    live.update(engine.table())
                time.sleep(_LOOK)
    finally:
        engine.stop()
    for run_id, why in engine.failed.items():
        print(f"failed {run_id}: {why}", file=sys.stderr)
    return {
        "sweep": spec.name, "runs": len(planner.trials) if spec.is_search else len(spec.configs),
        "skipped": len(engine.skipped), "finished": len(engine.done), "stopped": len(engine.stopped), "failed": len(engine.failed),
        "failed_ids": sorted(engine.failed),
    }  # fmt: skip
