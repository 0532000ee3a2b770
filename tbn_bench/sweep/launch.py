"""What every engine knows of its work on a sweep: which runs are done, which ended otherwise and why, and what the planner is told."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from tbn_bench.config import RunConfig, make
from tbn_bench.experiment import build
from tbn_bench.records.store import RecordError, RunRecord, RunStore, tell
from tbn_bench.scores import shown
from tbn_bench.sweep.planner import Past, Planner, Trial
from tbn_bench.sweep.process import How
from tbn_bench.sweep.spec import SweepSpec

_BUILT = (
    "data",
    "model",
    "binarizer",
    "task",
    "keep",
    "optimizer",
    "momentum",
    "mixup",
    "cutmix",
    "tta",
    "select",
)


def check(configs: list[RunConfig]) -> None:
    """Builds every distinct network, with its optimizer and task, and runs every distinct model once.

    Raises ValueError listing every config that cannot be built.
    """
    errors: dict[str, None] = {}
    seen: set[tuple[Any, ...]] = set()
    ran: set[tuple[str, str]] = set()
    for config in configs:
        built = tuple(getattr(config, name) for name in _BUILT)
        if built in seen:
            continue
        seen.add(built)
        try:
            build.check(config, forward=(config.data, config.model) not in ran)
            ran.add((config.data, config.model))
        except ValueError as error:
            errors |= {
                f"{config.model} with {config.binarizer}: {line}": None
                for line in str(error).splitlines()
            }
    if errors:
        raise ValueError("\n".join(errors))


@dataclass
class Launch:
    """One launcher's work on one sweep, begun where the sweep's records leave it. Raises what Planner raises.

    An engine asks for a trial by `next`, and says what came of it by finish, stop_early or give_up.
    """

    spec: SweepSpec
    store: RunStore
    how: How
    sampler: str = "tpe"
    plain: bool = True  # a line for every run, instead of an engine's own screen
    planner: Planner = field(init=False)
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # finished before this launcher came
    stopped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # and why
    exhausted: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)

    def __post_init__(self) -> None:
        """A grid's failed and diverged runs are asked again, a search's are points that failed."""
        self.store.refuse_other_case(self.spec.name)
        self.planner = Planner(self.spec, self.sampler)
        past = list(self._past())
        self.planner.replay(past)
        self.skipped += [p.config.run_id for p in past if p.state == "finished"]
        self.stopped += [p.config.run_id for p in past if p.state == "stopped"]
        self.total = (
            None
            if self.spec.is_search
            else len(self.spec.configs) - len(self.skipped) - len(self.stopped)
        )

    def _past(self) -> Iterator[Past]:
        """What the records say; a damaged one says nothing."""
        wanted = {c.run_id for c in self.spec.configs}
        if self.spec.is_search:
            self._refuse_damage()
        for record in self.store.runs_of(self.spec.name):
            if self.spec.is_search or record.run_id in wanted:
                again = not self.spec.is_search and record.status in ("failed", "diverged")
                state, trial = (
                    "again" if again else record.status,
                    (record.provenance or {}).get("trial"),
                )
                try:
                    config = make(record.config)
                except ValueError as error:
                    raise ValueError(
                        f"{record.path}: this version refuses its config: {error}"
                    ) from error
                with contextlib.suppress(RecordError):
                    yield Past(config, state, record.rows(), record.summary or {}, trial)

    def _refuse_damage(self) -> None:
        """A search without one of its trials would draw another config by that number. Raises ValueError naming the runs."""
        folders = sorted(
            path.name for path in self.store.path(self.spec.name, "x").parent.glob("*/")
        )
        if damaged := {run_id: why for run_id in folders if (why := self._damage(run_id))}:
            raise ValueError("\n".join(f"run {run_id}: {why}" for run_id, why in damaged.items()))

    def next(self) -> Trial | None:
        """A run to be made now; None when there are no more. What has finished meanwhile, or cannot be built, is passed over."""
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
        if not (
            self.store.path(self.spec.name, run_id) / "run.json"
        ).exists() and not self.store.finished(self.spec.name, run_id):
            return None
        try:
            self.store.read(self.spec.name, run_id).rows()
        except RecordError as error:
            return f"its record cannot be used ({error}); see `tbn-bench runs verify` (--set-aside moves damaged runs away), then run the sweep again"
        return None

    def _possible(self, trial: Trial) -> bool:
        """Whether the network of a drawn config can be built; if not, the point has failed, with the reason in its record."""
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
        c = trial.config
        self.done.append(c.run_id)
        self._tell(trial, "finished")
        count, of = (
            len(self.done) + len(self.failed),
            "" if self.total is None else f"/{self.total}",
        )
        summary = self.store.read(self.spec.name, c.run_id).summary or {}
        seconds = summary.get("seconds", float("nan"))
        self.say(
            f"[{count}{of}] {c.run_id}  {shown(summary)}  {seconds:.0f} s  {c.model}  {c.binarizer}  seed {c.seed}"
        )

    def stop_early(self, trial: Trial) -> None:
        self.mark(trial, "stopped", f"stopped early by {self.spec.name}'s early_terminate")
        self.stopped.append(trial.config.run_id)
        self._tell(trial, "stopped")

    def give_up(self, trial: Trial, why: str) -> None:
        """No further attempt. What the record says (NaN) goes before what the engine saw."""
        run_id, record = trial.config.run_id, self.record(trial.config.run_id)
        self.failed[run_id] = why
        self._tell(
            trial, "diverged" if record is not None and record.status == "diverged" else "failed"
        )
        self.say(f"[failed] {run_id}  {why}")

    def mark(self, trial: Trial, status: str, why: str) -> None:
        """Writes into the record how a run ended that could not say it."""
        config = trial.config
        self.store.mark(
            self.spec.name, config.run_id, status, why, config.model_dump(mode="json"), trial.number
        )

    def record(self, run_id: str) -> RunRecord | None:
        try:
            return self.store.read(self.spec.name, run_id)
        except (RecordError, KeyError):
            return None

    def _tell(self, trial: Trial, state: str) -> None:
        rows, summary = [], {}
        with contextlib.suppress(RecordError, KeyError):
            record = self.store.read(self.spec.name, trial.config.run_id)
            rows, summary = record.rows(), record.summary or {}
        self.planner.tell(
            trial.number, state, [metric.value(rows, summary) for metric in self.spec.metrics]
        )

    def say(self, line: str) -> None:
        if self.plain:
            tell(line, file=self.out)

    def summary(self) -> dict[str, Any]:
        """Counts and ids; names the failed on standard error."""
        for run_id, why in self.failed.items():
            tell(f"failed {run_id}: {why}", file=sys.stderr)
        return {
            "sweep": self.spec.name, "runs": len(self.planner.trials) if self.spec.is_search else len(self.spec.configs),
            "skipped": len(self.skipped), "finished": len(self.done), "stopped": len(self.stopped), "failed": len(self.failed),
            "failed_ids": sorted(self.failed),
        }  # fmt: skip
