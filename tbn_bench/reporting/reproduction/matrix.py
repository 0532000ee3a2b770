"""The head of the paper report: a matrix of verdicts for each published table."""

from collections.abc import Iterable
from dataclasses import dataclass

from tbn_bench.reporting import names, style
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.reproduction.cells import Cell, Found
from tbn_bench.reporting.reproduction.sizes import Check, Key
from tbn_bench.reporting.reproduction.verdict import Verdict
from tbn_bench.scores import FIRST, NAMED

Column = tuple[str, str, str]  # data set, model and score


@dataclass(frozen=True)
class Entry:
    """One cell with its verdict and the sizes that the plan verifies."""

    cell: Cell
    verdict: Verdict
    checks: list[Check]

    @property
    def target(self) -> str:
        """The published value, in the unit of its score."""
        score = NAMED[self.cell.score]
        return score.text(self.cell.target["value"], False)

    @property
    def ours(self) -> str:
        """Mean, interval, seeds and epochs of our runs; empty if there are none."""
        group = self.cell.best
        if group is None:
            return ""
        return f"{interval(group, self.cell.score)}, {trained(group, self.cell.score)}"


@dataclass(frozen=True)
class Matrix:
    """rows: the name of a method, and an entry or None for each column."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[Entry | None]]]


def interval(group: Group, score: str) -> str:
    """Mean and 95 % interval of a group's runs, in the unit of the score."""
    result = group.results[score]
    mean = NAMED[score].text(result.mean, False)
    if result.half is None:
        return mean
    half = NAMED[score].text(result.half, False)
    return f"{mean} ± {half}"


def trained(group: Group, score: str) -> str:
    """Seeds and epochs of a group's runs."""
    seeds = group.results[score].n
    epochs = group.first["epochs"]
    return f"{_some(seeds, 'seed')}, {_some(epochs, 'epoch')}"


def _some(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def matrices(found: Found, checks: dict[Key, list[Check]]) -> list[Matrix]:
    """A matrix for each published table, in reading order."""
    out = []
    for title, cells in found.by_section().items():
        out.append(_matrix(title, cells, checks))
    return out


def _matrix(title: str, cells: list[Cell], checks: dict[Key, list[Check]]) -> Matrix:
    entries = {}
    for cell in cells:
        key = (*cell.network, cell.spec)
        found = checks.get(key, [])
        entries[cell.spec, column_of(cell)] = Entry(cell, cell.verdict(cell.best), found)

    columns = list(dict.fromkeys(column_of(cell) for cell in cells))
    specs = style.methods(cell.spec for cell in cells)
    labels = names.methods(specs)
    rows = []
    for spec in specs:
        row = [entries.get((spec, column)) for column in columns]
        rows.append((labels[spec], row))
    return Matrix(title, heads(columns), rows)


def column_of(cell: Cell) -> Column:
    return (*cell.network, cell.score)


def heads(columns: Iterable[Column]) -> list[str]:
    """ "CIFAR-10, ResNet-18"; with the score where it is not top-1 accuracy."""
    out = []
    for data, model, score in columns:
        head = f"{names.data_set(data)}, {names.network(model)}"
        if score != FIRST:
            head += f", {NAMED[score].label}"
        out.append(head)
    return out
