"""A sweep file in W&B's format becomes a list of checked RunConfigs. The same file serves `wandb sweep` unchanged."""

import itertools
import math
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tbn_bench.catalog import did_you_mean
from tbn_bench.config import RunConfig, make

_TOP = (
    "apiVersion", "command", "controller", "description", "early_terminate", "entity", "image_uri", "job", "kind", "method",
    "metric", "metrics", "name", "parameters", "program", "project", "run_cap", "scheduler",
)  # fmt: skip
_FORM = ("value", "values", "probabilities", "min", "max", "distribution", "q")
_DISTRIBUTIONS = ("constant", "categorical", "int_uniform", "uniform", "q_uniform", "log_uniform_values")
_NOT_YET = {"bayes": "bayes search", "custom": "custom schedulers"}


@dataclass(frozen=True)
class SweepSpec:
    """A sweep: its name (also the folder of its runs) and its configs, in order, without repeats."""

    name: str
    configs: list[RunConfig]


def load(path: Path) -> SweepSpec:
    """Reads and expands a sweep file. Raises ValueError, naming the file and the key, for whatever is not right."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    try:
        return expand(value, path.stem)
    except ValueError as error:
        raise ValueError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from error


def load_all(paths: list[Path]) -> SweepSpec:
    """One sweep of several files of one name: grids that are no product, a control of another width, say. Raises ValueError."""
    parts = [load(path) for path in paths]
    if len({part.name for part in parts}) > 1:
        names = ", ".join(f"{path}: {part.name}" for path, part in zip(paths, parts, strict=True))
        raise ValueError(f"several files make one sweep and must have the same `name`, got {names}; run them one by one")
    return SweepSpec(parts[0].name, list({c.run_id: c for part in parts for c in part.configs}.values()))


def smoke(spec: SweepSpec) -> SweepSpec:
    """The same sweep in seconds, under a name of its own: random samples in the form of the data, one epoch, one seed, batches of 8."""
    changes = {"epochs": 1, "batch_size": 8, "seed": 0, "warmup_epochs": 0, "init": None, "teacher": None}
    small = [make({**c.model_dump(mode="json"), **changes, "data": f"smoke(of={c.data!r})"}) for c in spec.configs]
    return SweepSpec(f"{spec.name}-smoke", list({c.run_id: c for c in small}.values()))


def expand(spec: Any, default_name: str) -> SweepSpec:
    """The configs of a parsed sweep file; grid order as W&B's: names sorted, the last varies fastest."""
    _check_top(spec)
    parameters: dict[str, Any] = spec["parameters"]
    unknown = [k for k in parameters if k not in RunConfig.model_fields]
    if unknown:
        raise ValueError("\n".join(f"unknown parameter {k!r}{did_you_mean(str(k), RunConfig.model_fields)}" for k in unknown))
    for name, form in parameters.items():
        _check_form(name, form)
    points = _grid(parameters) if spec["method"] == "grid" else _random(parameters, spec, default_name)
    cap = spec.get("run_cap")
    configs = {c.run_id: c for c in map(make, itertools.islice(points, cap))}
    name = re.sub(r"[^\w.-]+", "-", str(spec.get("name") or default_name))
    return SweepSpec(name, list(configs.values()))


def _check_top(spec: Any) -> None:
    if not isinstance(spec, dict):
        raise ValueError(f"a sweep file must hold a mapping, got {type(spec).__name__}")
    for key in spec:
        if key not in _TOP:
            raise ValueError(f"unknown key {key!r}{did_you_mean(str(key), _TOP)}")
    method = spec.get("method")
    if method in _NOT_YET:
        raise ValueError(f"method: {_NOT_YET[method]} is not supported yet; use grid or random")
    if method not in ("grid", "random"):
        raise ValueError(f"method must be grid or random, got {method!r}")
    if not isinstance(spec.get("parameters"), dict) or not spec["parameters"]:
        raise ValueError("parameters must be a mapping with at least one parameter")
    cap = spec.get("run_cap")
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        raise ValueError(f"run_cap must be a positive integer, got {cap!r}")
    if method == "random" and cap is None:
        raise ValueError("method random needs run_cap: how many runs to draw")


def _check_form(name: str, form: Any) -> None:
    if not isinstance(form, dict):
        raise ValueError(f"parameter {name}: expected {{value: ...}} or {{values: [...]}}, got {form!r}")
    for key in form:
        if key not in _FORM:
            raise ValueError(f"parameter {name}: unknown key {key!r}{did_you_mean(str(key), _FORM)}")
    distribution = form.get("distribution")
    if distribution is not None and distribution not in _DISTRIBUTIONS:
        raise ValueError(
            f"parameter {name}: unknown distribution {distribution!r}{did_you_mean(str(distribution), _DISTRIBUTIONS)}"
        )
    given = [k for k in ("value", "values", "min") if k in form]
    if len(given) != 1:
        raise ValueError(f"parameter {name}: give exactly one of value, values, min with max; got {', '.join(given) or 'none'}")
    if "values" in form:
        values, chances = form["values"], form.get("probabilities")
        if not isinstance(values, list) or not values:
            raise ValueError(f"parameter {name}: values must be a non-empty list, got {values!r}")
        if chances is not None and (len(chances) != len(values) or not math.isclose(sum(chances), 1)):
            raise ValueError(f"parameter {name}: probabilities must match values one by one and sum to 1, got {chances!r}")
    if "min" in form:
        low, high = form["min"], form.get("max")
        if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in (low, high)) or low >= high:
            raise ValueError(f"parameter {name}: min and max must be numbers with min < max, got {low!r} and {high!r}")
        if distribution == "log_uniform_values" and low <= 0:
            raise ValueError(f"parameter {name}: log_uniform_values needs min > 0, got {low!r}")


def _whole(form: dict[str, Any]) -> bool:
    return (
        form.get("distribution", "int_uniform") == "int_uniform" and isinstance(form["min"], int) and isinstance(form["max"], int)
    )


def _grid_values(name: str, form: dict[str, Any]) -> list[Any]:
    if "value" in form:
        return [form["value"]]
    if "values" in form:
        if "probabilities" in form:
            raise ValueError(f"parameter {name}: a grid takes no probabilities")
        return list(form["values"])
    if _whole(form):
        return list(range(form["min"], form["max"] + 1))
    if form.get("distribution") == "q_uniform":
        q = form.get("q", 1)
        return [form["min"] + i * q for i in range(int((form["max"] - form["min"]) / q + 1e-9) + 1)]
    raise ValueError(f"parameter {name}: a grid needs value, values, int_uniform or q_uniform")


def _grid(parameters: dict[str, Any]) -> Any:
    names = sorted(parameters)
    for point in itertools.product(*(_grid_values(n, parameters[n]) for n in names)):
        yield dict(zip(names, point, strict=True))


def _draw(form: dict[str, Any], rng: random.Random) -> Any:
    if "value" in form:
        return form["value"]
    if "values" in form:
        return rng.choices(form["values"], form.get("probabilities"))[0]
    low, high = form["min"], form["max"]
    if _whole(form):
        return rng.randint(low, high)
    if form.get("distribution") == "log_uniform_values":
        return math.exp(rng.uniform(math.log(low), math.log(high)))
    value = rng.uniform(low, high)
    if form.get("distribution") == "q_uniform":
        q = form.get("q", 1)
        return round(value / q) * q
    return value


def _random(parameters: dict[str, Any], spec: dict[str, Any], default_name: str) -> Any:
    """Draw n depends on (sweep name, n) alone, so a sweep that is started again draws the same runs."""
    for n in itertools.count():
        rng = random.Random(f"{spec.get('name') or default_name}:{n}")
        yield {name: _draw(parameters[name], rng) for name in sorted(parameters)}
