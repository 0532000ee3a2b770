"""Whether the paper's layout pays: per data set, the best TBN against binary weights (BWN)."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from tbn_bench import catalog
from tbn_bench.reporting import findings
from tbn_bench.reporting.findings import Compared, Finding
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.stats import LEAST, separated
from tbn_bench.reporting.style import DASH
from tbn_bench.reporting.table import Table, text_column
from tbn_bench.scores import SCORES

YES = "yes"
KEEPS_UP = "keeps up with BWN"
NOT_BETTER = "not shown to beat narrower BWN"
NARROWER = "narrower BWN is better"
NO = "no"
NOT_SHOWN = "not shown"
FEW = "too few seeds"

_SAME_BYTES = 1.01  # a file this much larger counts as one of equal size
_SENTENCES = {
    YES: "Yes on {}.",
    NO: "No on {}.",
    NARROWER: "A narrower BWN is better on {}.",
    NOT_BETTER: "Not shown to beat a narrower BWN on {}.",
    KEEPS_UP: "Keeps up with BWN on {}, where no narrower BWN was run.",
    NOT_SHOWN: "Not shown on {}.",
}


@dataclass(frozen=True)
class Answer:
    """The answer for one data set.

    answer: YES, KEEPS_UP, NOT_BETTER, NARROWER, NO, NOT_SHOWN or FEW. finding: the TBN behind it,
    compared with the BWN of `panel`. narrower: the best BWN with fewer weights and no more bytes;
    None without one.
    """

    data: str
    answer: str
    panel: Compared
    finding: Finding
    narrower: Finding | None


def answers(records: Records) -> list[Answer]:
    """One per data set with a TBN of aligned copies that has fewer bytes than BWN.

    The first four answers are about a TBN within the margin of BWN, by how it compares with the
    best narrower BWN. No: the nearest TBN is outside the margin. Data sets with fewer than three
    common seeds come last.
    """
    found = []
    for data, panels in findings.by_data(findings.compared(records, "bwn")).items():
        tiled = [_only_aligned(panel) for panel in panels if not panel.short]
        tiled = [panel for panel in tiled if findings.nearest([panel]) is not None]
        if tiled:
            found.append(answer(data, tiled))
    return sorted(found, key=lambda one: one.answer == FEW)


def headline(found: Sequence[Answer]) -> str:
    """One short sentence per kind of answer; empty without answers."""
    by_answer: dict[str, list[str]] = {}
    for answer in found:
        by_answer.setdefault(answer.answer, []).append(answer.data)
    sentences = []
    for kind, sentence in _SENTENCES.items():
        if kind in by_answer:
            sentences.append(sentence.format(listed(by_answer[kind])))
    few = len(by_answer.get(FEW, ()))
    if few:
        sentences.append(f"Too few seeds on {few} more.")
    return " ".join(sentences)


def listed(words: Sequence[str]) -> str:
    """A, B and C."""
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} and {words[-1]}"


def rule() -> str:
    """What the answers mean."""
    points = f"{100 * findings.POINTS:.0f}"
    share = f"{100 * findings.SHARE:.0f}"
    return (
        f"Yes: a tiled network (TBN) of the paper's layout has fewer bytes than binary weights "
        f"(BWN), loses at most {points} points to it (an error grows by at most {share} %), and "
        f"beats the best BWN with fewer filters and no more bytes. The whole 95 % interval "
        f"decides, of {LEAST} seeds or more."
    )


def table(found: Sequence[Answer]) -> Table:
    """A row per data set: the answer, the TBN, its bytes and its difference from BWN."""
    rows = []
    for answer in found:
        finding = answer.finding
        row = {
            "data": answer.data,
            "answer": answer.answer,
            "method": finding.group.label,
            "size": share(finding),
            "difference": difference(answer, finding),
            "n": str(finding.n),
            "narrower": narrower_text(answer),
        }
        rows.append(row)
    columns = [
        text_column("data", "data"),
        text_column("answer", "does tiling pay?"),
        text_column("method", "best TBN"),
        text_column("size", "of BWN's bytes"),
        text_column("difference", "TBN minus BWN"),
        text_column("n", "seeds"),
        text_column("narrower", "TBN minus narrower BWN, no more bytes"),
    ]
    return Table("Does tiling pay?", columns, rows, rule())


def difference(answer: Answer, finding: Finding) -> str:
    """With its interval and unit; of an error, whether it is better or worse."""
    text = f"{finding.text} {answer.panel.unit}"
    if SCORES[finding.group.score].goal == "max":
        return text
    return f"{text} ({'better' if finding.difference > 0 else 'worse'})"


def share(finding: Finding) -> str:
    """Its bytes as a percentage of BWN's."""
    return f"{100 * finding.bytes_share:.0f} %"


def narrower_text(answer: Answer) -> str:
    """TBN minus its narrower BWN, paired by seed, and the seeds; a dash if none was run."""
    other = answer.narrower
    if other is None:
        return DASH
    found = findings.between(answer.finding.group, other.group, answer.panel.margin)
    if not found.n:
        return DASH

    seeds = "1 seed" if found.n < 2 else f"{found.n} seeds"
    return f"{found.text}, {seeds}"


def answer(data: str, tiled: list[Compared]) -> Answer:
    """Of the panels of one data set, which have TBNs alone.

    The smallest TBN within the margin answers; without one, the nearest of those with several
    seeds.
    """
    winner = findings.smallest_within(tiled)
    if winner is not None:
        panel, finding = winner
        other = _narrower(panel, finding)
        return Answer(data, _against(finding, other), panel, finding, other)

    several = [panel for panel in tiled if findings.pairs(panel) >= LEAST]
    close = findings.nearest(several or tiled)
    assert close is not None
    panel, finding = close
    kind = NO if finding.tag == findings.OUTSIDE else NOT_SHOWN
    if finding.n < LEAST:
        kind = FEW
    return Answer(data, kind, panel, finding, _narrower(panel, finding))


def _against(finding: Finding, other: Finding | None) -> str:
    """How a TBN within the margin compares with a narrower BWN, paired by seed."""
    if other is None:
        return KEEPS_UP
    score = SCORES[finding.group.score]
    tiled = {seed: score.signed(value) for seed, value in finding.group.by_seed.items()}
    small = {seed: score.signed(value) for seed, value in other.group.by_seed.items()}
    if separated(tiled, small):
        return YES
    return NARROWER if separated(small, tiled) else NOT_BETTER


def _narrower(panel: Compared, finding: Finding) -> Finding | None:
    """The best BWN with fewer weights and no more bytes than a tiled network."""
    most = _SAME_BYTES * finding.bytes_share
    small = [other for other in panel.narrower if other.bytes_share <= most]
    return max(small, key=lambda other: other.difference, default=None)


def _only_aligned(panel: Compared) -> Compared:
    """The panel with TBNs of the paper's layout alone."""
    aligned = []
    for finding in panel.findings:
        name, options = catalog.parse(finding.group.binarizer)
        if name == "tbn" and options.get("copies", "aligned") == "aligned":
            aligned.append(finding)
    return dataclasses.replace(panel, findings=aligned)
