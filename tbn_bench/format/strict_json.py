"""Strict JSON, for files of unknown origin: Python's reader accepts more than the standard."""

import json
import math
import reprlib
from collections.abc import Iterable
from itertools import chain
from typing import Any, NoReturn

MOST_DEPTH = 32  # filled lists and objects inside one another; the suite writes at most 6


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


def brief(value: Any) -> str:
    """The beginning of repr(value), at most 60 letters, without making the repr of a huge value."""
    return reprlib.repr(value)[:60]


def _no_constant(value: str) -> NoReturn:
    raise ValueError(f"{value} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.40} is beyond the numbers of float64")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"the key {key[:40]!r} is there twice")
        seen.add(key)
    return made


def _check_depth(value: Any) -> None:
    level = _filled([value])
    for _ in range(MOST_DEPTH):
        level = _filled(chain.from_iterable(map(_parts, level)))
        if not level:
            return
    raise ValueError(_too_deep())


def _filled(values: Iterable[Any]) -> list[Any]:
    """Those that hold something; a file may have hundreds of thousands of empty ones."""
    containers = [value for value in values if type(value) in (dict, list)]
    return [container for container in containers if container]


def _parts(container: Any) -> Iterable[Any]:
    return container.values() if type(container) is dict else container


def _too_deep() -> str:
    return f"nested deeper than {MOST_DEPTH} levels"
