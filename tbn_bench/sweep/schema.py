"""The sweep file as W&B defines it: every key, its values, which keys exclude or need each other.

Rules: sweeps/config/schema.json and cfg.py of PyPI sweeps 0.3.0. W&B allows no other keys, so
resources, retries and engine are flags of `tbn-bench sweep`.
"""

import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from tbn_bench.catalog import did_you_mean, short
from tbn_bench.sweep.distributions import Distribution
from tbn_bench.sweep.parameter import distribution
from tbn_bench.sweep.values import Count, Number, Whole, is_number

_MACROS = (
    "env",
    "interpreter",
    "program",
    "args",
    "args_no_equals",
    "args_no_hyphens",
    "args_no_boolean_flags",
    "args_json",
    "args_json_file",
    "args_append_hydra",
    "args_override_hydra",
)
_METHODS_OF = {"wandb": ("grid", "random", "bayes"), "optuna": ("custom",), "ax": ("custom",)}
LIMIT_PARAMETERS = 200
LIMIT_BRACKETS = 1000
_MANY = 20  # faults of a kind that are told at once
_FOREVER = 10**9  # epochs
_LAST_POWER = 99


def _above_one(value: Any) -> Any:
    if value <= 1:
        raise ValueError(f"must be greater than 1, got {value!r}")
    return value


def _known_macros(command: list[Any]) -> list[Any]:
    """wandb agent drops an unknown macro silently, and every run would be the default one."""
    for word in command:
        macro = re.fullmatch(r"\$\{(.*)\}", str(word))
        if macro and macro[1] not in _MACROS and not macro[1].startswith("envvar:"):
            raise ValueError(f"has an unknown macro {word}{did_you_mean(macro[1], _MACROS)}")
    return command


class _Part(BaseModel):
    """Keys that are left out are None or W&B's default; a key that is there must have a value."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Metric(_Part):
    """What a search improves: a key of a run's rows or summary. objectives.py fills in the goal."""

    name: str
    goal: Literal["minimize", "maximize"] = Field(default=None)  # type: ignore[arg-type]
    target: Number = None
    impute: Literal["latest", "best", "worst"] = "worst"
    impute_while_running: Literal["latest", "best", "worst", "false"] = "false"

    @property
    def sign(self) -> int:
        """1 where lower is better, -1 where higher is."""
        return 1 if self.goal == "minimize" else -1

    def best(self, values: list[float]) -> float | None:
        return min(values, key=lambda value: self.sign * value, default=None)

    def value(self, rows: list[dict[str, Any]], summary: dict[str, Any]) -> float | None:
        """The best finite value of a run in any epoch or its summary; None without one.

        W&B's run.py, metric_extremum.
        """
        numbers = []
        for row in (*rows, summary):
            value = row.get(self.name)
            if value is None:
                continue
            if is_number(value):
                numbers.append(value)
        return self.best(numbers)


class Hyperband(_Part):
    """Early termination. If both forms are given, max_iter and s win, as in W&B's."""

    type: Literal["hyperband"]
    min_iter: Count = None
    max_iter: Whole = None
    s: Whole = None
    eta: Annotated[Number, AfterValidator(_above_one)] = 3
    strict: bool = True

    @model_validator(mode="after")
    def _brackets_exist(self) -> Self:
        halves = (self.max_iter is None) != (self.s is None)
        if halves or (self.max_iter is None and self.min_iter is None):
            raise ValueError("give min_iter, or max_iter with s")
        if self.max_iter is not None and min(self.s, self._powers(self.max_iter)) > LIMIT_BRACKETS:
            raise ValueError(
                f"s {self.s} and eta {self.eta} give more than {LIMIT_BRACKETS} epochs to stop at; "
                "use a larger eta or a smaller s"
            )
        if not self.brackets:
            raise ValueError(
                f"max_iter {self.max_iter}, s {self.s} and eta {self.eta} "
                "leave no epoch to stop at; use a larger max_iter or s"
            )
        return self

    @property
    def brackets(self) -> list[int]:
        """Numbers of epochs after which runs are compared, rising (W&B's hyperband_stopping.py).

        max_iter / eta^k for k = 1..s, or min_iter * eta^k for k = 0, 1, ...
        """
        if self.max_iter is None:
            last = min(_LAST_POWER, self._powers(_FOREVER / self.min_iter))
            powers = [self.eta**k for k in range(last + 1)]
            risen = [self.min_iter * power for power in powers]
            return [int(bracket) for bracket in risen if bracket < _FOREVER]
        last = min(self.s, self._powers(self.max_iter))
        powers = [self.eta**k for k in range(1, last + 1)]
        fallen = [self.max_iter / power for power in powers]
        return sorted(int(bracket) for bracket in fallen if bracket >= 1)

    def _powers(self, limit: float) -> int:
        """The first k with eta^k > limit, or one more. Higher powers may overflow."""
        if limit < 1:
            return 0
        power = math.log(limit) / math.log(self.eta)
        return int(power) + 1


class Scheduler(_Part):
    """W&B's newer search engines; tbn_bench itself is one of them (engine optuna, see spec.py)."""

    engine: Literal["optuna", "ax", "wandb"]
    source: str = ""
    optimizer: str = ""
    search_space: str = ""

    @model_validator(mode="after")
    def _source_given(self) -> Self:
        if (self.optimizer or self.search_space) and not self.source:
            raise ValueError("optimizer and search_space need source, the file they are in")
        return self


class Controller(_Part):
    model_config = ConfigDict(extra="allow")

    type: Literal["local", "cloud"]


_SeveralMetrics = Annotated[list[Metric], Field(min_length=2)]


class File(_Part):
    """All keys of a sweep file but its parameters."""

    method: Literal["grid", "random", "bayes", "custom"]
    metric: Metric = Field(default=None)  # type: ignore[assignment]
    metrics: _SeveralMetrics = Field(default=None)  # type: ignore[arg-type]
    early_terminate: Hyperband = Field(default=None)  # type: ignore[assignment]
    run_cap: Count = None
    scheduler: Scheduler = Field(default=None)  # type: ignore[assignment]
    controller: Controller = Field(default=None)  # type: ignore[assignment]
    command: Annotated[list[Any], AfterValidator(_known_macros)] = Field(default_factory=list)
    plugins: list[str] = Field(default_factory=list)  # not W&B's: its agent needs TBN_BENCH_PLUGINS
    kind: Literal["sweep"] = "sweep"
    apiVersion: str = ""
    name: str = ""
    description: str = ""
    program: str = ""
    project: str = ""
    entity: str = ""
    job: str = ""
    image_uri: str = ""


_PARTS: dict[str, type[_Part]] = {
    "metric": Metric,
    "metrics": Metric,
    "early_terminate": Hyperband,
    "scheduler": Scheduler,
}


def read(value: Any) -> tuple[File, dict[str, Distribution]]:
    """A parsed sweep file: its keys, and its parameters by flat names.

    Raises ValueError, one line per fault, each naming its key.
    """
    if not isinstance(value, dict):
        raise ValueError(f"a sweep file must hold a mapping, got {type(value).__name__}")
    faults: list[str] = []
    space = _space(value, faults)
    keys = {str(key): held for key, held in value.items() if key != "parameters"}
    try:
        file = File.model_validate(keys)
    except ValidationError as error:
        wrong = [_line(fault) for fault in error.errors()[:_MANY]]
        raise ValueError("\n".join(wrong + faults)) from error
    faults += _together(file, "parameters" in value)
    if faults:
        raise ValueError("\n".join(faults))
    return file, space


def _space(value: dict[str, Any], faults: list[str]) -> dict[str, Distribution]:
    space: dict[str, Distribution] = {}
    flat = _flat(value["parameters"], "", faults) if "parameters" in value else []
    if len(flat) > LIMIT_PARAMETERS:
        faults.append(f"parameters: {len(flat):,} are given, expected at most {LIMIT_PARAMETERS}")
        return space
    spelled: dict[str, str] = {}
    for name, given in flat:
        other = spelled.setdefault(name.casefold(), name)
        if other != name:
            faults.append(
                f"parameters {other} and {name} differ in upper and lower case alone; keep one"
            )
        if name in space:
            faults.append(
                f"parameter {name}: given twice, once with a dot and once in nested parameters"
            )
        try:
            space[name] = distribution(name, given)
        except ValueError as error:
            faults += str(error).splitlines()
    return space


def _flat(parameters: Any, prefix: str, faults: list[str]) -> list[tuple[str, Any]]:
    """Nested parameters under dotted names."""
    if not isinstance(parameters, dict) or not parameters:
        faults.append(
            f"{prefix}parameters must be a mapping with at least one parameter, "
            f"got {short(parameters)}"
        )
        return []
    flat = []
    for key, given in parameters.items():
        name = f"{prefix}{key}"
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", str(key)):
            faults.append(
                f"parameter {name}: a name is a letter or _, then letters, digits, _, . and -"
            )
        elif isinstance(given, dict) and "parameters" in given:
            others = [key for key in given if key != "parameters"]
            if others:
                faults.append(
                    f"parameter {name}: nested parameters stand alone, got also {', '.join(others)}"
                )
            flat += _flat(given["parameters"], f"{name}.", faults)
        else:
            flat.append((name, given))
    return flat


def _together(file: File, has_parameters: bool) -> list[str]:
    """cfg.py, schema_violations_from_proposed_config."""
    given = file.model_fields_set
    scheduler = file.scheduler
    faults = []
    if not has_parameters and not (scheduler and scheduler.search_space):
        faults.append("parameters is missing: a mapping with at least one parameter")
    if {"metric", "metrics"} <= given:
        faults.append(
            "metric and metrics cannot both be given: metric for one objective, metrics for several"
        )
    if "metrics" in given and file.method != "custom":
        faults.append(f"metrics needs method custom, got {file.method}")
    if scheduler and "early_terminate" in given:
        faults.append(
            "early_terminate and scheduler cannot both be given: a scheduler stops runs itself"
        )
    if scheduler and file.controller and file.controller.type == "local":
        faults.append(
            "controller of type local and scheduler cannot both be given: leave controller out"
        )
    if scheduler and file.method not in _METHODS_OF[scheduler.engine]:
        methods = " or ".join(_METHODS_OF[scheduler.engine])
        faults.append(
            f"scheduler.engine {scheduler.engine} needs method {methods}, got {file.method}"
        )
    return faults


def _line(error: ErrorDetails) -> str:
    key = ".".join(map(str, error["loc"]))
    kind = error["type"]
    got = error["input"]
    if kind == "extra_forbidden":
        return _unknown_key(error["loc"])
    if kind == "missing":
        return f"{key} is missing"
    if kind == "literal_error":
        words = error["ctx"]["expected"].replace(" or ", ", ").split(", ")
        known = [word.strip("'") for word in words]
        return f"{key}: unknown {short(got)}{did_you_mean(str(got), known)}"
    if kind == "value_error":
        return f"{key}: {error['msg'].removeprefix('Value error, ')}"
    return f"{key}: {error['msg']}, got {short(got)}"


def _unknown_key(place: tuple[int | str, ...]) -> str:
    """place: the keys down to the unknown one."""
    *above, key = place
    known = [*File.model_fields, "parameters"]
    where = ""
    if above:
        known = list(_PARTS[str(above[0])].model_fields)
        where = f"{'.'.join(map(str, above))}: "
    return f"{where}unknown key {short(key)}{did_you_mean(str(key), known)}"
