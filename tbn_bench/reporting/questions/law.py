"""By what law does accuracy fall with stored bits? (cifar10_small)

Accuracy = a + b log2(bits), a line on either side of BWN, which belongs to both. b is fitted by
least squares for each seed by itself; its interval is Student's over the seeds. Bits are removed in
two ways: by methods on one network, and by fewer filters of a binary network.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tbn_bench import catalog
from tbn_bench.reporting import names
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.questions import arena
from tbn_bench.reporting.questions.contrast import NOT_RUN, Contrast, of_values
from tbn_bench.reporting.questions.growth import SEEDS
from tbn_bench.reporting.questions.question import NOTHING, Mark, Question, commands_of

BINARY = "BWN"
_ABOVE = "above one bit"
_NARROW = "BWN, fewer filters"
_WORDS = ("more bits are better", "more bits are worse")
_BITS = "bits per weight"
_KILOBITS = "kilobits of the weights"


@dataclass(frozen=True)
class Line:
    """One fitted line. family: what removes the bits. sizes: the groups, by growing bits."""

    family: str
    network: str
    epochs: int
    sizes: list[Group]

    @property
    def is_by_width(self) -> bool:
        return self.family == _NARROW

    def bits(self, g: Group) -> float:
        """Per weight, or in thousands where the width removes them."""
        if self.is_by_width:
            return float(g.first["stored_bits_weights"]) / 1000
        return float(g.first["bits_per_weight"])

    @property
    def seeds(self) -> list[int]:
        """That every size has."""
        common = set(self.sizes[0].by_seed)
        for g in self.sizes[1:]:
            common &= set(g.by_seed)
        return sorted(common)

    def fitted(self) -> list[tuple[float, float]]:
        """(slope in points per doubling, intercept in points at log2(bits) = 0) of each seed."""
        x = [math.log2(self.bits(g)) for g in self.sizes]
        found = []
        for seed in self.seeds:
            y = [100 * g.by_seed[seed] for g in self.sizes]
            slope, start = np.polyfit(x, y, 1)
            found.append((float(slope), float(start)))
        return found

    def residual(self) -> float:
        """Root mean square of the mean scores around the mean line, in points."""
        slope, start = np.mean(self.fitted(), axis=0)
        off = []
        for g in self.sizes:
            mean = np.mean([100 * g.by_seed[seed] for seed in self.seeds])
            off.append(mean - start - slope * math.log2(self.bits(g)))
        return float(np.sqrt(np.mean(np.square(off))))


def lines(records: Records) -> list[Line]:
    """Every line of at least two sizes: below one bit, above it, and by width."""
    found = arena.small(records)
    models = arena.models_by_width(records)
    counts = sorted({epochs for _, epochs, _ in found}, reverse=True)
    out = []
    for epochs in counts:
        for model in reversed(models):
            own = [g for (m, e, _), g in found.items() if (m, e) == (model, epochs)]
            out += _of_network(names.network(model), epochs, own)
        binary = [found[m, epochs, BINARY] for m in models if (m, epochs, BINARY) in found]
        if len(binary) > 1:
            in_order = sorted(binary, key=lambda g: g.first["stored_bits_weights"])
            out.append(Line(_NARROW, "all widths", epochs, in_order))
    return [line for line in out if line.seeds]


def _of_network(network: str, epochs: int, own: list[Group]) -> list[Line]:
    binary = [g for g in own if names.method(g.binarizer) == BINARY]
    if not binary:
        return []
    one = binary[0].first["bits_per_weight"]
    families: dict[str, list[Group]] = {}
    for g in own:
        if g.first["bits_per_weight"] > one:
            families.setdefault(_ABOVE, []).append(g)
        elif g is not binary[0]:
            families.setdefault(_family(g), []).append(g)
    out = []
    for family, members in families.items():
        in_order = sorted([*members, binary[0]], key=lambda g: g.first["bits_per_weight"])
        out.append(Line(family, network, epochs, in_order))
    return out


def _family(g: Group) -> str:
    """TBN, TBN hadamard, Low rank: the display name without p or bits."""
    name, options = catalog.parse(g.binarizer)
    layout = options.get("copies", arena.LAYOUTS[0])
    base = names.method(name)
    return base if layout == arena.LAYOUTS[0] else f"{base} {layout}"


def law(records: Records) -> Question:
    found = lines(records)
    contrasts = [_contrast(line) for line in found]
    if not contrasts:
        contrasts = [Contrast("TBN, below one bit", arena.spec_of(4), "TBN", "", planned=SEEDS)]
    return Question(
        "law",
        "By what law does accuracy fall with bits?",
        _below(found, contrasts),
        _others(found, contrasts),
        tuple(contrasts),
        _marks(found),
        commands_of(contrasts, (arena.RUN_SMALL,)),
        (f"results/runs/{arena.SMALL}",),
        "A line top-1 = a + b log2(bits) for each seed; b is in points per halving. Lines above "
        "one bit join BWN and methods of more bits; two sizes are always on a line.",
    )


def _contrast(line: Line) -> Contrast:
    sizes = len(line.sizes)
    detail = f"{sizes} sizes"
    if sizes > 2:
        detail += f", {line.residual():.2f} points off the line (root mean square)"
    return of_values(
        f"{line.family}, {line.network}, {line.epochs} epochs",
        line.sizes[0].binarizer,
        [slope for slope, _ in line.fitted()],
        line.sizes,
        first=line.family,
        second=f"{line.network}, {line.epochs} epochs",
        planned=SEEDS,
        detail=detail,
        unit="points per halving",
        words=_WORDS,
    )


def _below(found: list[Line], contrasts: Sequence[Contrast]) -> str:
    """The first sentence: what a halving costs below one bit, network by network."""
    if not found:
        return NOTHING
    most = max(line.epochs for line in found)
    said = []
    for line, contrast in zip(found, contrasts, strict=True):
        if line.family == "TBN" and line.epochs == most:
            said.append(f"{contrast.text} on {line.network}")
    if not said:
        return "Below one bit: not run."
    return (
        f"Each halving of the bits by the paper's tiles costs ({most} epochs): {'; '.join(said)}."
    )


def _others(found: list[Line], contrasts: Sequence[Contrast]) -> str:
    """The second: what it costs by fewer filters, and above one bit on the widest network."""
    if not found:
        return ""
    most = max(line.epochs for line in found)
    narrow = above = NOT_RUN
    for line, contrast in zip(reversed(found), reversed(contrasts), strict=True):
        if line.epochs != most:
            continue
        if line.is_by_width:
            narrow = contrast.text
        elif line.family == _ABOVE:
            above = f"{contrast.text} on {line.network}"
    return f"By fewer filters of a binary network: {narrow}; above one bit: {above}."


def _marks(found: list[Line]) -> tuple[Mark, ...]:
    """Left, methods on each network; right, the same scores and BWN by width over all bits."""
    if not found:
        return ()
    most = max(line.epochs for line in found)
    marks: list[Mark] = []
    seen = set()
    for line in found:
        if line.epochs != most:
            continue
        fit = np.mean(line.fitted(), axis=0)
        if not line.is_by_width:
            marks += _fitted(line, fit, _BITS, [line.bits(g) for g in line.sizes])
        marks += _over_kilobits(line, fit)
        for g in line.sizes:
            if g.group_id not in seen:
                seen.add(g.group_id)
                marks += _points(g)
    return tuple(marks)


def _over_kilobits(line: Line, fit: np.ndarray) -> list[Mark]:
    """The line over all bits of the weights: that of bits per weight, moved by the weights."""
    if line.family == _ABOVE:
        return []
    kilo = [g.first["stored_bits_weights"] / 1000 for g in line.sizes]
    if line.is_by_width:
        return _fitted(line, fit, _KILOBITS, kilo)
    shift = math.log2(kilo[0] / line.bits(line.sizes[0]))
    slope, start = fit
    return _fitted(line, np.array([slope, start - slope * shift]), _KILOBITS, kilo)


def _fitted(line: Line, fit: np.ndarray, axis: str, xs: list[float]) -> list[Mark]:
    slope, start = fit
    is_binary = line.is_by_width or line.family == _ABOVE
    drawn = {
        "joined": True,
        "bare": True,
        "line": f"{line.family}, {line.network}",
        "said": line.network if line.family == "TBN" and axis == _BITS else "",
    }
    marks = []
    for x in (min(xs), max(xs)):
        y = start + slope * math.log2(x)
        spec = "bwn" if is_binary else line.sizes[0].binarizer
        marks.append(_mark(axis, spec, x, y) | drawn)
    return marks


def _points(g: Group) -> list[Mark]:
    assert g.result is not None
    mean = 100 * g.result.mean
    half = 100 * (g.result.half or 0.0)
    known = {"low": mean - half, "high": mean + half, "seeds": g.result.n}
    label = names.method(g.binarizer)
    marks = [_mark(_BITS, g.binarizer, g.first["bits_per_weight"], mean, label) | known]
    if label != "FP32":
        kilo = g.first["stored_bits_weights"] / 1000
        marks.append(_mark(_KILOBITS, g.binarizer, kilo, mean, label) | known)
    return marks


def _mark(axis: str, spec: str, x: float, y: float, label: str = "") -> Mark:
    return {
        "kind": "xy",
        "axis_x": axis,
        "axis": "top-1 %",
        "log": 2,
        "joined": False,
        "label": label,
        "binarizer": spec,
        "x": x,
        "y": y,
        "low": y,
        "high": y,
    }


ALL: tuple[Callable[[Records], Question], ...] = (law,)
