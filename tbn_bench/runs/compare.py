"""tbn-bench runs compare RUN RUN: what differs, and nothing else."""

from typing import Any

from tbn_bench.config import make
from tbn_bench.records.store import RunRecord, RunStore
from tbn_bench.runs import text
from tbn_bench.runs.filters import number
from tbn_bench.runs.show import flat

_NOT_RESULTS = ("schema_version", "run_id", "plan")
Values = dict[str, Any]


def differences(a: RunRecord, b: RunRecord) -> dict[str, list[tuple[str, Any, Any]]]:
    """Section -> (name, value in a, value in b) of whatever is not the same; None for what one of them lacks."""
    pairs = {
        "run": ({"sweep": a.sweep, "status": a.status, "error": a.error}, {"sweep": b.sweep, "status": b.status, "error": b.error}),
        "config": (_config(a), _config(b)),
        "provenance": (_source(a), _source(b)),
        "plan": (_plan(a), _plan(b)),
        "results": (_results(a), _results(b)),
    }  # fmt: skip
    return {title: found for title, (x, y) in pairs.items() if (found := _unequal(x, y))}


def _unequal(a: Values, b: Values) -> list[tuple[str, Any, Any]]:
    return [(k, a.get(k), b.get(k)) for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k)]


def _config(record: RunRecord) -> Values:
    """With the defaults of fields that are younger than the record."""
    try:
        return make(record.config).model_dump(mode="json")
    except ValueError:
        return record.config


def _source(record: RunRecord) -> Values:
    """But the command, which the config says."""
    return {k: v for k, v in flat(record.provenance) if k != "command"}


def _results(record: RunRecord) -> Values:
    return {k: v for k, v in (record.summary or {}).items() if k not in _NOT_RESULTS}


def _plan(record: RunRecord) -> Values:
    """'conv1.weight p' -> 4: every field of every weight."""
    rows = (record.summary or {}).get("plan") or []
    return {
        f"{row.get('name')} {k}": v
        for row in rows
        if isinstance(row, dict)
        for k, v in row.items()
        if k != "name"
    }


def _change(a: Any, b: Any) -> str:
    if number(a) is None or number(b) is None:
        return ""
    return f"{b - a:+,}" if isinstance(a, int) and isinstance(b, int) else f"{b - a:+.4g}"


def run(store: RunStore, name: str, other: str) -> dict[str, Any]:
    """Prints one line per difference; the last line counts them by section."""
    a = store.find(name)
    b = store.find(other)
    found = differences(a, b)
    lines = [["", f"{a.sweep}/{a.run_id}", f"{b.sweep}/{b.run_id}", ""]]
    for title, rows in found.items():
        lines += [
            [title, "", "", ""],
            *(
                [f"  {k}", text.word(x), text.word(y), _change(x, y) if title == "results" else ""]
                for k, x, y in rows
            ),
        ]
    text.say(
        text.align(lines, limit=text.width())
        if found
        else [f"{a.sweep}/{a.run_id} and {b.sweep}/{b.run_id}: no difference"]
    )
    return {
        "runs": [a.run_id, b.run_id],
        "differences": {title: len(rows) for title, rows in found.items()},
    }
