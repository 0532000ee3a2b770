"""Who leads within a budget, from certificates alone.

A row is a method, network and recipe: certified runs that differ in nothing but their seed. A row
holds a budget once it has SEEDS seeds and is better than the holder before it: paired by seed, the
mean difference is positive, and the exact sign-flip test (stats.sign_flip_p) gives p < LEVEL.
Rows enter in the order of their earliest run. The rule is ours.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from tbn_bench.config import make
from tbn_bench.records.certificate import Certificate
from tbn_bench.reporting import names, tracks
from tbn_bench.reporting.stats import Interval, paired_differences, sign_flip_p, t_interval
from tbn_bench.scores import SCORES

SEEDS = 6
LEVEL = 0.05
KILOBYTE = 1024
KILOBYTES = (4, 16, 64, 256, 1024)
BITS = (0.125, 0.25, 0.5, 1.0, 2.0)

Board = tuple[str, str, str]  # data set, score, track


@dataclass(frozen=True)
class Entry:
    """Certified runs that differ only in seed. members: in order of their seed, one per seed."""

    group_id: str
    members: list[Certificate]

    @property
    def first(self) -> Certificate:
        return self.members[0]

    @cached_property
    def by_seed(self) -> dict[int, float]:
        found = {}
        for member in self.members:
            config = make(member.claims.config)
            found[config.seed] = member.claims.recorded
        return found

    @property
    def result(self) -> Interval:
        return t_interval(list(self.by_seed.values()))

    @property
    def binarizer(self) -> str:
        return make(self.first.claims.config).binarizer

    @property
    def network(self) -> str:
        return names.network(make(self.first.claims.config).model)

    @property
    def epochs(self) -> int:
        return make(self.first.claims.config).epochs

    @property
    def file_bytes(self) -> int:
        """Of the largest file: seeds may compress the header differently."""
        return max(member.claims.file_bytes for member in self.members)

    @property
    def bits_per_weight(self) -> float:
        return max(member.claims.bits_per_weight for member in self.members)

    @property
    def entered(self) -> str:
        """When the earliest run was started, and its id, so that no two rows enter at once."""
        started = [member.claims.started or "9999" for member in self.members]
        return f"{min(started)} {self.group_id}"

    @property
    def run_ids(self) -> list[str]:
        return [member.run_id for member in self.members]

    def better_by(self, other: "Entry") -> "Difference":
        score = SCORES[self.first.claims.score]
        sign = 1 if score.goal == "max" else -1
        pairs = sign * paired_differences(self.by_seed, other.by_seed)
        mean = float(pairs.mean()) if len(pairs) else None
        return Difference(mean, sign_flip_p(pairs), len(pairs))


@dataclass(frozen=True)
class Difference:
    """Of two rows, paired by seed; more is better. mean, p: None for too few pairs."""

    mean: float | None
    p: float | None
    n: int

    @property
    def is_shown(self) -> bool:
        if self.mean is None or self.p is None:
            return False
        return self.n >= SEEDS and self.mean > 0 and self.p < LEVEL


@dataclass(frozen=True)
class Standing:
    """A row of a budget, and what its lead rests on. against: the row that held it before."""

    entry: Entry
    verdict: str
    against: Entry | None = None
    difference: Difference | None = None


@dataclass(frozen=True)
class Budget:
    """A limit on bytes or bits. fits: whether an entry is within it."""

    amount: str
    unit: str
    fits: Callable[[Entry], bool]

    @property
    def label(self) -> str:
        unit = self.unit if self.amount != "1" else self.unit.replace("bits", "bit")
        return f"{self.amount} {unit}"


def budgets() -> list[Budget]:
    return [*map(_of_kilobytes, KILOBYTES), *map(_of_bits, BITS)]


def _of_kilobytes(size: int) -> Budget:
    return Budget(f"{size:,}", "KB", lambda entry: entry.file_bytes <= size * KILOBYTE)


def _of_bits(bits: float) -> Budget:
    return Budget(f"{bits:g}", "bits per weight", lambda entry: entry.bits_per_weight <= bits)


def boards(certificates: Iterable[Certificate]) -> dict[Board, list[Entry]]:
    """The rows of each data set, score and track, in the order in which they entered."""
    found: dict[tuple[Board, str], dict[int, Certificate]] = {}
    for certificate in certificates:
        config = make(certificate.claims.config)
        track = certificate.claims.track or tracks.without_record(config.binarizer)
        board = (names.data_set(config.data), certificate.claims.score, track)
        of_group = found.setdefault((board, config.group_id), {})
        of_group.setdefault(config.seed, certificate)
    out: dict[Board, list[Entry]] = {}
    for (board, group_id), by_seed in sorted(found.items()):
        members = [by_seed[seed] for seed in sorted(by_seed)]
        out.setdefault(board, []).append(Entry(group_id, members))
    for rows in out.values():
        rows.sort(key=lambda entry: entry.entered)
    return out


def standings(rows: list[Entry]) -> list[Standing]:
    """The row that holds a budget, and above it the best row, where that is another.

    rows: those within the budget, in the order in which they entered. At most two; none of none.
    """
    if not rows:
        return []
    holder: Standing | None = None
    for entry in rows:
        if len(entry.by_seed) < SEEDS:
            continue
        if holder is None:
            holder = Standing(entry, f"the first with {SEEDS} seeds")
            continue
        difference = entry.better_by(holder.entry)
        if difference.is_shown:
            holder = Standing(entry, "shown", holder.entry, difference)
    score = SCORES[rows[0].first.claims.score]
    best = max(rows, key=lambda entry: score.signed(entry.result.mean))
    if holder is None:
        return [Standing(best, _not_shown(best, None))]
    if best is holder.entry or score.signed(best.result.mean) <= score.signed(
        holder.entry.result.mean
    ):
        return [holder]
    difference = best.better_by(holder.entry)
    verdict = _not_shown(best, difference)
    return [Standing(best, verdict, holder.entry, difference), holder]


def _not_shown(entry: Entry, difference: Difference | None) -> str:
    n = len(entry.by_seed)
    if n < SEEDS:
        return f"not shown: {n} of {SEEDS} seeds"
    if difference is None or difference.n < SEEDS:
        pairs = 0 if difference is None else difference.n
        return f"not shown: {pairs} of {SEEDS} common seeds"
    return f"not shown: p = {difference.p:.3f}"


def labels(rows: Iterable[Entry]) -> dict[str, str]:
    """Binarizer -> display name."""
    return names.methods(sorted({entry.binarizer for entry in rows}))


def title(board: Board) -> str:
    data, score, track = board
    label = SCORES[score].label.removesuffix(" %")
    return f"{data}, {label}, {tracks.title(track)}"
