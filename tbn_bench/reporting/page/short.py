"""Three questions that a reader has first, each answered in one sentence at the top of the page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tbn_bench.reporting import findings, names, published
from tbn_bench.reporting.groups import Group, groups
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.reproduction import cells, sizes, verdict
from tbn_bench.reporting.reproduction.cells import Cell
from tbn_bench.reporting.reproduction.matrix import interval, trained
from tbn_bench.reporting.settings import settings
from tbn_bench.reporting.tables.best_configurations import best_first, searches
from tbn_bench.scores import SCORES

_WORDS = {verdict.ONE_SEED: "run with one seed"}
_MOST = 5  # winners, and cells of the paper, that one sentence names
_RATE = "lr"


def in_short(records: Records, results: Path) -> list[dict[str, str]]:
    """question, answer and, as an anchor of the page, where its table is; none without an answer.

    results: has the published numbers, or else those of the package are used.
    """
    found = []
    for question, answer, anchor in (
        ("Does tiling pay here?", findings.tiling(records), "answers"),
        ("Which learning rate won?", _winners(records), "best_configurations"),
        ("What did the paper say, and what do we get?", _paper(records, results), "cnn"),
    ):
        if answer:
            found.append({"question": question, "answer": answer, "anchor": anchor})
    return found


def _winners(records: Records) -> str:
    """Of each sweep and data set whose learning rate varied: the best on held-out data.

    The scores in the sentence are those of the test set.
    """
    by_task: dict[tuple[str, str], list[Group]] = {}
    for (sweep, data, _), members in searches(records).items():
        by_task.setdefault((sweep, data), []).extend(members)
    said = []
    for (sweep, data), members in by_task.items():
        best = best_first(members)[0]
        rate = _rate(records, best, members)
        if rate is not None and best.result is not None:
            score = SCORES[best.score]
            method = names.method(best.binarizer)
            test = score.text(best.result.mean)
            where = f"{names.data_set(data)}, sweep {sweep}"
            said.append(f"{rate:.3g} for {method} (test {test}; {where})")
    if not said:
        return ""
    more = f", and those of {len(said) - _MOST} other sweeps" if len(said) > _MOST else ""
    return f"One per sweep, chosen on held-out data: {', '.join(said[:_MOST])}{more}."


def _rate(records: Records, best: Group, members: list[Group]) -> float | None:
    """The learning rate of the best group; None if all groups of its network have the same."""
    own = [g for g in members if g.panel == best.panel]
    values = settings(records, own).varied.get(_RATE)
    return None if values is None else values[best.group_id]


def _paper(records: Records, results: Path) -> str:
    """How many cells of the published tables our runs reproduce, and the first of these."""
    ledger = records.published.to_dict("records")
    found = cells.find(ledger, groups(records), [])
    if not found.cells:
        return ""
    counts = found.kinds
    kinds = [f"{counts[kind]} {_WORDS.get(kind, kind)}" for kind in verdict.KINDS if counts[kind]]
    text = f"Of {len(found.cells)} published scores, {', '.join(kinds)}."
    ours = [_compared(cell) for cell in found.cells if cell.best is not None]
    if ours:
        text += f" {'; '.join(ours[:_MOST])}."
    verified = list(_verified(ledger, results))
    if verified:
        text += f" Our computed sizes match {sum(verified)} of {len(verified)} published sizes."
    return text


def _compared(cell: Cell) -> str:
    data, model = cell.network
    score = SCORES[cell.score]
    theirs = score.text(cell.target["value"])
    assert cell.best is not None
    own = f"{interval(cell.best, cell.score)} ({trained(cell.best, cell.score)})"
    network = f"{names.method(cell.spec)} on {names.data_set(data)}, {names.network(model)}"
    return f"{network}: published {theirs}, ours {own}"


def _verified(ledger: list[dict[Any, Any]], results: Path) -> Iterator[bool]:
    planned = sizes.read(published.home(results))
    for checks in sizes.checks(ledger, planned).values():
        for check in checks:
            yield check.is_verified
