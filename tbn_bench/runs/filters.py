"""Conditions on rows: status=failed, binarizer~tbn, test/top1>0.9. Sorting by a column."""

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tbn_bench.catalog import canonical, did_you_mean
from tbn_bench.runs.index import Row, columns

_FORM = re.compile(r"\s*([^=!<>~]+?)\s*(!=|!~|>=|<=|==|=|~|>|<)\s*(.*?)\s*", re.DOTALL)
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
    """One condition. Unknown values satisfy != and !~ alone, and = with nothing behind it."""

    column: str
    relation: str
    wanted: str

    def __call__(self, row: Row) -> bool:
        value = row.get(self.column)
        if self.relation in _ORDER:
            return self._ordered(value)
        same = self._inside(value) if "~" in self.relation else self._equal(value)
        return same is not self.relation.startswith("!")

    def _ordered(self, value: Any) -> bool:
        if self.column in _DATES:
            return value is not None and _ORDER[self.relation](str(value), self.wanted)
        return number(value) is not None and _ORDER[self.relation](
            number(value), float(self.wanted)
        )

    def _inside(self, value: Any) -> bool:
        return value is not None and self.wanted.lower() in str(value).lower()

    def _equal(self, value: Any) -> bool:
        if value is None or value == "":
            return self.wanted == ""
        if number(value) is not None:
            return number(value) == number_in(self.wanted)
        return str(value) == self.wanted or (
            isinstance(value, bool) and str(value).lower() == self.wanted.lower()
        )


def number(value: Any) -> float | int | None:
    """value if it is a number that can be compared."""
    return (
        value
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value
        else None
    )


def number_in(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def parse(text: str, known: Iterable[str]) -> Filter:
    """'test/top1 > 0.9' -> Filter. Raises ValueError for another form, an unknown column, or an order against no number."""
    match = _FORM.fullmatch(text)
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
    filters = [parse(text, known) for text in expressions]
    return [row for row in rows if all(holds(row) for holds in filters)]


def ordered(rows: list[Row], column: str, reverse: bool = False) -> list[Row]:
    """By a column, numbers before words, equal ones as they were; unknown values last in either direction."""
    check(column, columns(rows))
    known = [row for row in rows if row.get(column) not in (None, "")]
    known.sort(key=lambda row: _key(row[column]), reverse=reverse)
    return known + [row for row in rows if row.get(column) in (None, "")]


def _key(value: Any) -> tuple[bool, Any]:
    return (False, value) if number(value) is not None else (True, str(value))
