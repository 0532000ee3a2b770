"""tbn-bench runs [list]: one line per run."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from tbn_bench import catalog
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell
from tbn_bench.runs import index, text
from tbn_bench.runs.filters import check, chosen, number, ordered
from tbn_bench.runs.index import Row

DEFAULT = ("run_id", "status", "value", "sweep", "data", "model", "binarizer", "seed")
# cells without a head must be clear by themselves
_BARE: dict[str, Callable[[str], str]] = {
    "status": "{:<11}".format,
    "value": "{:>9}".format,
    "seed": "seed {}".format,
}


def run(
    store: RunStore,
    filters: Sequence[str],
    sort: str | None,
    reverse: bool,
    columns: str | None,
    limit: int | None,
) -> dict[str, Any]:
    """Prints the runs, and on stderr what cannot be read.

    Raises ValueError for an unknown column or a wrong filter.
    """
    problems: list[str] = []
    every = index.rows(store, problems)
    found = chosen(every, filters)
    if sort:
        check(sort, index.columns(every))
        found = ordered(found, sort, reverse)
    elif reverse:
        found = found[::-1]
    names = _columns(columns, every)
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be at least 1, got {limit}")
    shown = found[:limit]
    lines = table(shown, names, head=columns is not None)
    more = len(found) - len(shown)
    if more:
        lines.append(f"and {more:,} more (--limit {limit})")
    if lines:
        text.say(lines)
    for problem in problems:
        tell(f"unreadable: {problem}", file=sys.stderr)
    return {"runs": len(found), "unreadable": len(problems)}


def _columns(given: str | None, rows: list[Row]) -> list[str]:
    if not given:
        return list(DEFAULT)
    known = index.columns(rows)
    names = []
    for part in given.split(","):
        name = part.strip()
        if name:
            names.append(check(name, known))
    return names


def cell(column: str, row: Row) -> str:
    """As shown: the score with its unit."""
    value = row.get(column)
    if column == "value":
        return text.score(row.get("score"), value)
    return catalog.given_name(str(value)) or text.word(value)


def table(rows: list[Row], names: list[str], head: bool) -> list[str]:
    """Aligned lines, cut to the terminal if stdout is one."""
    if not rows or not names:
        return []
    cells = [_cells(row, names) for row in rows]
    if head:
        right = [place for place, name in enumerate(names) if _is_number(name, rows[0])]
        return text.align([names, *cells], right, text.width())
    for row_cells in cells:
        for place, name in enumerate(names):
            in_words = _BARE.get(name, str)
            row_cells[place] = in_words(row_cells[place])
    return text.align(cells, limit=text.width())


def _cells(row: Row, names: list[str]) -> list[str]:
    return [cell(name, row) for name in names]


def _is_number(column: str, row: Row) -> bool:
    if column == "value":
        return True
    return number(row.get(column)) is not None
