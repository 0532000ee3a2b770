"""tbn-bench runs [list]: one line per run."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from tbn_bench.records.store import RunStore, tell
from tbn_bench.runs import filters, index, text
from tbn_bench.runs.index import Row

DEFAULT = ("run_id", "status", "value", "sweep", "data", "model", "binarizer", "seed")
_BARE: dict[str, Callable[[str], str]] = {
    "status": "{:<11}".format,
    "value": "{:>9}".format,
    "seed": "seed {}".format,
}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Prints them, and on stderr what cannot be read. Raises ValueError for an unknown column or a wrong filter."""
    problems: list[str] = []
    every = index.rows(RunStore(args.results), problems)
    found = filters.chosen(every, args.filter)
    if args.sort:
        filters.check(args.sort, index.columns(every))
        found = filters.ordered(found, args.sort, args.reverse)
    elif args.reverse:
        found = found[::-1]
    names = _columns(args.columns, every)
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {args.limit}")
    lines = table(found[: args.limit], names, head=args.columns is not None)
    if len(found) > len(found[: args.limit]):
        lines.append(f"and {len(found) - args.limit:,} more (--limit {args.limit})")
    if lines:
        text.say(lines)
    for problem in problems:
        tell(f"unreadable: {problem}", file=sys.stderr)
    return {"runs": len(found), "unreadable": len(problems)}


def _columns(given: str | None, rows: list[Row]) -> list[str]:
    known = index.columns(rows)
    return (
        [filters.check(name.strip(), known) for name in given.split(",") if name.strip()]
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
            if name == "value" or filters.number(rows[0].get(name)) is not None
        }
        return text.align(
            [names, *([cell(name, row) for name in names] for row in rows)], right, text.width()
        )
    cells = [[_BARE.get(name, str)(cell(name, row)) for name in names] for row in rows]
    return text.align(cells, limit=text.width())
