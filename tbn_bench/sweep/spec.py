"""The meaning of a sweep file: configs, or the space and metrics of a search.

The same file serves `wandb sweep` unchanged. A parameter is a field of RunConfig, or an argument of
one of its calls by a dotted name (`binarizer.p`, see dotted.py).

grid and random list their configs beforehand. bayes is a search on `metric`. custom is W&B's word
for other engines: here the same search, on `metric` or, for several objectives, on `metrics`. W&B's
own engine for such a file is `wandb sweep-scheduler`, which asks for `scheduler: {engine: optuna}`.
Of that key only this engine without source can be carried out here.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tbn_bench import yaml_file
from tbn_bench.catalog import short
from tbn_bench.config import RunConfig, make
from tbn_bench.plugins import load as plugins
from tbn_bench.records.names import folder
from tbn_bench.sweep import dotted, refusals
from tbn_bench.sweep.overrides import overridden
from tbn_bench.sweep.schema import Hyperband, Metric, read
from tbn_bench.sweep.space import Point, Space, draw, grid, grid_size, point_of

LIMIT_LOOKED = 100_000  # points, for runs that are all different
REPEATS = 1000  # draws in a row that were all repeats: the space is taken for used up
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
    """A sweep: its name (also the folder of its runs) and its configs, in order, each once.

    A search (bayes, custom) has no configs: they depend on results. planner.Planner gives them one
    by one, from `space` for `metrics`, at most `run_cap`. Every method may have early_terminate.
    """

    name: str
    configs: list[RunConfig]
    method: str = "grid"
    space: Space = field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()
    early_terminate: Hyperband | None = None
    run_cap: int | None = None
    small: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def is_search(self) -> bool:
        return self.method in ("bayes", "custom")

    def config(self, point: Point) -> RunConfig:
        """The run of one point of the space. Raises ValueError for values RunConfig refuses."""
        fitting, _ = dotted.fitting(point)
        config = make(dotted.fold(fitting))
        return _small(config) if self.small else config

    def point(self, config: RunConfig) -> Point | None:
        """The point whose run is `config`.

        None where the space has none: the file was changed, or this is a smoke sweep.
        """
        try:
            point = point_of(self.space, config)
            return point if self.config(point) == config else None
        except (ValueError, KeyError):
            return None


def load(path: Path, sets: Iterable[str] = ()) -> SweepSpec:
    """Reads and expands a sweep file. Raises ValueError that names the file and the key.

    sets: of overrides.py, e.g. "epochs=1".
    """
    value = yaml_file.read(path)
    if isinstance(value, dict) and value.get("plugins"):
        plugins.load(plugins.named(value["plugins"], path), path.parent)
    try:
        spec = expand(overridden(value, sets), path.stem)
    except ValueError as error:
        lines = [f"{path}: {line}" for line in str(error).splitlines()]
        raise ValueError("\n".join(lines)) from error
    return replace(spec, warnings=tuple(f"{path}: {line}" for line in spec.warnings))


def of(value: dict[str, Any], sets: Iterable[str] = ()) -> SweepSpec:
    """The sweep of a file's content; its plugins are found from the working folder.

    Raises ValueError that names the key, also where there is no `name`.
    """
    if not value.get("name"):
        raise ValueError("a sweep given as a dictionary needs a name: {'name': 'lr_study', ...}")
    if value.get("plugins"):
        here = Path(str(value["name"]))
        plugins.load(plugins.named(value["plugins"], here), Path())
    return expand(overridden(value, sets), value["name"])


def load_all(paths: list[Path], sets: Iterable[str] = ()) -> SweepSpec:
    """One sweep of several files with one name, for example grids that are no product.

    Raises ValueError for files that do not make one sweep.
    """
    parts = [load(path, sets) for path in paths]
    first = parts[0]
    if len(parts) == 1:
        return first
    if len({part.name for part in parts}) > 1:
        names = ", ".join(f"{path}: {part.name}" for path, part in zip(paths, parts, strict=True))
        raise ValueError(
            "several files make one sweep and must have the same `name`, "
            f"got {names}; run them one by one"
        )
    if any(part.is_search for part in parts):
        raise ValueError(
            "several files make one sweep only by grid and random: "
            "a search has one space; run them one by one"
        )
    judged = (first.metrics, first.early_terminate)
    if any((part.metrics, part.early_terminate) != judged for part in parts):
        raise ValueError(
            "several files make one sweep and must have the same metric and early_terminate; "
            "run them one by one"
        )
    configs: dict[str, RunConfig] = {}
    warnings: dict[str, None] = {}
    for part in parts:
        configs |= {config.run_id: config for config in part.configs}
        warnings |= dict.fromkeys(part.warnings)
    return replace(
        first,
        configs=list(configs.values()),
        space={},
        run_cap=None,
        warnings=tuple(warnings),
    )


def smoke(spec: SweepSpec) -> SweepSpec:
    """The same sweep in seconds, under its own name.

    It has random samples in the form of the data, one epoch, one seed, and batches of 8.
    """
    configs: dict[str, RunConfig] = {}
    for config in spec.configs:
        small = _small(config)
        configs[small.run_id] = small
    return replace(
        spec,
        name=f"{spec.name}-smoke",
        configs=list(configs.values()),
        small=True,
    )


def _small(config: RunConfig) -> RunConfig:
    values = config.model_dump(mode="json")
    values |= _SMOKE
    values["data"] = f"smoke(of={config.data!r})"
    return make(values)


def expand(value: Any, default_name: str) -> SweepSpec:
    """The sweep of a parsed file. Raises ValueError, one line per fault.

    Random draw n depends on (sweep name, n) alone. A sweep that is started again, or with a larger
    run_cap, therefore draws the same runs.
    """
    file, space = read(value)
    faults = refusals.faults(file, space)
    if faults:
        raise ValueError("\n".join(faults))
    metrics, warnings = refusals.directed_metrics(file, space)
    written = file.name or default_name
    name = folder(written)
    if name != written:
        warnings += (
            f"name {short(written)} cannot be a folder; the records are those of sweep {name}",
        )
    spec = SweepSpec(
        name,
        configs=[],
        method=file.method,
        space=space,
        metrics=metrics,
        early_terminate=file.early_terminate,
        run_cap=file.run_cap,
        warnings=(*warnings, *refusals.left_out(space)),
    )
    if file.method == "grid":
        return _listed(spec, map(spec.config, grid(space)), grid_size(space))
    if file.method == "random":
        draws = (spec.config(draw(space, f"{written}:{n}")) for n in itertools.count())
        return _listed(spec, draws, None)
    return spec


def _listed(spec: SweepSpec, configs: Iterable[RunConfig], points: int | None) -> SweepSpec:
    """The sweep with its first run_cap different configs, and a warning if there are fewer.

    points: number of points of a grid. None for random draws, which end once they only repeat.
    """
    found: dict[str, RunConfig] = {}
    in_a_row = 0
    for looked, config in enumerate(configs):
        if looked >= LIMIT_LOOKED:
            raise ValueError(
                f"the first {looked:,} points are only {len(found):,} different runs; "
                "leave out values that mean the same"
            )
        in_a_row = in_a_row + 1 if config.run_id in found else 0
        found.setdefault(config.run_id, config)
        used_up = points is None and in_a_row == REPEATS
        if used_up or len(found) == spec.run_cap:
            break
    fewer = _fewer(len(found), points, spec.run_cap)
    return replace(spec, configs=list(found.values()), warnings=(*spec.warnings, *fewer))


def _fewer(runs: int, points: int | None, cap: int | None) -> list[str]:
    """Why a grid or random sweep has fewer runs than expected, as a list of no or one line."""
    if points is None:
        if cap is None or runs >= cap:
            return []
        return [
            f"run_cap is {cap:,}, but the space has only {runs:,} different runs: "
            f"{REPEATS:,} draws in a row were repeats"
        ]
    if runs >= min(points, cap or points):
        return []
    return [f"{points:,} points of the grid are {runs:,} runs: equal ones are made once"]
