"""What TBN-4 costs and buys on the arena, in sentences whose numbers are those of the records."""

from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.questions import arena, rivals, worth
from tbn_bench.reporting.questions.contrast import BETTER, WORSE, Contrast, paired, signed

_METHOD = arena.tbn(4)


def costs(records: Records) -> list[str]:
    """A line each on accuracy, bytes and training; empty where TBN-4 or BWN has no run."""
    whole = arena.whole(records)
    tiled, binary, full = (whole.get(name) for name in (_METHOD, "BWN", "FP32"))
    if tiled is None or binary is None or full is None:
        return []
    narrow = rivals.of_bytes(records)
    return [
        f"**Accuracy.** {_accuracy(tiled, binary, full)}{_narrow(narrow)}.",
        f"**Bytes.** {_kilobytes(tiled)}; BWN takes {_kilobytes(binary)}, full precision "
        f"{_kilobytes(full)}.",
        f"**Training.** {_hours(records, tiled)} CPU hours a run; BWN takes "
        f"{_hours(records, binary)}{_narrow_hours(records, narrow)}.",
    ]


def _accuracy(tiled: Group, binary: Group, full: Group) -> str:
    spec = arena.spec_of(4)
    to_full = _lost(paired("", spec, tiled, full), "full precision")
    to_binary = _lost(paired("", spec, tiled, binary), "BWN, which has one bit per weight")
    return f"{_METHOD} {to_full}, and {to_binary}"


def _narrow(found: tuple[Contrast, Group] | None) -> str:
    if found is None:
        return ""
    contrast, _ = found
    rival = "a BWN of fewer filters and equal bytes"
    if contrast.verdict in (BETTER, WORSE) or contrast.difference is None:
        return f"; it {_lost(contrast, rival)}"
    seeds = "1 seed" if contrast.n == 1 else f"{contrast.n} seeds"
    size = signed(contrast.difference, contrast.half)
    return f"; against {rival}, the difference is {size} points ({seeds}): not decided"


def _lost(contrast: Contrast, rival: str) -> str:
    """loses 5.66 ± 0.87 points to RIVAL (3 seeds); gains ... over it."""
    if contrast.difference is None:
        return f"has no seed in common with {rival}"
    verb, word = ("loses", "to") if contrast.difference < 0 else ("gains", "over")
    size = signed(abs(contrast.difference), contrast.half).removeprefix("+")
    seeds = "1 seed" if contrast.n == 1 else f"{contrast.n} seeds"
    return f"{verb} {size} points {word} {rival} ({seeds})"


def _narrow_hours(records: Records, found: tuple[Contrast, Group] | None) -> str:
    if found is None:
        return ""
    _, rival = found
    return f", a BWN of equal bytes {_hours(records, rival)}"


def _kilobytes(g: Group) -> str:
    return f"{g.first['stored_bytes'] / 1000:,.0f} kB"


def _hours(records: Records, g: Group) -> str:
    hours = worth.hours(records, g)
    return "an unknown number of" if hours is None else f"{hours:.2f}"
