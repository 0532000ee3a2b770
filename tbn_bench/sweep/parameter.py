"""One entry below `parameters` in a sweep file becomes a Form, or a line per fault (rules: forms.py)."""

from typing import Any

from pydantic import ValidationError

from tbn_bench.catalog import did_you_mean, short
from tbn_bench.sweep.forms import KINDS, Form

_DEPRECATED = ("log_uniform", "q_log_uniform", "inv_log_uniform")
_MANY = 20  # unknown keys that are told at once
_KEYS = {
    "distribution",
    "parameters",
    *(key for kind in KINDS.values() for key in kind.model_fields),
}


def form(name: str, given: Any) -> Form:
    """The form of a parameter's entry in a sweep file. Raises ValueError, one line per fault, each beginning with the parameter."""
    faults = _faults(given)
    if not faults:
        name_of_kind = given.get("distribution") or _inferred(given)
        try:
            return KINDS[name_of_kind](**{k: v for k, v in given.items() if k != "distribution"})
        except ValidationError as error:
            faults = [_line(e, name_of_kind) for e in error.errors()]
    raise ValueError("\n".join(f"parameter {name}: {fault}" for fault in faults))


def _faults(given: Any) -> list[str]:
    if not isinstance(given, dict):
        return [
            f"expected {{value: ...}}, {{values: [...]}} or {{min: ..., max: ...}}, got {short(given)}"
        ]
    unknown = [k for k in given if k not in _KEYS]
    kind = given.get("distribution")
    if unknown:
        return [f"unknown key {short(k)}{did_you_mean(str(k), _KEYS)}" for k in unknown[:_MANY]]
    if kind in _DEPRECATED:
        return [
            f"{kind} takes exponents and is deprecated: use {kind}_values, with min and max the values themselves (e to the power)"
        ]
    if "distribution" in given and (not isinstance(kind, str) or kind not in KINDS):
        return [f"unknown distribution {short(kind)}{did_you_mean(str(kind), KINDS)}"]
    shapes = [
        s
        for s, keys in (
            ("value", ["value"]),
            ("values", ["values"]),
            ("min with max", ["min", "max"]),
        )
        if {*keys} & {*given}
    ]
    if len(shapes) > 1 or (not shapes and kind is None):
        return [
            f"give exactly one of value, values, min with max, or name a distribution; got {', '.join(map(str, given)) or 'none'}"
        ]
    return []


def _inferred(given: dict[str, Any]) -> str:
    """W&B's choice where no distribution is named: whole numbers on both ends are int_uniform."""
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    ends = (given.get("min"), given.get("max"))
    return "int_uniform" if all(isinstance(v, int) for v in ends) else "uniform"


def _line(error: Any, kind: str) -> str:
    key, fields = ".".join(map(str, error["loc"])), ", ".join(KINDS[kind].model_fields)
    if error["type"] == "missing":
        return f"{kind} needs {key}"
    if error["type"] == "extra_forbidden":
        return f"{kind} takes {fields}, not {key}"
    return f"{key} {error['msg']}".strip().replace("Value error, ", "")
