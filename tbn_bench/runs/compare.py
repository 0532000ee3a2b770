"""tbn-bench runs compare RUN RUN: what differs, and nothing else."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tbn_bench.config import make
from tbn_bench.records import notebook
from tbn_bench.records.run import RunRecord
from tbn_bench.records.store import RunStore
from tbn_bench.runs import text
from tbn_bench.runs.filters import number
from tbn_bench.runs.show import flat

_NOT_RESULTS = ("schema_version", "run_id", "plan")
Values = dict[str, Any]


class Difference(NamedTuple):
    """a, b: the values in the two runs; None where one of them lacks it."""

    name: str
    a: Any
    b: Any


class Comparison(dict[str, list[Difference]]):
    """Section -> the differences in it; sections without any are left out. a, b: the runs."""

    def __init__(self, a: RunRecord, b: RunRecord):
        super().__init__()
        self.a = a
        self.b = b

    def __str__(self) -> str:
        if not self:
            return f"{_name(self.a)} and {_name(self.b)}: no difference"
        lines = _lines(self.a, self.b, self)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows: list[Sequence[object]] = []
        for title, found in self.items():
            for difference in found:
                row = (title, *difference)
                rows.append(row)
        head = ("", "", _name(self.a), _name(self.b))
        return notebook.table(head, rows)


def differences(a: RunRecord, b: RunRecord) -> Comparison:
    """Every difference between two runs, by section."""
    sections = {
        "run": _state,
        "config": _config,
        "provenance": _source,
        "plan": _plan,
        "results": _results,
    }
    found = Comparison(a, b)
    for title, values in sections.items():
        unequal = _unequal(values(a), values(b))
        if unequal:
            found[title] = unequal
    return found


def _unequal(a: Values, b: Values) -> list[Difference]:
    found = []
    for name in dict.fromkeys([*a, *b]):
        pair = Difference(name, a.get(name), b.get(name))
        if pair.a != pair.b:
            found.append(pair)
    return found


def _state(record: RunRecord) -> Values:
    return {
        "sweep": record.sweep,
        "status": record.status,
        "error": record.error,
    }


def _config(record: RunRecord) -> Values:
    """With the defaults of fields that are younger than the record."""
    try:
        return make(record.config).model_dump(mode="json")
    except ValueError:
        return record.config


def _source(record: RunRecord) -> Values:
    """Without the command, which follows from the config."""
    values = dict(flat(record.provenance))
    values.pop("command", None)
    return values


def _results(record: RunRecord) -> Values:
    values = dict(record.summary or {})
    for name in _NOT_RESULTS:
        values.pop(name, None)
    return values


def _plan(record: RunRecord) -> Values:
    """'conv1.weight p' -> 4: every field of every weight."""
    found = {}
    for row in (record.summary or {}).get("plan") or []:
        if not isinstance(row, dict):
            continue
        weight = row.get("name")
        for key, value in row.items():
            if key != "name":
                found[f"{weight} {key}"] = value
    return found


def _change(a: Any, b: Any) -> str:
    """'+0.5', or '' where one is no number."""
    if number(a) is None or number(b) is None:
        return ""
    if isinstance(a, int) and isinstance(b, int):
        return f"{b - a:+,}"
    return f"{b - a:+.4g}"


def run(store: RunStore, name: str, other: str) -> dict[str, Any]:
    """Prints one line per difference. Returns their number by section."""
    a = store.find(name)
    b = store.find(other)
    found = differences(a, b)
    text.say(str(found).splitlines())
    return {
        "runs": [a.run_id, b.run_id],
        "differences": {title: len(rows) for title, rows in found.items()},
    }


def _name(record: RunRecord) -> str:
    return f"{record.sweep}/{record.run_id}"


def _lines(a: RunRecord, b: RunRecord, found: dict[str, list[Difference]]) -> list[str]:
    table = [["", _name(a), _name(b), ""]]
    for title, rows in found.items():
        table.append([title, "", "", ""])
        for row in rows:
            change = ""
            if title == "results":
                change = _change(row.a, row.b)
            words = [f"  {row.name}", text.word(row.a), text.word(row.b), change]
            table.append(words)
    return text.align(table, limit=text.width())
