"""One suggestion of Optuna's, from a study that is made anew for it. Only this file knows Optuna.

Numbers are searched on the unit interval, by the quantile function of their distribution, as W&B's
own Gaussian process does (its bayes_search.py).
"""

import hashlib
import warnings
from types import ModuleType
from typing import Any, TypeGuard

from tbn_bench.sweep import dotted
from tbn_bench.sweep.distributions import (
    Categorical,
    Constant,
    Distribution,
    IntUniform,
    Weighted,
)
from tbn_bench.sweep.space import Point, Space
from tbn_bench.sweep.spec import SweepSpec

Known = list[tuple[Point, list[float] | None]]


def library() -> ModuleType:
    """Optuna, silent."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    module: ModuleType = optuna
    return module


def suggest(spec: SweepSpec, known: Known, seed: str, sampler: str) -> Point:
    """A point of the space, given (point, values) of earlier trials; values None: it still runs."""
    optuna = library()
    space = {n: given for n, given in spec.space.items() if not isinstance(given, Constant)}
    axes = {name: _axis(optuna, given) for name, given in space.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optuna.exceptions.ExperimentalWarning
        study = optuna.create_study(
            directions=[metric.goal for metric in spec.metrics],
            sampler=_sampler(optuna, sampler, seed),
        )
        for point, values in known:
            trial = _trial(optuna, axes, _told(space, point, sampler), point, values)
            if trial is not None:
                study.add_trial(trial)
        asked = study.ask(axes).params
    found = {}
    for name, given in spec.space.items():
        if isinstance(given, Constant):
            found[name] = given.value
        else:
            found[name] = value_at(given, asked[name])
    return found


def _told(space: Space, point: Point, sampler: str) -> Space:
    """The parameters that a sampler is told of a point.

    TPE is not told of options that the run went without: their value had no effect, and good scores
    of full precision would count for it. A Gaussian process needs every trial complete.
    """
    told = dict(space)
    if sampler == "tpe":
        _, left_out = dotted.fitting(point)
        for name in left_out:
            told.pop(name, None)
    return told


def _sampler(optuna: ModuleType, name: str, seed: str) -> Any:
    digest = hashlib.sha256(seed.encode()).digest()
    number = int.from_bytes(digest[:4], "big")
    if name == "gp":
        return optuna.samplers.GPSampler(seed=number)
    return optuna.samplers.TPESampler(seed=number)


def _axis(optuna: ModuleType, given: Distribution) -> Any:
    if is_choice(given):
        places = tuple(range(len(given.values)))
        return optuna.distributions.CategoricalDistribution(places)
    if isinstance(given, IntUniform):
        return optuna.distributions.IntDistribution(given.min, given.max)
    return optuna.distributions.FloatDistribution(0.0, 1.0)


def is_choice(given: Distribution) -> TypeGuard[Categorical]:
    """Not with probabilities: first draws follow these only through the quantile function."""
    return isinstance(given, Categorical) and not isinstance(given, Weighted)


def value_at(given: Distribution, place: Any) -> Any:
    """The value of a parameter at a place on its axis."""
    if is_choice(given):
        return given.values[place]
    if isinstance(given, IntUniform):
        return place
    return given.quantile(place)


def place_of(given: Distribution, value: Any) -> Any:
    """The place on its axis of a parameter's value."""
    if is_choice(given):
        return given.values.index(value)
    if isinstance(given, IntUniform):
        return value
    return given.cdf(value)


def _trial(
    optuna: ModuleType,
    axes: dict[str, Any],
    space: Space,
    point: Point,
    values: list[float] | None,
) -> Any:
    """None for a point that lies outside: the file's ranges were changed."""
    state = optuna.trial.TrialState.RUNNING if values is None else optuna.trial.TrialState.COMPLETE
    try:
        places = {name: place_of(given, point[name]) for name, given in space.items()}
        told = {name: axes[name] for name in places}
        return optuna.trial.create_trial(
            params=places, distributions=told, values=values, state=state
        )
    except ValueError:
        return None
