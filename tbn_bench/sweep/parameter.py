"""One entry below `parameters` in a sweep file becomes a distribution, or a line per fault."""

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tbn_bench.catalog import did_you_mean, short
from tbn_bench.sweep.distributions import KINDS, Distribution

_DEPRECATED = ("log_uniform", "q_log_uniform", "inv_log_uniform")
_MANY = 20  # unknown keys that are told at once
# ways to say how a parameter varies: one of them, or a distribution by name
_SHAPES = {"value": {"value"}, "values": {"values"}, "min with max": {"min", "max"}}


def _known_keys() -> set[str]:
    keys = {"distribution", "parameters"}
    for kind in KINDS.values():
        keys.update(kind.model_fields)
    return keys


_KEYS = _known_keys()


def distribution(name: str, given: Any) -> Distribution:
    """The distribution of a parameter's entry in a sweep file.

    Raises ValueError, one line per fault, each beginning with the parameter.
    """
    faults = _faults(given)
    if not faults:
        kind = given.get("distribution") or _inferred(given)
        fields = {key: value for key, value in given.items() if key != "distribution"}
        try:
            return KINDS[kind](**fields)
        except ValidationError as error:
            faults = [_line(fault, kind) for fault in error.errors()]
    raise ValueError("\n".join(f"parameter {name}: {fault}" for fault in faults))


def _faults(given: Any) -> list[str]:
    if not isinstance(given, dict):
        return [
            "expected {value: ...}, {values: [...]} or {min: ..., max: ...}, "
            f"got {short(given)}"
        ]
    unknown = [key for key in given if key not in _KEYS]
    if unknown:
        told = unknown[:_MANY]
        return [f"unknown key {short(key)}{did_you_mean(str(key), _KEYS)}" for key in told]
    kind = given.get("distribution")
    if kind in _DEPRECATED:
        return [
            f"{kind} takes exponents and is deprecated: use {kind}_values, "
            "with min and max the values themselves (e to the power)"
        ]
    if "distribution" in given and (not isinstance(kind, str) or kind not in KINDS):
        return [f"unknown distribution {short(kind)}{did_you_mean(str(kind), KINDS)}"]
    shapes = [shape for shape, keys in _SHAPES.items() if keys & set(given)]
    if len(shapes) > 1 or (not shapes and kind is None):
        return [
            "give exactly one of value, values, min with max, or name a distribution; "
            f"got {', '.join(map(str, given)) or 'none'}"
        ]
    return []


def _inferred(given: dict[str, Any]) -> str:
    """W&B's choice if no distribution is named: whole numbers on both ends mean int_uniform."""
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    ends = (given.get("min"), given.get("max"))
    return "int_uniform" if all(isinstance(end, int) for end in ends) else "uniform"


def _line(error: ErrorDetails, kind: str) -> str:
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{kind} needs {key}"
    if error["type"] == "extra_forbidden":
        return f"{kind} takes {', '.join(KINDS[kind].model_fields)}, not {key}"
    return f"{key} {error['msg']}".strip().replace("Value error, ", "")
