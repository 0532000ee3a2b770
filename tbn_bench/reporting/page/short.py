"""Three questions that a reader has first, each answered at the top of the page."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbn_bench.reporting import names, published, style, tiling
from tbn_bench.reporting.groups import groups
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.page import forest, rates
from tbn_bench.reporting.reproduction import cells, sizes, verdict
from tbn_bench.reporting.reproduction.cells import Cell
from tbn_bench.reporting.reproduction.matrix import interval, trained
from tbn_bench.scores import FIRST, NAMED

_WORDS = {verdict.ONE_SEED: "run with one seed"}
_MOST = 6  # cells of the paper that one answer names


@dataclass(frozen=True)
class Line:
    """A row of an answer's table. plot: its place in a forest plot; None without one."""

    cells: tuple[str, ...]
    plot: dict[str, Any] | None = None


@dataclass(frozen=True)
class Answer:
    """An answer that is read in a few seconds.

    verdict: the answer itself. note: what the words of the answer mean. anchor: where the page has
    the table behind it, and link the name of that table. head, lines: a table of details.
    wide: the numbers of the columns that a phone does not show. folded: the words that open the
    table; empty if it is always shown.
    """

    question: str
    verdict: str
    note: str
    anchor: str
    link: str
    head: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    wide: tuple[int, ...] = ()
    folded: str = ""

    @property
    def has_plots(self) -> bool:
        return any(line.plot is not None for line in self.lines)


def in_short(records: Records, results: Path) -> list[Answer]:
    """Those of the three questions that the records answer.

    results: has the published numbers, or else those of the package are used.
    """
    found = (_tiling(records), _rates(records), _paper(records, results))
    return [answer for answer in found if answer.verdict]


def _tiling(records: Records) -> Answer:
    """A row per data set, drawn in margins, so that points and errors share one axis."""
    found = tiling.answers(records)
    intervals = [forest.interval(answer.finding, answer.panel.margin) for answer in found]
    scale = forest.Scale(intervals, 1.0)
    lines = []
    for answer, ends in zip(found, intervals, strict=True):
        finding = answer.finding
        cells = (
            answer.data,
            answer.answer,
            tiling.difference(answer, finding),
            finding.group.label,
            tiling.share(finding),
            str(finding.n),
            tiling.narrower_text(answer),
        )
        colour = style.ink(finding.group.binarizer)
        lines.append(Line(cells, scale.plot(ends, colour)))
    head = (
        "data",
        "answer",
        "TBN minus BWN",
        "best TBN",
        "of BWN's bytes",
        "seeds",
        "TBN minus narrower BWN",
    )
    return Answer(
        "Does tiling pay here?",
        tiling.headline(found),
        tiling.rule(),
        "answers",
        "All differences",
        head,
        tuple(lines),
        wide=(3, 4, 6, 7),
    )


def _rates(records: Records) -> Answer:
    """Of each network and method whose learning rate alone varied: the best on held-out data."""
    found = rates.winners(records)
    lines = []
    for won in found:
        cells = (won.data, won.network, won.method, f"{won.rate:.3g}", won.test, won.sweep)
        lines.append(Line(cells))
    return Answer(
        "Which learning rate won?",
        rates.headline(found),
        rates.note(found),
        "best_configurations",
        "Best configurations",
        ("data", "network", "method", "learning rate", "test score", "sweep"),
        tuple(lines),
        folded="Scores and sweeps",
    )


def _paper(records: Records, results: Path) -> Answer:
    """How many cells of the published tables our runs reproduce, and the first of these."""
    ledger = records.published.to_dict("records")
    found = cells.find(ledger, groups(records), [])
    counts = found.kinds
    kinds = [f"{counts[kind]} {_WORDS.get(kind, kind)}" for kind in verdict.KINDS if counts[kind]]
    said = ""
    if found.cells:
        said = f"Of {len(found.cells)} published scores: {tiling.listed(kinds)}."
        ours = [cell for cell in found.cells if names.method(cell.spec).startswith("TBN")]
        same = [cell for cell in ours if cell.verdict(cell.best).kind == verdict.REPRODUCED]
        said += f" Of the {len(ours)} scores of TBN, {len(same)} reproduced."
    verified = list(_verified(ledger, results))
    note = ""
    if verified:
        note = f"Our computed sizes match {sum(verified)} of {len(verified)} published sizes."
    run = [cell for cell in found.cells if cell.best is not None]
    return Answer(
        "What did the paper say, and what do we get?",
        said,
        note,
        "cnn",
        "Published and ours",
        ("method", "data and network", "published", "ours"),
        tuple(_compared(cell) for cell in run[:_MOST]),
    )


def _compared(cell: Cell) -> Line:
    data, model = cell.network
    score = NAMED[cell.score]
    theirs = score.text(cell.target["value"])
    assert cell.best is not None
    unit = " %" if theirs.endswith("%") else ""
    own = f"{interval(cell.best, cell.score)}{unit} ({trained(cell.best, cell.score)})"
    network = f"{names.data_set(data)}, {names.network(model)}"
    if cell.score != FIRST:
        network += f", {score.label.removesuffix(', %')}"
    return Line((names.method(cell.spec), network, theirs, own))


def _verified(ledger: list[dict[Any, Any]], results: Path) -> Iterator[bool]:
    planned = sizes.read(published.home(results))
    for checks in sizes.checks(ledger, planned).values():
        for check in checks:
            yield check.is_verified
