"""The work of every engine on a sweep: which runs are done, which ended otherwise and why.

It tells the planner what came of each run.
"""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from tbn_bench.config import make
from tbn_bench.records.files import RecordError
from tbn_bench.records.run import RunRecord
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell
from tbn_bench.scores import shown
from tbn_bench.sweep.checked import check
from tbn_bench.sweep.execution import ExecutionOptions
from tbn_bench.sweep.planner import Planner
from tbn_bench.sweep.spec import SweepSpec
from tbn_bench.sweep.trial import PastTrial, Trial


@dataclass
class Launch:
    """One launcher's work on one sweep. It begins where the sweep's records end.

    An engine asks for a trial by `next`, and reports the outcome by finish, stop_early or give_up.
    out: where a line for every run goes. Raises what Planner raises.
    """

    spec: SweepSpec
    store: RunStore
    options: ExecutionOptions
    sampler: str = "tpe"
    planner: Planner = field(init=False)
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # finished before this launcher came
    stopped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # and why
    exhausted: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)

    def __post_init__(self) -> None:
        """A grid's failed and diverged runs are asked again; a search's are points that failed."""
        self.store.refuse_other_case(self.spec.name)
        self.planner = Planner(self.spec, self.sampler)
        past = list(self._past())
        self.planner.replay(past)
        for run in past:
            if run.state == "finished":
                self.skipped.append(run.config.run_id)
            elif run.state == "stopped":
                self.stopped.append(run.config.run_id)
        self.total: int | None = None
        if not self.spec.is_search:
            self.total = len(self.spec.configs) - len(self.skipped) - len(self.stopped)

    def _past(self) -> Iterator[PastTrial]:
        """The runs in the records; a damaged record counts as none."""
        wanted = {config.run_id for config in self.spec.configs}
        if self.spec.is_search:
            self._refuse_damage()
        for record in self.store.runs_of(self.spec.name):
            if not self.spec.is_search and record.run_id not in wanted:
                continue
            try:
                config = make(record.config)
            except ValueError as error:
                raise ValueError(
                    f"{record.path}: this version refuses its config: {error}"
                ) from error
            state = record.status
            if not self.spec.is_search and state in ("failed", "diverged"):
                state = "again"
            number = (record.provenance or {}).get("trial")
            with contextlib.suppress(RecordError):
                yield PastTrial(config, state, record.rows(), record.summary or {}, number)

    def _refuse_damage(self) -> None:
        """Raises ValueError naming the damaged runs.

        A search without one of its trials would draw another config by that number.
        """
        folder = self.store.path(self.spec.name, "x").parent
        lines = []
        for path in sorted(folder.glob("*/")):
            why = self._damage(path.name)
            if why:
                lines.append(f"run {path.name}: {why}")
        if lines:
            raise ValueError("\n".join(lines))

    def next(self) -> Trial | None:
        """A trial to run now; None when there are no more.

        Trials that have finished meanwhile, or that cannot be built, are passed over.
        """
        while trial := self.planner.ask():
            if why := self._damage(trial.config.run_id):
                self.give_up(trial, why)
            elif self.store.finished(self.spec.name, trial.config.run_id):
                self.skip(trial)
            elif not self.spec.is_search or self._possible(trial):
                return trial
        self.exhausted = True
        return None

    def _damage(self, run_id: str) -> str | None:
        """Why a run can be neither skipped nor continued, in words."""
        header = self.store.path(self.spec.name, run_id) / "run.json"
        if not header.exists() and not self.store.finished(self.spec.name, run_id):
            return None
        try:
            self.store.read(self.spec.name, run_id).rows()
        except RecordError as error:
            return (
                f"its record cannot be used ({error}); see `tbn-bench runs verify` "
                "(--set-aside moves damaged runs away), then run the sweep again"
            )
        return None

    def _possible(self, trial: Trial) -> bool:
        """Whether the network of a drawn config can be built.

        If not, the point has failed, with the reason in its record.
        """
        try:
            check([trial.config])
        except ValueError as error:
            why = " ".join(str(error).split())
            self.mark(trial, "failed", why)
            self.give_up(trial, why)
            return False
        return True

    def skip(self, trial: Trial) -> None:
        self.skipped.append(trial.config.run_id)
        self._tell(trial, "finished")

    def finish(self, trial: Trial) -> None:
        """The run is recorded as finished."""
        config = trial.config
        self.done.append(config.run_id)
        self._tell(trial, "finished")
        count = len(self.done) + len(self.failed)
        of = "" if self.total is None else f"/{self.total}"
        summary = self.store.read(self.spec.name, config.run_id).summary or {}
        seconds = summary.get("seconds", float("nan"))
        self.say(
            f"[{count}{of}] {config.run_id}  {shown(summary)}  {seconds:.0f} s  "
            f"{config.model}  {config.binarizer}  seed {config.seed}"
        )

    def stop_early(self, trial: Trial) -> None:
        why = f"stopped early by {self.spec.name}'s early_terminate"
        self.mark(trial, "stopped", why)
        self.stopped.append(trial.config.run_id)
        self._tell(trial, "stopped")

    def give_up(self, trial: Trial, why: str) -> None:
        """No further attempt. The record (diverged) overrides what the engine saw."""
        run_id = trial.config.run_id
        record = self.record(run_id)
        diverged = record is not None and record.status == "diverged"
        self.failed[run_id] = why
        self._tell(trial, "diverged" if diverged else "failed")
        self.say(f"[failed] {run_id}  {why}")

    def mark(self, trial: Trial, status: str, why: str) -> None:
        """Writes into the record how a run ended, if its own process could not."""
        config = trial.config
        values = config.model_dump(mode="json")
        self.store.mark(self.spec.name, config.run_id, status, why, values, trial.number)

    def record(self, run_id: str) -> RunRecord | None:
        try:
            return self.store.read(self.spec.name, run_id)
        except (RecordError, KeyError):
            return None

    def _tell(self, trial: Trial, state: str) -> None:
        rows: list[dict[str, Any]] = []
        summary: dict[str, Any] = {}
        with contextlib.suppress(RecordError, KeyError):
            record = self.store.read(self.spec.name, trial.config.run_id)
            rows = record.rows()
            summary = record.summary or {}
        values = [metric.value(rows, summary) for metric in self.spec.metrics]
        self.planner.tell(trial.number, state, values)

    def say(self, line: str) -> None:
        tell(line, file=self.out)

    def summary(self) -> dict[str, Any]:
        """Counts and ids; names the failed on standard error."""
        for run_id, why in self.failed.items():
            tell(f"failed {run_id}: {why}", file=sys.stderr)
        runs = len(self.planner.trials) if self.spec.is_search else len(self.spec.configs)
        return {
            "sweep": self.spec.name,
            "runs": runs,
            "skipped": len(self.skipped),
            "finished": len(self.done),
            "stopped": len(self.stopped),
            "failed": len(self.failed),
            "failed_ids": sorted(self.failed),
        }
