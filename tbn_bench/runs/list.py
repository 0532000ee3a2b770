"""tbn-bench runs [list]: one line per run."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from tbn_bench.records.store import RunStore, tell
from tbn_bench.runs import index, text
from tbn_bench.runs.filters import check, chosen, number, ordered
from tbn_bench.runs.index import Row

DEFAULT = ("run_id", "status", "value", "sweep", "data", "model", "binarizer", "seed")
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
    """Prints them, and on stderr what cannot be read. Raises ValueError for an unknown column or a wrong filter."""
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
    lines = table(found[:limit], names, head=columns is not None)
    if len(found) > len(found[:limit]):
        lines.append(f"and {len(found) - limit:,} more (--limit {limit})")
    if lines:
        text.say(lines)
    for problem in problems:
        tell(f"unreadable: {problem}", file=sys.stderr)
    return {"runs": len(found), "unreadable": len(problems)}


def _columns(given: str | None, rows: list[Row]) -> list[str]:
    known = index.columns(rows)
    return (
        [check(name.strip(), known) for name in given.split(",") if name.strip()]
        if given
        else list(DEFAULT)
    )


def cell(column: str, row: Row) -> str:
    """As shown: the score with its unit."""
    return (
        text.score(row.get("score"), row.get("value"))
        if column == "value"
        else text.word(row.get(column))
    )


def table(rows: list[Row], names: list[str], head: bool) -> list[str]:
    """Aligned lines, cut to the terminal if stdout is one. Without a head each cell speaks for itself."""
    if not rows or not names:
        return []
    if head:
        right = {
            i
            for i, name in enumerate(names)
            if name == "value" or number(rows[0].get(name)) is not None
        }
        return text.align(
            [names, *([cell(name, row) for name in names] for row in rows)], right, text.width()
        )
    cells = [[_BARE.get(name, str)(cell(name, row)) for name in names] for row in rows]
    return text.align(cells, limit=text.width())
