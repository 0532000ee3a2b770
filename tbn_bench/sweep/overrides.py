"""`tbn-bench sweep FILE --set epochs=1 --set "seed.values=[0,1]"`: parameters of a file, replaced.

NAME=VALUE gives a parameter one value. NAME.values=[...], NAME.min=..., NAME.max=... and the other
keys of W&B's parameters replace the parameter as a whole by these keys.
"""

from collections.abc import Iterable
from typing import Any

from tbn_bench import yaml_file
from tbn_bench.catalog import short

_KEYS = ("value", "values", "min", "max", "distribution", "q", "mu", "sigma", "probabilities")


def overridden(file: Any, sets: Iterable[str]) -> Any:
    """A parsed sweep file with its parameters replaced; the file itself stays as it is.

    Raises ValueError for a text that is no NAME=VALUE, and for a file without parameters.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in sets:
        name, key, value = _parsed(text)
        found.setdefault(name, {})[key] = value
    if not found:
        return file
    if not isinstance(file, dict) or not isinstance(file.get("parameters"), dict):
        raise ValueError("--set changes parameters, and the file has none")
    return file | {"parameters": _flat(file["parameters"]) | found}


def _parsed(text: str) -> tuple[str, str, Any]:
    """'seed.values=[0,1]' -> ("seed", "values", [0, 1])."""
    name, equals, written = text.partition("=")
    name = name.strip()
    if not equals or not name:
        raise ValueError(f'--set takes NAME=VALUE or "NAME.values=[...]", got {short(text)}')
    stem, dot, key = name.rpartition(".")
    if not dot or key not in _KEYS:
        stem = name
        key = "value"
    try:
        return stem, key, yaml_file.parse(written)
    except Exception as error:
        raise ValueError(f"--set {short(text)}: the value is no YAML: {error}") from error


def _flat(parameters: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters by their dotted names, so that --set binarizer.p=4 finds its place."""
    found: dict[str, Any] = {}
    for name, given in parameters.items():
        if isinstance(given, dict) and isinstance(given.get("parameters"), dict):
            found |= _flat(given["parameters"], f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = given
    return found
