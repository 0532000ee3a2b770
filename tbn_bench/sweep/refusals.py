"""Why a well-formed sweep file cannot be carried out here: one line per fault.

Some of it W&B's schema lets pass although nobody can run it. Also a line for what is left out.
"""

import contextlib
import math

from tbn_bench.catalog import no_option, parse
from tbn_bench.config import make
from tbn_bench.sweep import dotted, objectives
from tbn_bench.sweep.distributions import Categorical, Constant
from tbn_bench.sweep.schema import File, Metric
from tbn_bench.sweep.space import Space, choices, grid_size

LIMIT_RUNS = 10_000  # of a grid or random sweep, which are listed beforehand
_MANY = 20  # faults of a kind that are told at once


def faults(file: File, space: Space) -> list[str]:
    wrong_names = dotted.faults(space)
    if wrong_names:
        return wrong_names
    found = _limits(file, space)
    found += _without_option(space)
    is_search = file.method in ("bayes", "custom")
    if is_search and not found:
        found = _impossible(space)
    return found


def _limits(file: File, space: Space) -> list[str]:
    """W&B's schema allows these; nobody can run them, or nobody here."""
    found = []
    if file.method == "grid":
        found += _grid_limits(file, space)
    elif file.run_cap is None:
        found.append(f"method {file.method} needs run_cap: how many runs to draw")
    if file.method == "random" and (file.run_cap or 0) > LIMIT_RUNS:
        found.append(
            f"run_cap: expected at most {LIMIT_RUNS:,} for method random, got {file.run_cap:,}; "
            "make several sweeps"
        )
    if file.method in ("bayes", "custom"):
        found += _search_limits(file, space)
    if file.early_terminate and not file.metric:
        found.append("early_terminate needs metric: the one number that runs are compared by")
    scheduler = file.scheduler
    if scheduler and (scheduler.engine == "ax" or scheduler.source):
        found.append(
            "scheduler: tbn-bench runs engine optuna or wandb without source; "
            "leave the rest to `wandb sweep-scheduler`"
        )
    return found


def _grid_limits(file: File, space: Space) -> list[str]:
    endless = [name for name, given in space.items() if given.grid_size is None]
    if endless:
        needs = "a grid needs value, values without probabilities, int_uniform or q_uniform"
        return [f"parameter {name}: {needs}" for name in endless]
    points = grid_size(space)
    if min(points, file.run_cap or points) <= LIMIT_RUNS:
        return []
    size = f"{points:,}" if points < 10**15 else f"about 10^{math.log10(points):.0f}"
    return [
        f"the grid has {size} points, expected at most {LIMIT_RUNS:,}; "
        "give run_cap (the first runs of the grid), method random with run_cap, or fewer values"
    ]


def _search_limits(file: File, space: Space) -> list[str]:
    found = []
    if not file.metric and not file.metrics:
        found.append(
            f"method {file.method} needs metric: {{name: ..., goal: minimize or maximize}}"
        )
    varied = []
    for given in space.values():
        if not isinstance(given, Constant):
            varied.append(given)
    if not varied:
        found.append(f"method {file.method} needs a parameter with more than one value")
    return found


def _impossible(space: Space) -> list[str]:
    """A line for each choice of a search that no config takes.

    A grid makes every config beforehand, but a search would meet such a choice late.
    """
    found = []
    for name, given in space.items():
        if "." in name or not isinstance(given, Categorical):
            continue
        for choice in given.values:
            try:
                make({name: choice})
            except ValueError as error:
                found.append(str(error))
    return found[:_MANY]


Options = dict[str, list[str] | None]  # call -> names of its options; None: it takes any


def _options(space: Space) -> dict[str, Options]:
    """Field -> the options of each of its choices, for fields with dotted parameters."""
    fields = dict.fromkeys(name.partition(".")[0] for name in space if "." in name)
    found: dict[str, Options] = {}
    for field in fields:
        own: Options = {}
        for call in choices(space, field):
            own[str(call)] = dotted.options_of(field, call)
        found[field] = own
    return found


def _without_option(space: Space) -> list[str]:
    """A line for each dotted parameter that no choice of its field has an option for."""
    found = []
    options = _options(space)
    for name in space:
        field, dot, argument = name.partition(".")
        if not dot:
            continue
        known = options[field]
        lacking = [_lacks(names, argument) for names in known.values()]
        if known and all(lacking):
            said = _no_option_of(known, argument)
            found.append(f"parameter {name}: {said}")
    return found[:_MANY]


def _no_option_of(known: Options, argument: str) -> str:
    entries: dict[str, None] = {}
    every: dict[str, None] = {}
    for call, names in known.items():
        entry, _ = parse(call)
        entries[entry] = None
        every |= dict.fromkeys(names or [])
    return no_option(" or ".join(entries), argument, every)


def _lacks(names: list[str] | None, argument: str) -> bool:
    return names is not None and argument not in names


def left_out(space: Space) -> list[str]:
    """A line for each dotted parameter that some choices of its field have no option for."""
    lines = []
    options = _options(space)
    for name in space:
        field, dot, argument = name.partition(".")
        if not dot:
            continue
        without = []
        for call, names in options[field].items():
            if _lacks(names, argument):
                without.append(call)
        if without:
            lines.append(
                f"parameter {name}: no option of {_some(without)}, whose runs go without it"
            )
    return lines


def _some(calls: list[str]) -> str:
    text = ", ".join(calls[:_MANY])
    rest = len(calls) - _MANY
    if rest > 0:
        text += f" and {rest} more"
    return text


def directed_metrics(file: File, space: Space) -> tuple[tuple[Metric, ...], tuple[str, ...]]:
    """(the metrics, each with its goal; warnings). Raises ValueError, one line per fault."""
    given = file.metrics or ([file.metric] if file.metric else [])
    tasks = _tasks(space)
    found: list[str] = []
    if tasks:
        found += objectives.name_faults(given, tasks)
        if file.early_terminate and not found:
            fault = objectives.early_fault(given[0], tasks)
            if fault:
                found.append(fault)
    metrics = []
    warnings = []
    for metric in [] if found else given:
        try:
            with_goal, warning = objectives.directed(metric)
        except ValueError as error:
            found.append(str(error))
            continue
        metrics.append(with_goal)
        if warning:
            warnings.append(warning)
    if found:
        raise ValueError("\n".join(found))
    return tuple(metrics), tuple(warnings)


def _tasks(space: Space) -> list[str]:
    """Names of the tasks that runs can have. A wrong call is refused when its config is made."""
    names: dict[str, None] = {}
    for call in choices(space, "task"):
        with contextlib.suppress(ValueError):
            names[parse(str(call))[0]] = None
    return list(names)
