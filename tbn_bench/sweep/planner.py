"""Which run comes next, and which one need not go on: ask / report / tell, the same for every engine.

What is asked next is a function of the sweep file, the trial's number and what has been told, and of nothing else: neither a random state
nor a study lives from one ask to the next. A planner that is rebuilt from the runs' records (`replay`) therefore continues exactly.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tbn_bench.config import RunConfig
from tbn_bench.sweep.forms import is_number
from tbn_bench.sweep.spec import REPEATS, SweepSpec, draw

STATES = ("finished", "failed", "stopped", "diverged")
SAMPLERS = ("tpe", "gp")
_SAME = 3  # draws of a search's sampler that were all there already; then any new point will do


@dataclass
class Trial:
    """One run of a sweep: its number from 0, its config, and what is known of it. `values` follow the sweep's metrics."""

    number: int
    config: RunConfig
    state: str = "running"
    values: tuple[float | None, ...] = ()
    reports: dict[int, float] = field(default_factory=dict)  # epoch -> the first metric


@dataclass(frozen=True)
class Past:
    """A run's record, as replay takes it. For grid and random the config tells the number; a search needs the number it was asked by.

    state: one of STATES, or anything else (running, interrupted) for a run that is to be asked again.
    """

    config: RunConfig
    state: str
    rows: list[dict[str, Any]]
    summary: dict[str, Any] = field(default_factory=dict)
    number: int | None = None


class Planner:
    """The plan of a sweep. `sampler` is how bayes and custom search: tpe, or gp (a Gaussian process, seconds per ask).

    Raises ValueError for an unknown sampler and for a search without Optuna.
    """

    def __init__(self, spec: SweepSpec, sampler: str = "tpe"):
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
        if spec.is_search:
            from tbn_bench.sweep import search

            search.library()
        self.spec, self.sampler = spec, sampler
        self.trials: dict[int, Trial] = {}
        self._again: deque[int] = deque()
        self._free = 0  # every number below has been asked
        self._points: dict[int, dict[str, Any] | None] = {}

    # What comes next

    def ask(self) -> Trial | None:
        """The next trial; None when nothing is left, run_cap is reached, or a run has reached its metric's target.

        Raises ValueError for a draw that RunConfig refuses.
        """
        if self._reached():
            return None
        if self._again:
            return self.trials[self._again.popleft()]
        while self._free in self.trials:
            self._free += 1
        config = self._search(self._free) if self.spec.is_search else self._listed(self._free)
        if config is None:
            return None
        return self.trials.setdefault(self._free, Trial(self._free, config))

    def _listed(self, number: int) -> RunConfig | None:
        return self.spec.configs[number] if number < len(self.spec.configs) else None

    def _search(self, number: int) -> RunConfig | None:
        """The sampler's draw that is no repeat; a random one if it only repeats itself; None when the space is used up."""
        from tbn_bench.sweep import search

        if number >= (self.spec.run_cap or math.inf):
            return None
        asked = {t.config.run_id for t in self.trials.values()}
        known = self._known()
        for attempt in range(_SAME + REPEATS):
            seed = f"{self.spec.name}:{number}:{attempt}"
            point = (
                search.suggest(self.spec, known, seed, self.sampler)
                if attempt < _SAME
                else draw(self.spec.space, seed)
            )
            config = self.spec.config(point)
            if config.run_id not in asked:
                return config
        return None

    def _known(self) -> list[tuple[dict[str, Any], list[float] | None]]:
        """(point, values or None while it runs) of every trial that the space can have given, by number."""
        known = []
        for trial in sorted(self.trials.values(), key=lambda t: t.number):
            if trial.number not in self._points:
                self._points[trial.number] = self.spec.point(trial.config)
            point, values = self._points[trial.number], self._values(trial)
            if point is not None and (values is not None or trial.state == "running"):
                known.append((point, values))
        return known

    def _values(self, trial: Trial) -> list[float] | None:
        """What a search is told of a trial: its values, else W&B's stand-ins (`impute`); None where there is none."""
        values = []
        for i, metric in enumerate(self.spec.metrics):
            own = trial.values[i] if i < len(trial.values) else None
            if own is None or trial.state in ("failed", "diverged", "running"):
                own = self._stand_in(
                    trial,
                    i,
                    metric.impute_while_running if trial.state == "running" else metric.impute,
                )
            values.append(own)
        return None if None in values else [float(v) for v in values if v is not None]

    def _stand_in(self, trial: Trial, i: int, how: str) -> float | None:
        """W&B's bayes_search.py, impute; where it takes 0 for want of any number, the trial is left out."""
        reports = [trial.reports[e] for e in sorted(trial.reports)] if i == 0 else []
        sign = self.spec.metrics[i].sign
        if how == "worst":
            told = [
                t.values[i]
                for t in self.trials.values()
                if t.state in ("finished", "stopped") and i < len(t.values)
            ]
            return max((v for v in told if v is not None), key=lambda v: sign * v, default=None)
        if how == "latest":
            return reports[-1] if reports else None
        return min(reports, key=lambda v: sign * v, default=None) if how == "best" else None

    def _reached(self) -> bool:
        """Whether any run has reached the target of a metric (schema.json: "the sweep will finish once ...")."""
        return any(
            m.target is not None and m.sign * (v - m.target) <= 0
            for t in self.trials.values()
            for i, m in enumerate(self.spec.metrics)
            for v in (
                *([] if i else t.reports.values()),
                *(v for v in t.values[i : i + 1] if v is not None),
            )
        )

    # What has happened

    def report(self, number: int, epoch: int, value: float | None) -> bool:
        """The first metric after `epoch` (from 0). True: the trial is to be stopped, by early_terminate.

        A value that is no number counts as the worst there is; None, a row without the metric, says nothing.
        """
        trial = self._trial(number)
        if value is not None:
            worst = self._sign * math.inf
            trial.reports[epoch] = float(value) if is_number(value) else worst
        return self._is_behind(trial)

    @property
    def _sign(self) -> int:
        return self.spec.metrics[0].sign if self.spec.metrics else 1

    def _is_behind(self, trial: Trial) -> bool:
        """W&B's hyperband_stopping.py: at its last bracket, is the trial's value worse than number int(n / eta), counted from 0, of the n
        values there? strict compares the value at the bracket, else the trial's best so far."""
        rule = self.spec.early_terminate
        if rule is None or not trial.reports:
            return False
        bracket = max((b for b in rule.brackets if b - 1 <= max(trial.reports)), default=None)
        if bracket is None or bracket - 1 not in trial.reports:
            return False
        there = sorted(
            self._sign * t.reports[bracket - 1]
            for t in self.trials.values()
            if bracket - 1 in t.reports
        )
        own = (
            self._sign * trial.reports[bracket - 1]
            if rule.strict
            else min(self._sign * v for v in trial.reports.values())
        )
        return own > there[min(int(1 / rule.eta * len(there)), len(there) - 1)]

    def tell(self, number: int, state: str, values: Sequence[float | None] = ()) -> None:
        """How a trial ended, with the value of each metric (Metric.value) where there is one. The last word counts.

        Raises ValueError for an unknown number or state, and for a finished trial of a search that has no value.
        """
        trial = self._trial(number)
        if state not in STATES:
            raise ValueError(f"state must be one of {', '.join(STATES)}, got {state!r}")
        numbers = tuple(v if is_number(v) else None for v in values)
        if (
            state == "finished"
            and self.spec.is_search
            and (len(numbers) != len(self.spec.metrics) or None in values)
        ):
            names = ", ".join(m.name for m in self.spec.metrics)
            raise ValueError(
                f"trial {number} finished without {names}: a metric must be a key of a run's rows or summary"
            )
        trial.state, trial.values = state, numbers

    def _trial(self, number: int) -> Trial:
        if number not in self.trials:
            raise ValueError(f"trial {number} was not asked; asked: {len(self.trials)}")
        return self.trials[number]

    def replay(self, past: Iterable[Past]) -> None:
        """Takes up the runs of an earlier planner of the same sweep: ended ones as if told, the others to be asked again first.

        Records of configs that a grid or random sweep does not have (any more) are passed over. Raises ValueError for a record of a search
        without its number, and for two of one number.
        """
        numbers = {c.run_id: n for n, c in enumerate(self.spec.configs)}
        for run in past:
            number = run.number if self.spec.is_search else numbers.get(run.config.run_id)
            if number is None and self.spec.is_search:
                raise ValueError(
                    f"run {run.config.run_id} has no trial number, and {self.spec.method} cannot go on without it"
                )
            if number is not None:
                self._take(number, run)
        self._again = deque(sorted(n for n, t in self.trials.items() if t.state not in STATES))

    def _take(self, number: int, run: Past) -> None:
        if number in self.trials:
            raise ValueError(
                f"trial {number} is there already, as run {self.trials[number].config.run_id}, not {run.config.run_id}"
            )
        self.trials[number] = Trial(number, run.config)
        for row in run.rows if self.spec.metrics else []:
            if "epoch" in row:
                self.report(number, int(row["epoch"]), row.get(self.spec.metrics[0].name))
        if run.state in STATES:
            self.tell(
                number,
                run.state,
                [metric.value(run.rows, run.summary) for metric in self.spec.metrics],
            )

    # What came out

    def best(self) -> int | None:
        """The finished trial with the best first metric, of equal ones the first; None without any. Raises ValueError without a metric."""
        if not self.spec.metrics:
            raise ValueError(
                "the sweep file has no metric: add metric: {name: ..., goal: minimize or maximize}"
            )
        done = self._finished()
        return min(done, key=lambda n: (done[n][0], n), default=None)

    def pareto(self) -> list[int]:
        """The finished trials that no other one beats: at least as good in every metric and better in one."""
        done = self._finished()
        return [
            n for n in sorted(done) if not any(_beats(other, done[n]) for other in done.values())
        ]

    def _finished(self) -> dict[int, list[float]]:
        """Number -> values of finished trials, lower is better."""
        return {
            n: [
                m.sign * v
                for m, v in zip(self.spec.metrics, t.values, strict=True)
                if v is not None
            ]
            for n, t in self.trials.items()
            if t.state == "finished" and t.values and None not in t.values
        }


def _beats(a: list[float], b: list[float]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))
