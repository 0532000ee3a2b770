"""Types of the values in a sweep file. Each refuses with ValueError what it does not take."""

import math
from typing import Annotated, Any

from pydantic import AfterValidator

from tbn_bench.catalog import short

_INTEGERS = 2**63


def is_number(value: Any) -> bool:
    """True for a finite number, and for an integer of 64 bits; False for True."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < _INTEGERS
    return isinstance(value, float) and math.isfinite(value)


def number(value: Any) -> Any:
    if not is_number(value):
        raise ValueError(f"must be a number, got {short(value)}{_number_hint(value)}")
    return value


def _number_hint(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return "; an integer has 64 bits at most"
    if isinstance(value, str) and _is_finite(value):
        return "; leave its quotes out"
    return ""


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _positive(value: Any) -> Any:
    if value <= 0:
        raise ValueError(f"must be positive, got {value!r}")
    return value


def not_negative(value: Any) -> Any:
    if value < 0:
        raise ValueError(f"must not be negative, got {value!r}")
    return value


def _whole(value: Any) -> Any:
    if not isinstance(value, int):
        raise ValueError(f"must be an integer, got {value!r}")
    return value


def _list(value: Any) -> Any:
    if not isinstance(value, list) or not value:
        raise ValueError(f"must be a non-empty list, got {short(value)}")
    return value


Number = Annotated[Any, AfterValidator(number)]
Positive = Annotated[Number, AfterValidator(_positive)]
NotNegative = Annotated[Number, AfterValidator(not_negative)]
Whole = Annotated[Number, AfterValidator(_whole)]
Count = Annotated[Whole, AfterValidator(_positive)]
Filled = Annotated[Any, AfterValidator(_list)]
