"""One test: a difference of two networks, paired by seed, and what it shows."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.stats import (
    LEAST,
    is_spread,
    paired_differences,
    paired_interval,
    sign_flip_p,
)
from tbn_bench.scores import SCORES

TESTED = 6  # seeds; the smallest p of five is 0.0625
LEVEL = 0.05

BETTER = "better"
WORSE = "worse"
EVEN = "no difference shown"
FEW = f"fewer than {LEAST} seeds"
NO_RIVAL = "no rival"
NOT_RUN = "not run"
_REST = {  # verdict -> its words for one comparison, and for several
    EVEN: ("shows no difference", "show no difference"),
    NO_RIVAL: ("has no rival", "have no rival"),
    FEW: (f"has {FEW}", f"have {FEW}"),
    NOT_RUN: ("is not run", "are not run"),
}


@dataclass(frozen=True)
class Contrast:
    """first minus second, in percentage points or a unit of its own; more is better for first.

    label: of its row. series: the binarizer that gives the mark its colour. half: of the 95 %
    interval of n seeds. p: of the exact sign-flip test, from TESTED seeds. planned: seeds. detail:
    one more fact of the row. is_open: no rival exists, so there is nothing to run. draws: of a
    fault, where the interval is over those and not over seeds. words: what a positive and a
    negative difference mean.
    """

    label: str
    series: str
    first: str = ""
    second: str = ""
    difference: float | None = None
    half: float | None = None
    n: int = 0
    p: float | None = None
    planned: int = TESTED
    detail: str = ""
    groups: tuple[str, ...] = ()
    run_ids: tuple[str, ...] = field(default=(), repr=False)
    is_open: bool = False
    unit: str = "points"
    draws: int = 0
    words: tuple[str, str] = (BETTER, WORSE)

    @property
    def verdict(self) -> str:
        """One of BETTER, WORSE, EVEN, FEW, NO_RIVAL and NOT_RUN."""
        if self.is_open:
            return NO_RIVAL
        if self.difference is None:
            return NOT_RUN
        if self.half is None or (self.n < LEAST and not self.draws):
            return FEW
        is_shown = is_spread(self.difference, self.half) and abs(self.difference) > self.half
        if self.p is not None and self.p > LEVEL:
            is_shown = False
        if not is_shown:
            return EVEN
        return BETTER if self.difference > 0 else WORSE

    @property
    def shown(self) -> str:
        """The verdict in the words of this contrast."""
        verdict = self.verdict
        if verdict not in (BETTER, WORSE):
            return verdict
        return self.words[0] if verdict == BETTER else self.words[1]

    @property
    def is_complete(self) -> bool:
        return self.is_open or self.n >= self.planned

    @property
    def interval(self) -> str:
        """-2.07 ± 0.31, with a minus sign."""
        if self.difference is None:
            return "—"
        return signed(self.difference, self.half)

    @property
    def text(self) -> str:
        """-2.07 ± 0.31 points (6 seeds, p = 0.031)."""
        if self.difference is None:
            return NO_RIVAL if self.is_open else NOT_RUN
        known = "1 seed" if self.n == 1 else f"{self.n} seeds"
        if self.draws:
            known = f"{self.draws} draws"
        if self.p is not None:
            known += f", p = {self.p:.3f}"
        return f"{self.interval} {self.unit} ({known})"


def signed(value: float, half: float | None) -> str:
    """-2.07 ± 0.31, with a minus sign."""
    text = f"{value:+.2f}"
    if half is not None:
        text += f" ± {half:.2f}"
    return text.replace("-", "\u2212")


def paired(
    label: str, series: str, own: Group | None, rival: Group | None, **known: object
) -> Contrast:
    """The contrast of two groups; NOT_RUN where one is missing or they share no seed.

    known: further fields of the contrast.
    """
    names = {
        "first": own.label if own else "",
        "second": rival.label if rival else "",
    }
    fields = names | known
    if own is None or rival is None:
        return Contrast(label, series, **fields)  # type: ignore[arg-type]
    sign = SCORES[own.score].signed(SCORES[own.score].factor)
    values = sign * paired_differences(own.by_seed, rival.by_seed)
    return of_values(label, series, values, [own, rival], **fields)


def of_values(
    label: str,
    series: str,
    values: Sequence[float] | np.ndarray,
    groups: Iterable[Group],
    **known: object,
) -> Contrast:
    """The contrast of differences that have one value per seed. values: (n,)."""
    used = list(groups)
    fields: dict[str, object] = {
        "groups": tuple(f"{g.sweep}/{g.group_id}" for g in used),
        "run_ids": tuple(run_id for g in used for run_id in g.run_ids),
    }
    n = len(values)
    if n:
        interval = paired_interval(values)
        fields["difference"] = float(np.mean(values))
        fields["half"] = interval.half if interval else None
        fields["n"] = n
        fields["p"] = sign_flip_p(values) if n >= TESTED else None
    return Contrast(label, series, **(fields | known))  # type: ignore[arg-type]


def changes(late: Mapping[int, float], early: Mapping[int, float]) -> np.ndarray:
    """late minus early by seed, over the seeds that both have: (n,)."""
    return paired_differences(late, early)


def counted(
    contrasts: Sequence[Contrast], subject: str, verbs: tuple[str, str] = ("is better", "worse")
) -> str:
    """SUBJECT is better in 1 and worse in 5 of 9 comparisons; 2 show no difference.

    "None of 9 comparisons decides" where both counts are 0.
    """
    kinds = Counter(contrast.verdict for contrast in contrasts)
    rest = []
    for kind, words in _REST.items():
        count = kinds[kind]
        if count:
            rest.append(f"{count} {words[0] if count == 1 else words[1]}")
        if count and kind == FEW:
            rest[-1] += f" ({_above(contrasts)} with a mean above 0)"
    text = (
        f"{subject} {verbs[0]} in {kinds[BETTER]} and {verbs[1]} in {kinds[WORSE]} "
        f"of {len(contrasts)} comparisons"
    )
    if not kinds[BETTER] and not kinds[WORSE]:
        text = f"none of {len(contrasts)} comparisons decides"
    return f"{text}; {', '.join(rest)}" if rest else text


def _above(contrasts: Sequence[Contrast]) -> int:
    """Of those with too few seeds, the number whose mean is above 0."""
    few = [contrast for contrast in contrasts if contrast.verdict == FEW]
    return sum((contrast.difference or 0) > 0 for contrast in few)


def answer(contrasts: Sequence[Contrast]) -> str:
    """Yes, no, in part or not shown; "so far" where seeds are missing."""
    kinds = Counter(contrast.verdict for contrast in contrasts)
    if kinds[NOT_RUN] == len(contrasts):
        return "Not run"
    if kinds[BETTER] and kinds[WORSE]:
        word = "In part"
    elif kinds[BETTER]:
        word = "Yes"
    elif kinds[WORSE]:
        word = "No"
    else:
        word = "Not shown"
    is_complete = all(contrast.is_complete for contrast in contrasts)
    return word if is_complete else f"{word}, so far"
