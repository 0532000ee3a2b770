"""One suggestion of Optuna's, from a study that is made anew for it: the only place that knows Optuna.

Numbers are searched on the unit interval, by their distribution's quantile, as W&B's own Gaussian process does (its bayes_search.py).
"""

import hashlib
import warnings
from types import ModuleType
from typing import Any

from tbn_bench.sweep import dotted
from tbn_bench.sweep.forms import Categorical, Constant, Form, IntUniform, Weighted
from tbn_bench.sweep.spec import SweepSpec

Known = list[tuple[dict[str, Any], list[float] | None]]


def library() -> ModuleType:
    """Optuna, silent. Raises ValueError if it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise ValueError(
            'methods bayes and custom need Optuna: pip install "tbn-bench[search]"'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def suggest(spec: SweepSpec, known: Known, seed: str, sampler: str) -> dict[str, Any]:
    """A point of the space, given (point, values) of earlier trials, values None for those that still run."""
    optuna = library()
    space = {name: form for name, form in spec.space.items() if not isinstance(form, Constant)}
    axes = {name: _axis(optuna, form) for name, form in space.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optuna.exceptions.ExperimentalWarning
        study = optuna.create_study(
            directions=[m.goal for m in spec.metrics], sampler=_sampler(optuna, sampler, seed)
        )
        for point, values in known:
            trial = _trial(optuna, axes, _told(space, point, sampler), point, values)
            if trial is not None:
                study.add_trial(trial)
        asked = study.ask(axes).params
    return {
        name: form.value if isinstance(form, Constant) else _value(form, asked[name])
        for name, form in spec.space.items()
    }


def _told(space: dict[str, Form], point: dict[str, Any], sampler: str) -> dict[str, Form]:
    """The parameters that a sampler is told of a point.

    TPE is not told of options that the run went without: their value did not matter, and full
    precision's good scores would speak for it. A Gaussian process needs every trial complete.
    """
    left = dotted.fitting(point)[1] if sampler == "tpe" else []
    return {name: form for name, form in space.items() if name not in left}


def _sampler(optuna: ModuleType, name: str, seed: str) -> Any:
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big")
    return (
        optuna.samplers.GPSampler(seed=number)
        if name == "gp"
        else optuna.samplers.TPESampler(seed=number)
    )


def _axis(optuna: ModuleType, form: Form) -> Any:
    if _is_choice(form):
        return optuna.distributions.CategoricalDistribution(tuple(range(len(form.values))))
    if isinstance(form, IntUniform):
        return optuna.distributions.IntDistribution(form.min, form.max)
    return optuna.distributions.FloatDistribution(0.0, 1.0)


def _is_choice(form: Form) -> bool:
    """Probabilities go through the quantile too, so that first draws follow them."""
    return isinstance(form, Categorical) and not isinstance(form, Weighted)


def _value(form: Form, place: Any) -> Any:
    return (
        form.values[place]
        if _is_choice(form)
        else place
        if isinstance(form, IntUniform)
        else form.at(place)
    )


def _place(form: Form, value: Any) -> Any:
    return (
        form.values.index(value)
        if _is_choice(form)
        else value
        if isinstance(form, IntUniform)
        else form.position(value)
    )


def _trial(
    optuna: ModuleType,
    axes: dict[str, Any],
    space: dict[str, Form],
    point: dict[str, Any],
    values: list[float] | None,
) -> Any:
    """None for a point that lies outside: the file's ranges were changed."""
    state = optuna.trial.TrialState.RUNNING if values is None else optuna.trial.TrialState.COMPLETE
    try:
        places = {name: _place(form, point[name]) for name, form in space.items()}
        told = {name: axes[name] for name in places}
        return optuna.trial.create_trial(
            params=places, distributions=told, values=values, state=state
        )
    except ValueError:
        return None
