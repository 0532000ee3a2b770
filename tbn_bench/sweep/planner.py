"""The next run of a sweep, and the runs to stop: ask, report, tell, the same for every engine.

The next trial depends on the sweep file, the trial's number and what has been told, and on nothing
else: no random state and no study lives from one ask to the next. A planner that is rebuilt from
the runs' records (`replay`) therefore continues exactly.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence

from tbn_bench.config import RunConfig
from tbn_bench.sweep.schema import Metric
from tbn_bench.sweep.space import Point, draw
from tbn_bench.sweep.spec import REPEATS, SweepSpec
from tbn_bench.sweep.trial import (
    STATES,
    PastTrial,
    Trial,
    beats,
    finished_scores,
    has_reached,
    is_behind,
)
from tbn_bench.sweep.values import is_number

SAMPLERS = ("tpe", "gp")
_SAME = 3  # repeats of a search's sampler, after which points are drawn at random


class Planner:
    """The trials of a sweep.

    sampler: how bayes and custom search: tpe, or gp (a Gaussian process, seconds per ask). Raises
    ValueError for an unknown sampler and for a search without Optuna.
    """

    def __init__(self, spec: SweepSpec, sampler: str = "tpe"):
        if sampler not in SAMPLERS:
            known = ", ".join(SAMPLERS)
            raise ValueError(f"sampler must be one of {known}, got {sampler!r}")
        if spec.is_search:
            from tbn_bench.sweep import search

            search.library()
        self.spec = spec
        self.sampler = sampler
        self.trials: dict[int, Trial] = {}
        self._again: deque[int] = deque()
        self._free = 0  # every number below has been asked
        self._points: dict[int, Point | None] = {}

    # The next trial

    def ask(self) -> Trial | None:
        """The next trial.

        None if nothing is left, run_cap is reached, or a run has reached its metric's target.
        Raises ValueError for a draw that RunConfig refuses.
        """
        if self._has_reached_target():
            return None
        if self._again:
            return self.trials[self._again.popleft()]
        while self._free in self.trials:
            self._free += 1
        next_config = self._search if self.spec.is_search else self._listed
        config = next_config(self._free)
        if config is None:
            return None
        trial = Trial(self._free, config)
        self.trials[self._free] = trial
        return trial

    def _listed(self, number: int) -> RunConfig | None:
        configs = self.spec.configs
        if number >= len(configs):
            return None
        return configs[number]

    def _search(self, number: int) -> RunConfig | None:
        """The sampler's draw that is no repeat, else a random one; None if the space is used up."""
        from tbn_bench.sweep import search

        spec = self.spec
        if spec.run_cap is not None and number >= spec.run_cap:
            return None
        asked = set()
        for trial in self.trials.values():
            asked.add(trial.config.run_id)
        known = self._known()
        for attempt in range(_SAME + REPEATS):
            seed = f"{spec.name}:{number}:{attempt}"
            if attempt < _SAME:
                point = search.suggest(spec, known, seed, self.sampler)
            else:
                point = draw(spec.space, seed)
            config = spec.config(point)
            if config.run_id not in asked:
                return config
        return None

    def _known(self) -> list[tuple[Point, list[float] | None]]:
        """(point, values or None while it runs) of the trials in the space, by number."""
        known = []
        for number, trial in sorted(self.trials.items()):
            if number not in self._points:
                self._points[number] = self.spec.point(trial.config)
            point = self._points[number]
            values = self._values(trial)
            if point is not None and (values is not None or trial.state == "running"):
                known.append((point, values))
        return known

    def _values(self, trial: Trial) -> list[float] | None:
        """A trial's values, else W&B's stand-ins (`impute`); None if one is missing."""
        values = []
        for place, metric in enumerate(self.spec.metrics):
            own = trial.value(place)
            if own is None or trial.state in ("failed", "diverged", "running"):
                own = self._stand_in(trial, place, metric)
            if own is None:
                return None
            values.append(float(own))
        return values

    def _stand_in(self, trial: Trial, place: int, metric: Metric) -> float | None:
        """W&B's bayes_search.py, impute. Where it takes 0 without any number, here is none."""
        impute = metric.impute_while_running if trial.state == "running" else metric.impute
        if impute == "worst":
            return self._worst(place, metric)
        if place > 0 or not trial.reports:  # only the first metric is reported
            return None
        if impute == "latest":
            newest = max(trial.reports)
            return trial.reports[newest]
        if impute == "best":
            return metric.best(list(trial.reports.values()))
        return None

    def _worst(self, place: int, metric: Metric) -> float | None:
        """Of the trials that have ended with a value of the metric."""
        told = []
        for trial in self.trials.values():
            value = trial.value(place)
            if value is not None and trial.state in ("finished", "stopped"):
                told.append(value)
        return max(told, key=lambda value: metric.sign * value, default=None)

    def _has_reached_target(self) -> bool:
        """Whether any run has reached the target of a metric.

        schema.json: "the sweep will finish once ...".
        """
        for place, metric in enumerate(self.spec.metrics):
            if any(has_reached(trial, place, metric) for trial in self.trials.values()):
                return True
        return False

    # The past

    def report(self, number: int, epoch: int, value: float | None) -> bool:
        """The first metric after `epoch` (from 0). True: early_terminate stops the trial.

        A value that is no number counts as the worst there is. None, a row without the metric,
        changes nothing.
        """
        trial = self._trial(number)
        first = self.spec.metrics[0] if self.spec.metrics else None
        sign = 1 if first is None else first.sign
        if value is not None:
            worst = sign * math.inf
            trial.reports[epoch] = float(value) if is_number(value) else worst
        rule = self.spec.early_terminate
        if rule is None:
            return False
        return is_behind(trial, self.trials.values(), rule, sign)

    def tell(self, number: int, state: str, values: Sequence[float | None] = ()) -> None:
        """How a trial ended, with the value of each metric (Metric.value) that has one.

        The last call counts. Raises ValueError for an unknown number or state, and for a finished
        trial of a search that has no value.
        """
        trial = self._trial(number)
        if state not in STATES:
            raise ValueError(f"state must be one of {', '.join(STATES)}, got {state!r}")
        complete = len(values) == len(self.spec.metrics) and None not in values
        if state == "finished" and self.spec.is_search and not complete:
            names = ", ".join(metric.name for metric in self.spec.metrics)
            raise ValueError(
                f"trial {number} finished without {names}: "
                "a metric must be a key of a run's rows or summary"
            )
        trial.state = state
        trial.values = tuple(value if is_number(value) else None for value in values)

    def _trial(self, number: int) -> Trial:
        if number not in self.trials:
            raise ValueError(f"trial {number} was not asked; asked: {len(self.trials)}")
        return self.trials[number]

    def replay(self, past: Iterable[PastTrial]) -> None:
        """Takes the runs of an earlier planner of the same sweep.

        Ended ones count as told; the others are asked again first. Records of configs that a grid
        or random sweep does not have (any more) are skipped. Raises ValueError for a record of a
        search without its number, and for two of one number.
        """
        numbers = {config.run_id: number for number, config in enumerate(self.spec.configs)}
        for run in past:
            number = numbers.get(run.config.run_id)
            if self.spec.is_search:
                number = run.number
                if number is None:
                    raise ValueError(
                        f"run {run.config.run_id} has no trial number, "
                        f"and {self.spec.method} cannot go on without it"
                    )
            if number is not None:
                self._take(number, run)
        open_trials = [n for n, trial in self.trials.items() if trial.state not in STATES]
        self._again = deque(sorted(open_trials))

    def _take(self, number: int, run: PastTrial) -> None:
        if number in self.trials:
            raise ValueError(
                f"trial {number} is there already, as run {self.trials[number].config.run_id}, "
                f"not {run.config.run_id}"
            )
        self.trials[number] = Trial(number, run.config)
        metrics = self.spec.metrics
        for row in run.rows if metrics else []:
            if "epoch" in row:
                self.report(number, int(row["epoch"]), row.get(metrics[0].name))
        if run.state in STATES:
            values = [metric.value(run.rows, run.summary) for metric in metrics]
            self.tell(number, run.state, values)

    # The results

    def best(self) -> int | None:
        """The finished trial with the best first metric, of equal ones the first.

        None without any. Raises ValueError without a metric.
        """
        if not self.spec.metrics:
            raise ValueError(
                "the sweep file has no metric: add metric: {name: ..., goal: minimize or maximize}"
            )
        done = self._finished()
        return min(done, key=lambda number: (done[number][0], number), default=None)

    def pareto(self) -> list[int]:
        """The finished trials that no other one beats in any metric without losing in another."""
        done = self._finished()
        found = []
        for number, own in sorted(done.items()):
            if not any(beats(other, own) for other in done.values()):
                found.append(number)
        return found

    def _finished(self) -> dict[int, list[float]]:
        return finished_scores(self.trials.values(), self.spec.metrics)
