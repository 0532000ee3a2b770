"""A sweep as Ray Tune's hooks see it. A Ray trial is one attempt of a run (worker.py)."""

import contextlib
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tbn_bench.sweep.launch import Launch
from tbn_bench.sweep.process import PATIENCE
from tbn_bench.sweep.trial import Trial
from tbn_bench.sweep.worker import attempt

LOSSES = 3  # times that a run's worker or node may be lost, beyond --retries
FINISHED = "FINISHED"  # ray.tune.search.Searcher.FINISHED
_LOOK = 0.2  # seconds between two looks at runs whose workers are ending


class Mark(NamedTuple):
    """How a run ended, to be written into its record once no process holds it."""

    trial: Trial
    status: str
    why: str


@dataclass
class ClusterLaunch(Launch):
    """key: Ray's name of an attempt. order: what every attempt is told."""

    order: dict[str, Any] = field(default_factory=dict)
    live: dict[str, Trial] = field(default_factory=dict)
    waiting: deque[Trial] = field(default_factory=deque)  # to be tried again
    crashes: Counter[str] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)
    condemned: set[str] = field(default_factory=set)
    marks: dict[str, Mark] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        # Ray pickles its hooks into its own state, which nobody reads: the records are the state
        return (object, ())

    def suggest(self, key: str) -> dict[str, Any] | str | None:
        """Searcher.suggest. None while live runs may be lost and come again."""
        self.settle()
        trial = self._next_trial()
        if trial is None:
            return None if self.live else FINISHED
        self.live[key] = trial
        return self.order | {
            "run_id": trial.config.run_id,
            "config": trial.config.model_dump(mode="json"),
            "trial": trial.number,
        }

    def _next_trial(self) -> Trial | None:
        if self.waiting:
            return self.waiting.popleft()
        return None if self.exhausted else self.next()

    def report(self, key: str, result: dict[str, Any]) -> bool:
        """Stopper.__call__: whether to stop the run."""
        trial = self.live.get(key)
        if trial is None or "epoch" not in result or not self.spec.metrics:
            return False
        behind = self.planner.report(trial.number, result["epoch"], result["value"])
        if behind:
            self.condemned.add(trial.config.run_id)
        return behind

    def complete(self, key: str, result: dict[str, Any], lost: str | None = None) -> None:
        """An attempt has ended. lost: why its worker or its node is gone, in Ray's words."""
        trial = self.live.pop(key)
        run_id = trial.config.run_id
        retries = self.options.retries
        if self.store.finished(self.spec.name, run_id):
            self.finish(trial)
        elif run_id in self.condemned:
            self.stop_early(trial)
        elif lost is not None:
            self.losses[run_id] += 1
            retry = self.losses[run_id] <= retries + LOSSES
            self._again(trial, f"lost its worker: {lost}", retry)
        else:
            error = result.get("error") or "ended without a result"
            self.crashes[run_id] += 1
            diverged = error.startswith("DivergedError")
            self._again(trial, error, not diverged and self.crashes[run_id] <= retries)

    def _again(self, trial: Trial, why: str, retry: bool) -> None:
        run_id = trial.config.run_id
        if not retry:
            self.mark(trial, "failed", why)
            self.give_up(trial, why)
            return
        number = 1 + self.crashes[run_id] + self.losses[run_id]
        self.say(f"[again] {run_id}  {why}; attempt {number}")
        self.waiting.append(trial)

    def mark(self, trial: Trial, status: str, why: str) -> None:
        """Later: the run's worker may still be about to end."""
        run_id = trial.config.run_id
        self.marks[run_id] = Mark(trial, status, why)

    def settle(self) -> None:
        """Writes the marks of runs whose workers are gone."""
        for run_id, mark in list(self.marks.items()):
            if self._is_open(run_id) and not self._is_held(run_id):
                super().mark(*mark)
            if not self._is_open(run_id):
                del self.marks[run_id]

    def _is_held(self, run_id: str) -> bool:
        """Marking a held run would wait for it, and Ray for us."""
        try:
            return self.store.is_held(self.spec.name, run_id)
        except OSError:
            return True

    def _is_open(self, run_id: str) -> bool:
        """Whether no process has written how the run ended."""
        record = self.record(run_id)
        if record is None:
            return True
        return record.status == "running"

    def end(self) -> None:
        """Waits for the workers, which have been told to end."""
        for trial in self.live.values():
            if self.record(trial.config.run_id) is not None:
                self.mark(trial, "interrupted", "stopped with the launcher")
        limit = time.monotonic() + PATIENCE
        while self.marks and time.monotonic() < limit:
            self.settle()
            time.sleep(_LOOK)


def hooks(launch: ClusterLaunch) -> tuple[Any, Any, Any]:
    """Ray Tune's Searcher, Stopper and Callback over the planner."""
    from ray import tune
    from ray.tune.search import Searcher

    class Ask(Searcher):  # type: ignore[misc]
        def suggest(self, trial_id: str) -> Any:
            return launch.suggest(trial_id)

        def on_trial_complete(
            self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
        ) -> None:
            if not error:  # the callback knows more about a lost worker
                launch.complete(trial_id, result or {})

        def save(self, checkpoint_path: str) -> None:
            Path(checkpoint_path).touch()  # the records are the state

        def restore(self, checkpoint_path: str) -> None:
            raise NotImplementedError("start the sweep again: it continues from its records")

    class Stop(tune.Stopper):  # type: ignore[misc]
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return launch.report(trial_id, result)

        def stop_all(self) -> bool:
            return False

    class Note(tune.Callback):  # type: ignore[misc]
        def on_trial_error(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            launch.complete(trial.trial_id, {}, lost=_reason(trial.error_file))

    return Ask(), Stop(), Note()


def _reason(file: str | None) -> str:
    """The last line of Ray's notes on a trial that ended without a result."""
    with contextlib.suppress(OSError):
        text = Path(file).read_text(errors="replace") if file else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if lines:
            return lines[-1]
    return "no reason known"


def tune_runs(launch: ClusterLaunch, resources: dict[str, float], folder: Path) -> None:
    """Returns when every run has ended. Raises KeyboardInterrupt on Ctrl-C.

    resources: by Ray's names. folder: for Ray's own state.
    """
    from ray import tune

    ask, stop, note = hooks(launch)
    reserved = {name.lower(): amount for name, amount in resources.items()}
    tuner = tune.Tuner(
        tune.with_resources(attempt, reserved),
        tune_config=tune.TuneConfig(
            search_alg=ask,
            num_samples=-1,
            max_concurrent_trials=launch.options.jobs,
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(folder),
            stop=stop,
            callbacks=[note],
            verbose=0,
            # complete() tries again: it tells crashes from losses
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    log = launch.store.root / "logs" / launch.spec.name / "ray.txt"
    with log.open("w") as words, contextlib.redirect_stdout(words):
        tuner.fit()
