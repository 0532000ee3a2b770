"""Does the gap to a binary network close with width, and with epochs? (cifar10_small)"""

from collections.abc import Callable

from tbn_bench.reporting import names
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.questions import arena
from tbn_bench.reporting.questions.contrast import (
    NOT_RUN,
    Contrast,
    answer,
    changes,
    counted,
    of_values,
    paired,
)
from tbn_bench.reporting.questions.question import NOTHING, Mark, Question, commands_of
from tbn_bench.reporting.stats import paired_differences

SEEDS = 3
TILES = (2, 4, 8)
_AXIS = "points, TBN minus BWN"
_WORDS = ("the gap closes", "the gap widens")
Small = dict[tuple[str, int, str], Group]
Place = tuple[str, int]  # model, epochs


def width(records: Records) -> Question:
    """TBN minus BWN on networks of growing width, all trained for the most epochs."""
    found = arena.small(records)
    models = arena.models_by_width(records)
    epochs = max((epochs for _, epochs, _ in found), default=18)
    places = [(model, epochs) for model in models]
    kilo = {}
    for (model, _, _), g in found.items():
        kilo[model] = (g.first["weights"] or 0) / 1000
    return _question(
        found,
        places,
        [kilo[model] for model in models],
        key="width",
        title="Does the gap to a binary network close with width?",
        steps=[names.network(model) for model in models],
        axis=f"thousand weights of the network ({epochs} epochs)",
    )


def epochs(records: Records) -> Question:
    """TBN minus BWN after few and after many epochs, on the widest network."""
    found = arena.small(records)
    models = arena.models_by_width(records)
    model = models[-1] if models else ""
    counts = sorted({epochs for own, epochs, _ in found if own == model})
    network = names.network(model) if model else "the widest network"
    return _question(
        found,
        [(model, count) for count in counts],
        [float(count) for count in counts],
        key="epochs",
        title="Does the gap to a binary network close with epochs?",
        steps=[f"{count} epochs" for count in counts],
        axis=f"epochs ({network})",
    )


def _question(
    found: Small,
    places: list[Place],
    xs: list[float],
    key: str,
    title: str,
    steps: list[str],
    axis: str,
) -> Question:
    """places: from the first to the last step, xs: where each is on the figure's axis."""
    contrasts = []
    marks: list[Mark] = []
    for layout in arena.LAYOUTS:
        for p in TILES:
            name = arena.tbn(p, layout)
            spec = arena.spec_of(p, layout)
            contrasts.append(_change(found, places, name, spec, steps))
            marks += _line(found, places, xs, name, spec, axis)
    ends = f"from {steps[0]} to {steps[-1]}" if len(steps) > 1 else ""
    return Question(
        key,
        title,
        _answer(contrasts),
        _said(contrasts, ends),
        tuple(contrasts),
        tuple(marks),
        commands_of(contrasts, (arena.RUN_SMALL,)),
        (f"results/runs/{arena.SMALL}",),
    )


def _answer(contrasts: list[Contrast]) -> str:
    if all(contrast.verdict == NOT_RUN for contrast in contrasts):
        return NOTHING
    return f"{answer(contrasts)}: {counted(contrasts, 'the gap', ('closes', 'widens'))}."


def _said(contrasts: list[Contrast], ends: str) -> str:
    known = [c for c in contrasts if c.verdict != NOT_RUN and c.first == arena.tbn(4)]
    if not known:
        return ""
    return f"{known[0].first}'s gap changes by {known[0].text} {ends}."


def _change(found: Small, places: list[Place], name: str, spec: str, steps: list[str]) -> Contrast:
    """The gap at the last step minus that at the first, by seed."""
    label = f"{name}, {steps[-1]} against {steps[0]}" if len(steps) > 1 else name
    ends = []
    used = []
    if len(places) > 1:
        for place in (places[0], places[-1]):
            tiled = found.get((*place, name))
            binary = found.get((*place, "BWN"))
            if tiled is not None and binary is not None:
                ends.append(_gap(tiled, binary))
                used += [tiled, binary]
    values = changes(ends[1], ends[0]) if len(ends) == 2 else []
    return of_values(
        label,
        spec,
        values,
        used,
        first=name,
        second="BWN",
        planned=SEEDS,
        words=_WORDS,
    )


def _gap(tiled: Group, binary: Group) -> dict[int, float]:
    """TBN minus BWN in points, by seed."""
    seeds = sorted(tiled.by_seed.keys() & binary.by_seed.keys())
    differences = 100 * paired_differences(tiled.by_seed, binary.by_seed)
    return dict(zip(seeds, differences.tolist(), strict=True))


def _line(
    found: Small, places: list[Place], xs: list[float], name: str, spec: str, axis: str
) -> list[Mark]:
    marks = []
    for place, x in zip(places, xs, strict=True):
        contrast = paired(name, spec, found.get((*place, name)), found.get((*place, "BWN")))
        if contrast.difference is None:
            continue
        half = contrast.half or 0.0
        mark = {
            "kind": "xy",
            "axis_x": axis,
            "axis": _AXIS,
            "log": 2,
            "joined": True,
            "label": name,
            "binarizer": spec,
            "x": x,
            "y": contrast.difference,
            "low": contrast.difference - half,
            "high": contrast.difference + half,
            "seeds": contrast.n,
        }
        marks.append(mark)
    return marks


ALL: tuple[Callable[[Records], Question], ...] = (width, epochs)
