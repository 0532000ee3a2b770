"""Three questions that a reader has first, each answered in one sentence at the top of the page."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbn_bench import catalog
from tbn_bench.reporting import findings, names, published, style
from tbn_bench.reporting.groups import Group, groups
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.reproduction import cells, sizes, verdict
from tbn_bench.reporting.reproduction.cells import Cell
from tbn_bench.reporting.reproduction.matrix import interval, trained
from tbn_bench.reporting.settings import settings
from tbn_bench.reporting.tables.best_configurations import best_first, searches
from tbn_bench.scores import SCORES

_WORDS = {verdict.ONE_SEED: "run with one seed"}
_MOST = 6  # winners of a data set, and cells of the paper, that one sentence names
_RATE = "lr"


@dataclass(frozen=True)
class Answer:
    """anchor: where the page has the table behind the text, and link the name of that table.

    head, rows: a short table of details; empty without any.
    """

    question: str
    text: str
    anchor: str
    link: str
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def in_short(records: Records, results: Path) -> list[Answer]:
    """Those of the three questions that the records answer.

    results: has the published numbers, or else those of the package are used.
    """
    tiling = Answer("Does tiling pay here?", findings.tiling(records), "answers", "All differences")
    paper = Answer(
        "What did the paper say, and what do we get?",
        _paper(records, results),
        "cnn",
        "Published and ours",
    )
    found = (tiling, _learning_rates(records), paper)
    return [answer for answer in found if answer.text]


def _learning_rates(records: Records) -> Answer:
    """Of each data set and method whose learning rate varied: the best on held-out data.

    The scores are those of the test set.
    """
    by_data: dict[str, list[str]] = {}
    rows = []
    winners = list(_winners(records))
    order = style.methods(best.binarizer for best, _ in winners)

    entries = [catalog.parse(spec)[0] for spec in order]

    def place(winner: tuple[Group, float]) -> tuple[int, str]:
        spec = winner[0].binarizer
        entry, _ = catalog.parse(spec)
        return entries.index(entry), names.method(spec)

    for best, rate in sorted(winners, key=place):
        assert best.result is not None
        method = names.method(best.binarizer)
        data = names.data_set(best.data)
        by_data.setdefault(data, []).append(f"{rate:.3g} for {method}")
        test = SCORES[best.score].text(best.result.mean)
        rows.append((data, method, f"{rate:.3g}", test, best.sweep))
    said = []
    for data, rates in by_data.items():
        more = f" and {len(rates) - _MOST} more" if len(rates) > _MOST else ""
        said.append(f"On {data}: {', '.join(rates[:_MOST])}{more}.")
    return Answer(
        "Which learning rate won?",
        " ".join([*said, "Chosen on held-out data, for each method by itself."]) if said else "",
        "best_configurations",
        "Best configurations",
        ("data", "method", "learning rate", "test score", "sweep"),
        tuple(rows),
    )


def _winners(records: Records) -> Iterator[tuple[Group, float]]:
    """A group per data set and method, and its learning rate."""
    tried: dict[tuple[str, str], list[Group]] = {}
    rates: dict[str, Any] = {}
    for members in searches(records).values():
        values = settings(records, members).varied.get(_RATE)
        if values is None:
            continue
        rates |= values
        for g in members:
            tried.setdefault((g.data, names.method(g.binarizer)), []).append(g)
    for found in tried.values():
        best = best_first(found)[0]
        rate = rates[best.group_id]
        if rate is not None and best.result is not None:
            yield best, rate


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
    unit = " %" if theirs.endswith("%") else ""
    own = f"{interval(cell.best, cell.score)}{unit} ({trained(cell.best, cell.score)})"
    network = f"{names.method(cell.spec)} on {names.data_set(data)}, {names.network(model)}"
    return f"{network}: published {theirs}, ours {own}"


def _verified(ledger: list[dict[Any, Any]], results: Path) -> Iterator[bool]:
    planned = sizes.read(published.home(results))
    for checks in sizes.checks(ledger, planned).values():
        for check in checks:
            yield check.is_verified
