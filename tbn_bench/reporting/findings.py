"""What the runs show: each method's difference from a reference of its panel, paired by seed.

A method is within the margin only if the whole 95 % interval of its differences is. Fewer than
three seeds show nothing.
"""

from dataclasses import dataclass
from typing import Any

from tbn_bench.reporting import names, narrower, published
from tbn_bench.reporting.groups import Group, Panel, groups, panel_titles
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.stats import LEAST, is_spread, paired_differences, paired_interval
from tbn_bench.scores import SCORES

POINTS = 0.02  # margin of a score that is a share, absolutely
SHARE = 0.1  # margin of an error, relative to the reference's
REFERENCES = {"full_precision": "full precision", "bwn": "BWN"}

WITHIN = "within the margin"
OUTSIDE = "outside the margin"
NOT_SHOWN = "not shown"
ONE_SEED = "one seed"
TWO_SEEDS = "two seeds"
NO_PAIR = "no common seed"


@dataclass(frozen=True)
class Finding:
    """A method and its difference from the reference.

    difference, half: in the unit that is shown (percentage points, or the error); more is better.
    half is None for fewer than two pairs. n: pairs. bytes_share: stored bytes over those of the
    reference. tag: WITHIN, OUTSIDE, NOT_SHOWN, ONE_SEED, TWO_SEEDS or NO_PAIR.
    """

    group: Group
    difference: float
    half: float | None
    n: int
    bytes_share: float
    tag: str

    @property
    def is_control(self) -> bool:
        return names.is_control(self.group.binarizer)

    @property
    def text(self) -> str:
        """-2.07 ± 0.31, with a minus sign; for an error, method minus reference."""
        score = SCORES[self.group.score]
        shown = f"{score.signed(self.difference):+.{score.digits}f}"
        if self.half is not None:
            shown += f" ± {self.half:.{score.digits}f}"
        return shown.replace("-", "\u2212")

    @property
    def size(self) -> str:
        """1/28, 74 % or 3 times: of the bytes."""
        share = self.bytes_share
        if share < 0.5:
            return f"1/{1 / share:.0f}"
        return f"{100 * share:.0f} %" if share < 2 else f"{share:.0f} times"


@dataclass(frozen=True)
class Compared:
    """A panel's methods against one reference.

    margin: in the unit that is shown. reached: the reference's own score as text. short: why the
    training of this panel is no test of the methods; empty if nothing is known against it.
    narrower: binary networks of fewer weights, against the same reference; they are controls.
    """

    panel: Panel
    title: str
    reference: Group
    margin: float
    findings: list[Finding]
    short: str
    narrower: list[Finding]

    @property
    def reached(self) -> str:
        score = SCORES[self.reference.score]
        assert self.reference.result is not None
        return f"{score.label.removesuffix(' %')} {score.text(self.reference.result.mean)}"

    @property
    def unit(self) -> str:
        score = SCORES[self.reference.score]
        return "points" if score.factor == 100 else score.label


def compared(records: Records, reference: str = "full_precision") -> list[Compared]:
    """Every panel in which one configuration of the reference has finished, and another method.

    A search has several configurations of one method and is left out: its tables have its winner.
    """
    panels: dict[Panel, list[Group]] = {}
    for g in groups(records):
        if g.result is not None:
            panels.setdefault(g.panel, []).append(g)
    titles = panel_titles(panels)
    out = []
    for panel, members in panels.items():
        specs = [g.binarizer for g in members]
        if len(set(specs)) < len(specs):
            continue
        base = _reference(members, reference)
        if base is None:
            continue
        margin = _margin(base)
        others = [g for g in members if g is not base and g.score == base.score]
        found = [between(g, base, margin) for g in others]
        if found:
            short = _short(records, members)
            small = [between(g, base, margin) for g in narrower.narrower(records, members)]
            out.append(Compared(panel, titles[panel], base, margin, found, short, small))
    return out


def _reference(members: list[Group], reference: str) -> Group | None:
    """The only group of a panel with the reference's display name."""
    wanted = names.method(reference)
    named = [g for g in members if names.method(g.binarizer) == wanted]
    return named[0] if len(named) == 1 else None


def _margin(base: Group) -> float:
    """In the unit that is shown."""
    score = SCORES[base.score]
    assert base.result is not None
    if score.goal == "max":
        return score.factor * POINTS

    return score.factor * SHARE * base.result.mean


def between(g: Group, base: Group, margin: float) -> Finding:
    """A group's difference from another one; margin: in the unit that is shown."""
    score = SCORES[g.score]
    sign = score.factor if score.goal == "max" else -score.factor
    paired = sign * paired_differences(g.by_seed, base.by_seed)
    interval = paired_interval(paired)
    share = g.first["stored_bytes"] / base.first["stored_bytes"]
    if interval is not None and interval.half is not None:
        tag = TWO_SEEDS
        if interval.n >= LEAST:
            tag = _tag(interval.mean, interval.half, margin)
        return Finding(g, interval.mean, interval.half, interval.n, share, tag)
    assert g.result is not None
    assert base.result is not None
    if not len(paired):
        return Finding(g, sign * (g.result.mean - base.result.mean), None, 0, share, NO_PAIR)
    return Finding(g, float(paired[0]), None, 1, share, ONE_SEED)


def _tag(mean: float, half: float, margin: float) -> str:
    if not is_spread(mean, half):
        return NOT_SHOWN
    if mean - half >= -margin:
        return WITHIN
    if mean + half < -margin:
        return OUTSIDE
    return NOT_SHOWN


def _short(records: Records, members: list[Group]) -> str:
    """Says so if full precision is far below its published score on the same data and network."""
    full = _reference(members, "full_precision")
    if full is None or full.result is None or full.score != "top1":
        return ""
    ledger = records.published.to_dict("records")
    best = max((line["value"] for line in ledger if _is_dense(line, full)), default=None)
    if best is None or full.result.mean >= best - 2 * POINTS:
        return ""
    reached = 100 * full.result.mean
    return (
        f"Undertrained: full precision reaches {reached:.1f} % in {full.first['epochs']} epochs; "
        f"{100 * best:.1f} % is published for this network."
    )


def _is_dense(line: dict[str, Any], full: Group) -> bool:
    if line["method"] != "full_precision" or line["metric"] != "top1":
        return False
    same_data = published.is_same(line["dataset"], full.data, False)
    return same_data and published.is_same(line["model"], full.model, True)


def smallest_within(found: list[Compared]) -> tuple[Compared, Finding] | None:
    """Of methods within the margin, the one with the fewest bytes; controls do not count."""
    best = None
    for panel in found:
        for finding in panel.findings:
            if finding.tag != WITHIN or finding.is_control or finding.bytes_share >= 1:
                continue
            if best is None or finding.bytes_share < best[1].bytes_share:
                best = (panel, finding)
    return best


def nearest(found: list[Compared]) -> tuple[Compared, Finding] | None:
    """The smaller network that is nearest to its reference; controls do not count."""
    best = None
    for panel in found:
        for finding in panel.findings:
            if finding.is_control or finding.bytes_share >= 1:
                continue
            lead = finding.difference / panel.margin
            if best is None or lead > best[0]:
                best = (lead, panel, finding)
    return None if best is None else (best[1], best[2])


def sentence(found: list[Compared], reference: str = "full_precision") -> str:
    """One sentence about the panels of one data set."""
    base = REFERENCES[reference]
    trained = [panel for panel in found if not panel.short]
    if not trained:
        return f"{found[0].short} No conclusion about smaller networks."
    limit = _said_margin(trained)
    winner = smallest_within(trained)
    if winner is not None:
        panel, finding = winner
        return (
            f"{_subject(panel, finding)} stays within {limit} of {base} with {finding.size} of its "
            f"bytes ({_difference(panel, finding)})."
        )
    text = f"No smaller network is shown to stay within {limit} of {base}."
    close = nearest(trained)
    if close is None:
        return text
    panel, finding = close
    return (
        f"{text} Nearest: {_subject(panel, finding)} with {finding.size} of the bytes "
        f"({_difference(panel, finding)})."
    )


def _subject(panel: Compared, finding: Finding) -> str:
    return f"{finding.group.label} on {names.network(panel.panel[2])}"


def _said_margin(found: list[Compared]) -> str:
    goals = {SCORES[panel.reference.score].goal for panel in found}
    parts = []
    if "max" in goals:
        parts.append(f"{100 * POINTS:.0f} points")
    if "min" in goals:
        parts.append(f"{100 * SHARE:.0f} % of the error")
    return " or ".join(parts)


def _difference(panel: Compared, finding: Finding) -> str:
    seeds = {1: "one seed", 2: "two seeds"}.get(finding.n, f"{finding.n} seeds")
    few = ", too few to decide" if finding.n < LEAST else ""
    return f"{finding.text} {panel.unit}, {seeds}{few}"


def by_data(found: list[Compared]) -> dict[str, list[Compared]]:
    """Data set, by its display name -> its panels: most pairs first, undertrained ones last."""
    out: dict[str, list[Compared]] = {}
    for panel in found:
        data = names.data_set(panel.panel[1]).partition(" (")[0]
        out.setdefault(data, []).append(panel)
    for panels in out.values():
        panels.sort(key=lambda panel: (bool(panel.short), -pairs(panel)))
    return dict(sorted(out.items(), key=lambda item: _weight(item[1]), reverse=True))


def first_title(records: Records) -> str:
    """Of the panel that answers first; empty without a comparison with full precision."""
    for panels in by_data(compared(records)).values():
        return panels[0].title

    return ""


def pairs(panel: Compared) -> int:
    """The most seeds that a method of the panel shares with the reference."""
    return max(finding.n for finding in panel.findings)


def _weight(panels: list[Compared]) -> float:
    """The largest test set first; errors, which have other units, after accuracies."""
    samples = [panel.reference.first["test_samples"] or 0 for panel in panels]
    is_share = SCORES[panels[0].reference.score].goal == "max"
    return max(samples) + 1e12 * is_share
