"""Whether a published value was reproduced."""

from dataclasses import dataclass

from tbn_bench.reporting.stats import Interval
from tbn_bench.scores import NAMED

REPRODUCED = "reproduced"
BETTER = "better"
DIFFERS = "differs"
ONE_SEED = "one seed"
NOT_RUN = "not run"
KINDS = {
    REPRODUCED: "the published value is within our 95 % interval",
    BETTER: "our whole 95 % interval is on the better side of the published value",
    DIFFERS: "our whole 95 % interval is on the worse side of the published value",
    ONE_SEED: "one run of ours, which has no interval and decides nothing",
    NOT_RUN: "no run of ours; the table below has the command",
}


@dataclass(frozen=True)
class Verdict:
    """kind: one of KINDS. text: the kind with numbers, for a cell."""

    kind: str
    text: str


def judged(score: str, value: float, result: Interval, epochs: int) -> Verdict:
    """The verdict on a published value and ours.

    Our interval is the tolerance, whatever its width. One seed has no interval.
    """
    trained = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    gap = _gap(score, result.mean - value)
    if result.half is None:
        return Verdict(ONE_SEED, f"one seed, differs by {gap}, {trained}")
    if abs(result.mean - value) <= result.half:
        half = NAMED[score].text(result.half, False)
        return Verdict(REPRODUCED, f"reproduced within ± {half}, {trained}")

    is_better = NAMED[score].signed(result.mean) > NAMED[score].signed(value)
    if is_better:
        return Verdict(BETTER, f"better by {gap}, {trained}")
    return Verdict(DIFFERS, f"differs by {gap}, {trained}")


def _gap(score: str, difference: float) -> str:
    """A difference in the unit of its score, with its sign."""
    s = NAMED[score]
    text = f"{s.factor * difference:+.{s.digits}f}"
    return f"{text} points" if s.factor == 100 else text
