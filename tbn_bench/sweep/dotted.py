"""Dotted names: `binarizer.p: 4` beside `binarizer: tbn` is `binarizer: tbn(p=4)`, in sweep files, presets and flags alike.

RunConfig is flat; what can hold something below it are its five calls. Dotted names are also what `wandb agent` hands on unharmed.
"""

import ast
import functools
from collections.abc import Iterable, Mapping
from typing import Any

from tbn_bench import catalog, yaml_file
from tbn_bench.catalog import did_you_mean, parse, short
from tbn_bench.config import RunConfig, make

PACKAGES = {
    "data": "data",
    "model": "models",
    "binarizer": "binarizers",
    "task": "tasks",
    "optimizer": "optimizers",
}
CALLS = tuple(PACKAGES)
_MANY = 20  # faults that are told at once


def faults(names: Iterable[Any]) -> list[str]:
    """One line for each name, but 20 at most, that is neither a field of RunConfig nor an argument of one of its calls."""
    lines: list[str] = []
    for name in names:
        if len(lines) == _MANY:
            break
        field, dot, argument = str(name).partition(".")
        if field not in RunConfig.model_fields:
            lines.append(
                f"unknown parameter {short(name)}{did_you_mean(field, RunConfig.model_fields)}"
            )
        elif dot and field not in CALLS:
            lines.append(
                f"parameter {name}: {field} takes no arguments; only those of {', '.join(CALLS)} can be written with a dot"
            )
        elif dot and not argument.isidentifier():
            lines.append(
                f"parameter {name}: expected the name of one argument after the dot, got {short(argument)}"
            )
    return lines


def fold(values: Mapping[str, Any], preset: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`values` with each dotted name written into its call, which is that of `values`, else of `preset`, else the default.

    Raises ValueError for a name that cannot be folded, and for an argument that `values` gives twice.
    """
    folded = {k: v for k, v in values.items() if "." not in str(k)}
    bad = faults(k for k in values if k not in folded)
    if bad:
        raise ValueError("\n".join(bad))
    for field, dotted in _by_field(values).items():
        call = folded.get(field, (preset or {}).get(field, RunConfig.model_fields[field].default))
        entry, arguments = _parsed(field, call)
        twice = [argument for argument in dotted if field in values and argument in arguments]
        if twice:
            raise ValueError(
                f"{field}.{twice[0]} is given twice: {field} is {short(call)}; leave it out of one of the two"
            )
        folded[field] = _written(entry, arguments | dotted)
    return folded


def _by_field(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Field -> argument -> value, of the dotted names."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        field, dot, argument = str(name).partition(".")
        if dot and field in CALLS:
            found.setdefault(field, {})[argument] = value
    return found


def options_of(field: str, call: Any) -> list[str] | None:
    """Names of the options of the entry that a call names; None where it takes any, or where the call is wrong anyway."""
    try:
        return _options(PACKAGES[field], _parsed(field, call)[0])
    except ValueError:
        return None


@functools.lru_cache(1000)
def _options(package: str, entry: str) -> list[str] | None:
    """An entry's signature is the same for every point of a grid."""
    known = catalog.options(package, entry)
    return None if known is None else list(known)


def fitting(
    values: Mapping[str, Any], preset: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """(`values` without the dotted names whose entry has no such option, those names).

    One axis `binarizer.p` may stand beside choices of `binarizer` that have no p.
    """
    left = []
    for field, dotted in _by_field(values).items():
        call = values.get(field, (preset or {}).get(field, RunConfig.model_fields[field].default))
        known = options_of(field, call)
        left += [
            f"{field}.{argument}"
            for argument in dotted
            if known is not None and argument not in known
        ]
    return {name: value for name, value in values.items() if name not in left}, left


def unfold(config: RunConfig, names: Iterable[str]) -> dict[str, Any]:
    """The values of `names` in a config, those below a call by their dotted names. Raises KeyError for an argument it does not give."""
    names = list(names)
    values: dict[str, Any] = {}
    for name in names:
        field, dot, argument = name.partition(".")
        value = getattr(config, field)
        if dot:
            value = parse(value)[1][argument]
        elif field in CALLS:
            entry, arguments = parse(value)
            value = _plain(
                field,
                _written(
                    entry, {k: v for k, v in arguments.items() if f"{field}.{k}" not in names}
                ),
            )
        values[name] = value
    return values


def _plain(field: str, value: Any) -> Any:
    return getattr(make({field: value}), field)


def same(name: str, written: Any, value: Any) -> bool:
    """Whether `written` in a file means `value` in a config: `tbn( p=4 )` is `tbn(p=4)`, a list is a tuple."""
    try:
        meant = written if "." in name else _plain(name, written)
    except ValueError:  # no config has it
        return False
    return bool(meant == value)


def from_flags(texts: Mapping[str, str]) -> dict[str, Any]:
    """Values of flags as typed or as W&B's ${args} writes them, in Python's notation: [1, 2], None, {'p': 4} for a nested parameter."""
    values: dict[str, Any] = {}
    for name, text in texts.items():
        if name in CALLS and isinstance(_literal(text), dict):
            values |= {f"{name}.{k}": _numbers(v) for k, v in _literal(text).items()}
        elif (
            "." in name
            or (name == "keep" and text.startswith("["))
            or (name in ("init", "teacher") and text == "None")
        ):
            values[name] = _numbers(_literal(text))
        else:
            is_text = RunConfig.model_fields[name].annotation is str or name == "keep"
            values[name] = text if is_text else text.strip("'\"")
    return values


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def _numbers(value: Any) -> Any:
    """1e-3 as a number wherever it stands: W&B's YAML takes it for text, and its agent hands that on."""
    if isinstance(value, dict):
        return {key: _numbers(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_numbers(part) for part in value]
    is_number = isinstance(value, str) and yaml_file.EXPONENT.fullmatch(value)
    return float(value) if is_number else value


def _parsed(field: str, call: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(call, str):
        raise ValueError(
            f"{field}: expected a call such as tbn(p=4) or a bare name, got {short(call)}"
        )
    return parse(call)


def _written(entry: str, arguments: dict[str, Any]) -> str:
    return (
        f"{entry}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})" if arguments else entry
    )
