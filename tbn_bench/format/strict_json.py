"""JSON from files that nobody vouches for: what Python's reader takes beyond the standard is refused."""

import json
import math
from typing import Any, NoReturn

MOST_DEPTH = 32  # of lists and objects inside one another; the deepest that the suite writes is 6


def loads(text: str | bytes) -> Any:
    """The value. Raises ValueError, in one line.

    Also refused: NaN and Infinity, a number beyond float64, a key that an object has twice, and
    values nested deeper than MOST_DEPTH (whoever walks through them could run out of stack).
    """
    try:
        found = json.loads(
            text,
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=_object,
        )
    except RecursionError as error:
        raise ValueError(_too_deep()) from error
    _check_depth(found)
    return found


def _no_constant(value: str) -> NoReturn:
    raise ValueError(f"{value} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.40} is beyond the numbers of float64")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:40]!r} is there twice")
            seen.add(key)
    return made


def _check_depth(value: Any) -> None:
    level = _containers([value])
    for _ in range(MOST_DEPTH):
        level = [inside for container in level for inside in _containers(container)]
        if not level:
            return
    raise ValueError(_too_deep())


def _containers(value: dict[str, Any] | list[Any]) -> list[Any]:
    parts = value.values() if isinstance(value, dict) else value
    return [part for part in parts if isinstance(part, dict | list)]


def _too_deep() -> str:
    return f"nested deeper than {MOST_DEPTH} levels"
