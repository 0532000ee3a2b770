"""The cells of the paper's tables: for each, one published value and our runs of the same setting.

Several sources often give a value for one cell. published.by_authority chooses the one
that ours is compared with; the others are shown beside it.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tbn_bench import catalog
from tbn_bench.reporting import style
from tbn_bench.reporting.commands import Setting, command_of, setting_of
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.published import Line, by_authority
from tbn_bench.reporting.reproduction.verdict import NOT_RUN, Verdict, judged
from tbn_bench.reporting.tables import ablations, cnn, pointnet, time_series, transformers_mlps
from tbn_bench.reporting.tables._paper import (
    Scope,
    is_ablation,
    is_study,
    matched,
    name_of,
    natural,
)
from tbn_bench.scores import NAMED

ARENA = Scope(
    "The arena, published and ours",
    frozenset({"airbench"}),
    frozenset({"cifar10"}),
    ("top1_tta",),
)
SCOPES = (
    ARENA,
    cnn.SCOPE,
    transformers_mlps.SCOPE,
    pointnet.SCOPE,
    time_series.SCOPE,
    ablations.SCOPE,
)
REST = "Baselines with binary activations, and further scores"
_CELL = ("dataset", "model", "spec", "activation_bits", "metric")


@dataclass(frozen=True)
class Cell:
    """One cell of a published table.

    section: the title of its table. lines: every published value of the cell, the target first.
    groups: our runs of the same setting, those with the most epochs and seeds first. setting: the
    sweep or recipe with the published settings, None if there is none.
    """

    section: str
    lines: list[Line]
    groups: list[Group]
    command: str
    setting: Setting | None = None

    @property
    def target(self) -> Line:
        return self.lines[0]

    @property
    def score(self) -> str:
        return str(self.target["metric"])

    @property
    def network(self) -> tuple[str, str]:
        """(data set, model): the column of the cell."""
        return self.target["dataset"], self.target["model"]

    @property
    def spec(self) -> str:
        """The binarizer: the row of the cell."""
        return str(self.target["spec"])

    def verdict(self, group: Group | None) -> Verdict:
        """The verdict on the runs of one group; on none, that nothing was run."""
        if group is None:
            return Verdict(NOT_RUN, NOT_RUN)
        result = group.results[self.score]
        return judged(self.score, self.target["value"], result, group.first["epochs"])

    @property
    def best(self) -> Group | None:
        """Our runs that the cell shows."""
        return self.groups[0] if self.groups else None


@dataclass(frozen=True)
class Found:
    """cells: in reading order. left: the reasons why other lines of the ledger have no cell."""

    cells: list[Cell]
    left: Counter[str] = field(default_factory=Counter)

    @property
    def kinds(self) -> Counter[str]:
        """The number of cells of each kind of verdict."""
        return Counter(cell.verdict(cell.best).kind for cell in self.cells)

    def by_section(self) -> dict[str, list[Cell]]:
        """The title of each published table -> its cells."""
        sections: dict[str, list[Cell]] = {}
        for cell in self.cells:
            sections.setdefault(cell.section, []).append(cell)
        return sections


def find(ledger: list[Line], groups: list[Group], settings: list[Setting]) -> Found:
    """The cells of every line of the ledger that a run of ours could be compared with."""
    lines: dict[tuple[Any, ...], list[Line]] = {}
    left: Counter[str] = Counter()
    for line in ledger:
        reason = _unfit(line)
        if reason:
            left[reason] += 1
            continue
        key = tuple(line[name] for name in _CELL)
        lines.setdefault(key, []).append(line)

    cells = []
    for own in lines.values():
        ordered = by_authority(own)
        section = _section(ordered[0])
        command = command_of(ordered[0], settings)
        own_setting = setting_of(ordered[0], settings)
        fitting = _groups(ordered[0], groups)
        cells.append(Cell(section, ordered, fitting, command, own_setting))
    return Found(_sorted(cells), left)


def is_ours(line: Line) -> bool:
    """Whether the catalogue has the line's method, network and data set."""
    packages = {"spec": "binarizers", "model": "models", "dataset": "data"}
    known = {key: catalog.names(package) for key, package in packages.items()}
    return all(name_of(line[key]) in names for key, names in known.items())


def _unfit(line: Line) -> str | None:
    """The reason why a line has no cell of ours; None if it has one."""
    if line["metric"] not in NAMED:
        return "of a quantity that no run records"
    if not is_ours(line):
        return "of a method, network or data set that is not ours"
    return None


def _section(line: Line) -> str:
    """The title of the table that a line is in."""
    for scope in SCOPES:
        if scope.has_line(line) and _is_main(line, scope):
            return title_of(scope)
    return REST


def title_of(scope: Scope) -> str:
    return scope.title.removesuffix(", published and ours")


def _is_main(line: Line, scope: Scope) -> bool:
    """Whether the line's score is the one by which its table compares."""
    return line["metric"] in ("instance_miou", "miou", scope.scores[0])


def _groups(line: Line, groups: list[Group]) -> list[Group]:
    fitting = [g for g in groups if _is_about(line, g)]

    def place(g: Group) -> tuple[int, int, str]:
        result = g.results[line["metric"]]
        return -g.first["epochs"], -result.n, g.group_id

    return sorted(fitting, key=place)


def _is_about(line: Line, g: Group) -> bool:
    """Whether a line may be compared with a group of ours that has its score."""
    score = line["metric"]
    if score not in g.results:
        return False
    if is_study(g.sweep) != is_ablation(line["spec"]):
        return False
    found = matched([line], g, score)
    return bool(found)


def _sorted(cells: list[Cell]) -> list[Cell]:
    """By table, network, method and score."""
    titles = [title_of(scope) for scope in SCOPES] + [REST]
    methods = style.methods(cell.spec for cell in cells)

    def place(cell: Cell) -> tuple[Any, ...]:
        data, model = cell.network
        return (
            titles.index(cell.section),
            natural(data),
            natural(model),
            methods.index(cell.spec),
            cell.score,
            cell.target["activation_bits"],
        )

    return sorted(cells, key=place)
