"""Dotted names: `binarizer.p: 4` beside `binarizer: tbn` is `binarizer: tbn(p=4)`.

They mean the same in sweep files, presets and flags. RunConfig is flat; only its five calls have
something below them. `wandb agent` passes dotted names unchanged too.
"""

import ast
import functools
from collections.abc import Iterable, Mapping
from typing import Any

from tbn_bench import catalog, yaml_file
from tbn_bench.catalog import did_you_mean, parse, short
from tbn_bench.config import SHELF_OF, RunConfig, make

CALLS = tuple(SHELF_OF)
_MANY = 20  # faults that are told at once

Values = Mapping[str, Any]


def faults(names: Iterable[Any]) -> list[str]:
    """One line for each name, but 20 at most, that is neither a field nor an argument of a call."""
    lines: list[str] = []
    for name in names:
        if len(lines) == _MANY:
            break
        fault = _fault(name)
        if fault:
            lines.append(fault)
    return lines


def _fault(name: Any) -> str:
    field, dot, argument = str(name).partition(".")
    if field not in RunConfig.model_fields:
        return f"unknown parameter {short(name)}{did_you_mean(field, RunConfig.model_fields)}"
    if dot and field not in CALLS:
        return (
            f"parameter {name}: {field} takes no arguments; "
            f"only those of {', '.join(CALLS)} can be written with a dot"
        )
    if dot and not argument.isidentifier():
        return (
            f"parameter {name}: expected the name of one argument after the dot, "
            f"got {short(argument)}"
        )
    return ""


def fold(values: Values, preset: Values | None = None) -> dict[str, Any]:
    """`values` with each dotted name written into its call.

    The call is that of `values`, else of `preset`, else the default. Raises ValueError for a name
    that cannot be folded, and for an argument that `values` gives twice.
    """
    folded = {name: value for name, value in values.items() if "." not in str(name)}
    bad = faults(name for name in values if name not in folded)
    if bad:
        raise ValueError("\n".join(bad))
    for field, dotted in _by_field(values).items():
        call = _call(field, folded, preset)
        entry, arguments = _parsed(field, call)
        twice = [argument for argument in dotted if field in values and argument in arguments]
        if twice:
            raise ValueError(
                f"{field}.{twice[0]} is given twice: {field} is {short(call)}; "
                "leave it out of one of the two"
            )
        folded[field] = _written(entry, arguments | dotted)
    return folded


def _call(field: str, values: Values, preset: Values | None) -> Any:
    if field in values:
        return values[field]
    if preset is not None and field in preset:
        return preset[field]
    return RunConfig.model_fields[field].default


def _by_field(values: Values) -> dict[str, dict[str, Any]]:
    """Field -> argument -> value, of the dotted names."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        field, dot, argument = str(name).partition(".")
        if dot and field in CALLS:
            found.setdefault(field, {})[argument] = value
    return found


def options_of(field: str, call: Any) -> list[str] | None:
    """Names of the options of the entry that a call names.

    None for an entry that takes any option, and for a wrong call.
    """
    try:
        return _options(SHELF_OF[field], _parsed(field, call)[0])
    except ValueError:
        return None


@functools.lru_cache(1000)
def _options(package: str, entry: str) -> list[str] | None:
    """An entry's signature is the same for every point of a grid."""
    known = catalog.options(package, entry)
    if known is None:
        return None
    return list(known)


def fitting(values: Values, preset: Values | None = None) -> tuple[dict[str, Any], list[str]]:
    """(`values` without the dotted names whose entry has no such option, those names).

    One axis `binarizer.p` may therefore stand beside choices of `binarizer` that have no p.
    """
    left_out = []
    for field, dotted in _by_field(values).items():
        known = options_of(field, _call(field, values, preset))
        if known is None:
            continue
        for argument in dotted:
            if argument not in known:
                left_out.append(f"{field}.{argument}")
    kept = dict(values)
    for name in left_out:
        del kept[name]
    return kept, left_out


def unfold(config: RunConfig, names: Iterable[str]) -> dict[str, Any]:
    """The values of `names` in a config, those below a call by their dotted names.

    Raises KeyError for an argument that its call does not have.
    """
    names = list(names)
    values: dict[str, Any] = {}
    for name in names:
        field, dot, argument = name.partition(".")
        value = getattr(config, field)
        if dot:
            value = parse(value)[1][argument]
        elif field in CALLS:
            entry, arguments = parse(value)
            rest = {}
            for key, held in arguments.items():
                if f"{field}.{key}" not in names:
                    rest[key] = held
            value = _plain(field, _written(entry, rest))
        values[name] = value
    return values


def _plain(field: str, value: Any) -> Any:
    return getattr(make({field: value}), field)


def same(name: str, written: Any, value: Any) -> bool:
    """Whether `written` in a file means `value` in a config.

    `tbn( p=4 )` means `tbn(p=4)`, and a list means a tuple.
    """
    try:
        meant = written if "." in name else _plain(name, written)
    except ValueError:  # no config has it
        return False
    return bool(meant == value)


def from_flags(texts: Mapping[str, str]) -> dict[str, Any]:
    """Values of flags as typed or as W&B's ${args} writes them.

    That is Python's notation: [1, 2], None, {'p': 4} for a nested parameter.
    """
    values: dict[str, Any] = {}
    for name, text in texts.items():
        literal = _literal(text)
        if name in CALLS and isinstance(literal, dict):
            values |= {f"{name}.{key}": _numbers(held) for key, held in literal.items()}
        elif _is_literal(name, text):
            values[name] = _numbers(literal)
        else:
            is_text = RunConfig.model_fields[name].annotation is str or name == "keep"
            values[name] = text if is_text else text.strip("'\"")
    return values


def _is_literal(name: str, text: str) -> bool:
    if name in ("init", "teacher"):
        return text == "None"
    return "." in name or (name == "keep" and text.startswith("["))


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def _numbers(value: Any) -> Any:
    """1e-3 as a number: W&B's YAML takes it for text, and its agent passes that on."""
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
    if not arguments:
        return entry
    words = []
    for name, value in arguments.items():
        words.append(f"{name}={value!r}")
    inside = ", ".join(words)
    return f"{entry}({inside})"
