"""Conditions on rows: status=failed, binarizer~tbn, test/top1>0.9. Sorting by a column."""

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tbn_bench.catalog import canonical, did_you_mean
from tbn_bench.runs.index import Row, columns

_CONDITION = re.compile(r"\s*([^=!<>~]+?)\s*(!=|!~|>=|<=|==|=|~|>|<)\s*(.*?)\s*", re.DOTALL)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_CALLS = ("data", "model", "binarizer", "task")
_DATES = ("started",)


@dataclass(frozen=True)
class Filter:
    """One condition. Unknown values satisfy only != and !~, and = without a wanted value."""

    column: str
    relation: str
    wanted: str

    def __call__(self, row: Row) -> bool:
        value = row.get(self.column)
        if self.relation in _ORDER:
            return self._ordered(value)
        same = self._inside(value) if "~" in self.relation else self._equal(value)
        negated = self.relation.startswith("!")
        return same is not negated

    def _ordered(self, value: Any) -> bool:
        compare = _ORDER[self.relation]
        if self.column in _DATES:
            if value is None:
                return False
            return compare(str(value), self.wanted)
        known = number(value)
        if known is None:
            return False
        return compare(known, float(self.wanted))

    def _inside(self, value: Any) -> bool:
        if value is None:
            return False
        return self.wanted.lower() in str(value).lower()

    def _equal(self, value: Any) -> bool:
        wanted = self.wanted
        if value is None or value == "":
            return wanted == ""
        known = number(value)
        if known is not None:
            return known == number_in(wanted)
        word = str(value)
        if isinstance(value, bool):
            return word.lower() == wanted.lower()
        return word == wanted


def number(value: Any) -> float | int | None:
    """value if it is a number that can be compared, which NaN and True are not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    is_nan = value != value
    if is_nan:
        return None
    return value


def number_in(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def parse(text: str, known: Iterable[str]) -> Filter:
    """'test/top1 > 0.9' -> Filter.

    Raises ValueError for another form, an unknown column, or an order against no number.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ValueError(
            f"--filter expects COLUMN=VALUE (or !=, ~, !~, <, <=, >, >=), got {text!r}"
        )
    column, relation, wanted = match.groups()
    check(column, known)
    if relation in _ORDER and column not in _DATES and number_in(wanted) is None:
        raise ValueError(f"--filter {text!r}: {relation} needs a number behind it, got {wanted!r}")
    if column in _CALLS and "~" not in relation:
        wanted = _spelled(wanted)
    return Filter(column, "=" if relation == "==" else relation, wanted)


def _spelled(call: str) -> str:
    """As records spell it: 'tbn( p=4 )' is 'tbn(p=4)'."""
    try:
        return canonical(call)
    except ValueError:
        return call


def check(column: str, known: Iterable[str]) -> str:
    """The column itself. Raises ValueError for one that no run has."""
    if column not in set(known):
        raise ValueError(f"unknown column {column!r}{did_you_mean(column, known)}")
    return column


def chosen(rows: list[Row], expressions: Iterable[str]) -> list[Row]:
    """Rows that satisfy every expression. Raises ValueError as parse."""
    known = columns(rows)
    found = rows
    for text in expressions:
        condition = parse(text, known)
        found = [row for row in found if condition(row)]
    return found


def ordered(rows: list[Row], column: str, reverse: bool = False) -> list[Row]:
    """By a column: numbers before words, equal ones as they were, unknown values always last."""
    check(column, columns(rows))
    known = []
    unknown = []
    for row in rows:
        if row.get(column) in (None, ""):
            unknown.append(row)
        else:
            known.append(row)
    known.sort(key=lambda row: _key(row[column]), reverse=reverse)
    return known + unknown


def _key(value: Any) -> tuple[bool, Any]:
    if number(value) is None:
        return True, str(value)
    return False, value
