"""What a sweep file means here: which configs, or which space and metrics a search works on. The same file serves `wandb sweep` unchanged.

A parameter is a field of RunConfig, or an argument of one of its four calls by a dotted name (`binarizer.p`, see dotted.py).

Methods. grid and random list their configs beforehand. bayes is a search on `metric`. custom is W&B's word for other engines: here the same
search, on `metric` or, for several objectives, on `metrics`; W&B's own engine for such a file is `wandb sweep-scheduler`, which asks for
`scheduler: {engine: optuna}`. Of that key only this engine without functions of one's own can be carried out here.
"""

import contextlib
import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tbn_bench import yaml_file
from tbn_bench.catalog import no_option, parse, short
from tbn_bench.config import RunConfig, make
from tbn_bench.records.names import folder
from tbn_bench.sweep import dotted, objectives
from tbn_bench.sweep.forms import Categorical, Constant, Form
from tbn_bench.sweep.schema import File, Hyperband, Metric, read

LIMIT_RUNS = 10_000  # of a grid or random sweep, which are listed beforehand
LIMIT_LOOKED = 100_000  # points, for runs that are all different
_MANY = 20  # faults of a kind that are told at once
REPEATS = 1000  # draws in a row that were all there already: the space is taken for used up
_SMOKE = {
    "epochs": 1,
    "batch_size": 8,
    "seed": 0,
    "warmup_epochs": 0,
    "init": None,
    "teacher": None,
}


@dataclass(frozen=True)
class SweepSpec:
    """A sweep: its name (also the folder of its runs) and its configs, in order, without repeats.

    `configs` is empty for a search (bayes, custom), whose configs depend on results: planner.Planner gives them one by one, drawn from
    `space` (parameter -> form) for `metrics`, at most `run_cap`. early_terminate is there for every method.
    """

    name: str
    configs: list[RunConfig]
    method: str = "grid"
    space: dict[str, Form] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()
    early_terminate: Hyperband | None = None
    run_cap: int | None = None
    small: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def is_search(self) -> bool:
        return self.method in ("bayes", "custom")

    def config(self, point: dict[str, Any]) -> RunConfig:
        """The run of one point of the space. Raises ValueError for values that RunConfig refuses."""
        config = make(dotted.fold(dotted.fitting(point)[0]))
        return _small(config) if self.small else config

    def point(self, config: RunConfig) -> dict[str, Any] | None:
        """The point whose run is `config`; None where the space has none (the file was changed, or this is a smoke sweep)."""
        try:
            values = _unfolded(self.space, config)
            point = {name: _written(name, form, values[name]) for name, form in self.space.items()}
            return point if self.config(point) == config else None
        except (ValueError, KeyError, StopIteration):
            return None


def _unfolded(space: dict[str, Form], config: RunConfig) -> dict[str, Any]:
    """The value of every parameter in a config; those that its entries have no option for are filled in."""
    calls = {field: getattr(config, field) for field in dotted.CALLS}
    unknown = dict.fromkeys(space)
    left = dotted.fitting({**unknown, **calls})[1]
    held = [name for name in space if name not in left]
    return _filled(space, dotted.unfold(config, held), left)


def _filled(space: dict[str, Form], point: dict[str, Any], left: list[str]) -> dict[str, Any]:
    """A point with the middle of its distribution for every option in `left`, which the run goes without.

    Any value there means the same run. One of them is written, so that a run has one point.
    """
    return point | {name: space[name].at(0.5) for name in left}


def _written(name: str, form: Form, value: Any) -> Any:
    if isinstance(form, Constant):
        return form.value
    return (
        next(v for v in form.values if dotted.same(name, v, value))
        if isinstance(form, Categorical)
        else value
    )


def load(path: Path) -> SweepSpec:
    """Reads and expands a sweep file. Raises ValueError, naming the file and the key, for whatever is not right."""
    value = yaml_file.read(path)
    try:
        spec = expand(value, path.stem)
        return replace(spec, warnings=tuple(f"{path}: {line}" for line in spec.warnings))
    except ValueError as error:
        raise ValueError(
            "\n".join(f"{path}: {line}" for line in str(error).splitlines())
        ) from error


def load_all(paths: list[Path]) -> SweepSpec:
    """One sweep of several files of one name: grids that are no product, a control of another width, say. Raises ValueError."""
    parts = [load(path) for path in paths]
    if len(parts) == 1:
        return parts[0]
    if len({part.name for part in parts}) > 1:
        names = ", ".join(f"{path}: {part.name}" for path, part in zip(paths, parts, strict=True))
        raise ValueError(
            f"several files make one sweep and must have the same `name`, got {names}; run them one by one"
        )
    if any(part.is_search for part in parts):
        raise ValueError(
            "several files make one sweep only by grid and random: a search has one space; run them one by one"
        )
    if any(
        (part.metrics, part.early_terminate) != (parts[0].metrics, parts[0].early_terminate)
        for part in parts
    ):
        raise ValueError(
            "several files make one sweep and must have the same metric and early_terminate; run them one by one"
        )
    configs = {c.run_id: c for part in parts for c in part.configs}
    warnings = dict.fromkeys(line for part in parts for line in part.warnings)
    joined = replace(parts[0], configs=list(configs.values()), space={}, run_cap=None)
    return replace(joined, warnings=tuple(warnings))


def smoke(spec: SweepSpec) -> SweepSpec:
    """The same sweep in seconds, under a name of its own: random samples in the form of the data, one epoch, one seed, batches of 8."""
    small = list({c.run_id: c for c in map(_small, spec.configs)}.values())
    return replace(spec, name=f"{spec.name}-smoke", configs=small, small=True)


def _small(config: RunConfig) -> RunConfig:
    return make({**config.model_dump(mode="json"), **_SMOKE, "data": f"smoke(of={config.data!r})"})


def expand(value: Any, default_name: str) -> SweepSpec:
    """The sweep of a parsed file. Raises ValueError, one line per fault.

    Grid order is W&B's: names sorted, the last varies fastest. Random draw n depends on (sweep name, n) alone, so that a sweep which is
    started again, or with a larger run_cap, draws the same runs.
    """
    file, space = read(value)
    faults = dotted.faults(space) or [*_limits(file, space), *_nowhere(space)]
    if not faults and file.method in ("bayes", "custom"):
        faults = _impossible(space)
    if faults:
        raise ValueError("\n".join(faults))
    metrics, warnings = _objectives(file, _tasks(space))
    written = file.name or default_name
    name = folder(written)
    if name != written:
        warnings += (
            f"name {short(written)} cannot be a folder; the records are those of sweep {name}",
        )
    spec = SweepSpec(name, [], file.method, space, metrics, file.early_terminate, file.run_cap)
    spec = replace(spec, warnings=(*warnings, *_left_out(space)))
    if file.method == "grid":
        return _listed(spec, map(spec.config, _grid(space)), _points(space))
    if file.method == "random":
        draws = (spec.config(draw(space, f"{written}:{n}")) for n in itertools.count())
        return _listed(spec, draws, None)
    return spec


def _choices(space: dict[str, Form], field: str) -> list[Any]:
    """What a sweep can write for a field, as far as it is known beforehand."""
    form = space.get(field)
    if form is None:
        return [RunConfig.model_fields[field].default]
    return form.values if isinstance(form, Categorical) else [getattr(form, "value", None)]


def _impossible(space: dict[str, Form]) -> list[str]:
    """A line for each choice of a search that no config takes: a grid makes every config beforehand, a search comes to it late."""
    faults = []
    for name, form in space.items():
        choices = form.values if isinstance(form, Categorical) else []
        for choice in choices if "." not in name else []:
            try:
                make({name: choice})
            except ValueError as error:
                faults.append(str(error))
    return faults[:_MANY]


def _options(space: dict[str, Form]) -> dict[str, dict[str, list[str] | None]]:
    """Field -> choice -> its options (dotted.options_of), of fields with dotted parameters. Each choice is looked up once."""
    fields = dict.fromkeys(name.partition(".")[0] for name in space if "." in name)
    return {
        field: {str(call): dotted.options_of(field, call) for call in _choices(space, field)}
        for field in fields
    }


def _nowhere(space: dict[str, Form]) -> list[str]:
    """A line for each dotted parameter that no choice of its field has an option for."""
    faults = []
    options = _options(space)
    for name in space:
        field, dot, argument = name.partition(".")
        known = options[field] if dot else {}
        if known and not any(names is None or argument in names for names in known.values()):
            entries = dict.fromkeys(parse(call)[0] for call in known)
            every = dict.fromkeys(option for names in known.values() for option in names or [])
            faults.append(f"parameter {name}: {no_option(' or '.join(entries), argument, every)}")
    return faults[:_MANY]


def _left_out(space: dict[str, Form]) -> list[str]:
    """A line for each dotted parameter that some choices of its field go without."""
    lines = []
    options = _options(space)
    for name in space:
        field, dot, argument = name.partition(".")
        known = options[field] if dot else {}
        without = [
            call for call, names in known.items() if names is not None and argument not in names
        ]
        if without:
            lines.append(
                f"parameter {name}: no option of {_some(without)}, whose runs go without it"
            )
    return lines


def _some(calls: list[str]) -> str:
    more = f" and {len(calls) - _MANY} more" if len(calls) > _MANY else ""
    return ", ".join(calls[:_MANY]) + more


def _tasks(space: dict[str, Form]) -> list[str]:
    """Names of the tasks that runs can have; what is no call is refused when its config is made."""
    names: dict[str, None] = {}
    for call in _choices(space, "task"):
        with contextlib.suppress(ValueError):
            names[parse(str(call))[0]] = None
    return list(names)


def _objectives(file: File, tasks: list[str]) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
    """(the metrics, each with its goal; warnings). Raises ValueError, one line per fault."""
    given = file.metrics or ([file.metric] if file.metric else [])
    faults = objectives.name_faults(given, tasks) if tasks else []
    if file.early_terminate and tasks and not faults:
        faults += filter(None, [objectives.early_fault(given[0], tasks)])
    metrics, warnings = [], []
    for metric in given if not faults else []:
        try:
            found, warning = objectives.directed(metric)
        except ValueError as error:
            faults.append(str(error))
        else:
            metrics.append(found)
            warnings += [warning] if warning else []
    if faults:
        raise ValueError("\n".join(faults))
    return tuple(metrics), tuple(warnings)


def _limits(file: File, space: dict[str, Form]) -> list[str]:
    """What W&B's schema lets pass and nobody can carry out, or nobody here."""
    faults = []
    if file.method == "grid":
        faults += [
            f"parameter {name}: a grid needs value, values without probabilities, int_uniform or q_uniform"
            for name, form in space.items()
            if form.size is None
        ]
        if not faults:
            faults += _too_many(_points(space), file.run_cap)
    elif file.run_cap is None:
        faults.append(f"method {file.method} needs run_cap: how many runs to draw")
    if file.method == "random" and (file.run_cap or 0) > LIMIT_RUNS:
        faults.append(
            f"run_cap: expected at most {LIMIT_RUNS:,} for method random, got {file.run_cap:,}; make several sweeps"
        )
    if file.method in ("bayes", "custom"):
        if not file.metric and not file.metrics:
            faults.append(
                f"method {file.method} needs metric: {{name: ..., goal: minimize or maximize}}"
            )
        if all(isinstance(form, Constant) for form in space.values()):
            faults.append(f"method {file.method} needs a parameter with more than one value")
    if file.early_terminate and not file.metric:
        faults.append("early_terminate needs metric: the one number that runs are compared by")
    if file.scheduler and (file.scheduler.engine == "ax" or file.scheduler.source):
        faults.append(
            "scheduler: tbn-bench runs engine optuna or wandb without source; leave the rest to `wandb sweep-scheduler`"
        )
    return faults


def _too_many(points: int, cap: int | None) -> list[str]:
    """Why a grid cannot be listed, as a list of no or one line."""
    if min(points, cap or points) <= LIMIT_RUNS:
        return []
    size = f"{points:,}" if points < 10**15 else f"about 10^{math.log10(points):.0f}"
    return [
        f"the grid has {size} points, expected at most {LIMIT_RUNS:,}; give run_cap (the first runs of the grid), "
        "method random with run_cap, or fewer values"
    ]


def _points(space: dict[str, Form]) -> int:
    """Number of points of a grid."""
    return math.prod(form.size or 0 for form in space.values())


def _grid(space: dict[str, Form]) -> Iterator[dict[str, Any]]:
    """The points of a grid, one by one; those that differ in left-out options alone are one point."""
    names = sorted(space)
    sizes = [space[name].size or 0 for name in names]
    number, count = 0, _points(space)
    while number < count:
        places = _places(number, sizes)
        point = {name: space[name].nth(place) for name, place in zip(names, places, strict=True)}
        left = dotted.fitting(point)[1]
        repeats = [i for i, name in enumerate(names) if name in left and places[i] > 0]
        if repeats:  # until that option is at its first value again, every point was there before
            below = math.prod(sizes[repeats[0] :])
            number += below - number % below
        else:
            yield point
            number += 1


def _places(number: int, sizes: list[int]) -> list[int]:
    """Point `number` of a grid as one place per parameter; the last varies fastest."""
    places = []
    for size in reversed(sizes):
        number, place = divmod(number, size)
        places.append(place)
    return places[::-1]


def draw(space: dict[str, Form], seed: str) -> dict[str, Any]:
    """One random point; the same for the same seed."""
    rng = random.Random(seed)
    point = {name: space[name].at(rng.random()) for name in sorted(space)}
    return _filled(space, point, dotted.fitting(point)[1])


def _listed(spec: SweepSpec, configs: Iterator[RunConfig], points: int | None) -> SweepSpec:
    """The sweep with its first different configs, at most run_cap, and a warning where that is fewer than expected.

    points: number of points of a grid; None for random draws, which end where they only repeat themselves.
    """
    found: dict[str, RunConfig] = {}
    in_a_row = 0
    for looked, config in enumerate(configs):
        if looked >= LIMIT_LOOKED:
            raise ValueError(
                f"the first {looked:,} points are only {len(found):,} different runs; leave out values that mean the same"
            )
        in_a_row = in_a_row + 1 if config.run_id in found else 0
        found.setdefault(config.run_id, config)
        if len(found) == spec.run_cap or (points is None and in_a_row == REPEATS):
            break
    fewer = _fewer(len(found), points, spec.run_cap)
    return replace(spec, configs=list(found.values()), warnings=(*spec.warnings, *fewer))


def _fewer(runs: int, points: int | None, cap: int | None) -> list[str]:
    """Why a grid or random sweep has fewer runs than expected, as a list of no or one line."""
    if points is None and cap is not None and runs < cap:
        return [
            f"run_cap is {cap:,}, but the space has only {runs:,} different runs: {REPEATS:,} draws in a row were repeats"
        ]
    if points is not None and runs < min(points, cap or points):
        return [f"{points:,} points of the grid are {runs:,} runs: equal ones are made once"]
    return []
