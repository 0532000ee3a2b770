"""Tiling against a narrower binary network, copied filters and low rank; its layouts."""

from collections.abc import Callable, Sequence

from tbn_bench.reporting import narrower, style
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.questions import arena
from tbn_bench.reporting.questions.contrast import NOT_RUN, Contrast, answer, counted, paired
from tbn_bench.reporting.questions.question import NOTHING, Question, commands_of, forest

_EQUAL = 0.02  # relative difference of costs that count as equal
_PAST = "points; right of 0, tiling is better"
# cost -> the column of the records that has it
_COSTS = {
    "binary bits": "tile_bits",
    "file bytes": "stored_bytes",
    "multiply-adds": "distinct_macs",
}


def narrow(records: Records) -> Question:
    """TBN-p of two layouts against BWN on a narrower network of equal cost."""
    full = arena.whole(records)
    slim = arena.slim(records)
    contrasts = []
    for p in arena.TILES:
        for cost, column in _COSTS.items():
            for layout in ("aligned", "hadamard"):
                tiled = full.get(arena.tbn(p, layout))
                rival = _equal(slim, full.get(arena.tbn(p)), column)
                contrast = paired(
                    f"p = {p}, equal {cost}",
                    arena.spec_of(p, layout),
                    tiled,
                    rival,
                    first=arena.tbn(p, layout),
                    second=narrower.label(rival) if rival else f"BWN of equal {cost}",
                )
                contrasts.append(contrast)
    paper = [c for c in contrasts if c.first == arena.tbn(4)]
    said = []
    for contrast in paper:
        cost = contrast.label.partition(", ")[2]
        said.append(f"{cost} {contrast.text}")
    return _question(
        "narrower",
        "Does tiling beat a narrower binary network of equal cost?",
        contrasts,
        f"{arena.tbn(4)} minus the narrower network: {'; '.join(said)}.",
        (arena.RUN_ARENA, arena.RUN_NARROW),
    )


def of_bytes(records: Records) -> tuple[Contrast, Group] | None:
    """TBN-4 against BWN of as many bytes, and that BWN; None where one of them was not run."""
    tiled = arena.whole(records).get(arena.tbn(4))
    rival = _equal(arena.slim(records), tiled, _COSTS["file bytes"])
    if tiled is None or rival is None:
        return None
    return paired("", arena.spec_of(4), tiled, rival), rival


def _equal(slim: Sequence[Group], whole: Group | None, column: str) -> Group | None:
    """The narrower network whose cost is nearest to that of the whole one, within _EQUAL."""
    if whole is None:
        return None
    wanted = whole.first[column]
    known = [g for g in slim if g.first[column]]
    if not known or not wanted:
        return None
    nearest = min(known, key=lambda g: abs(g.first[column] - wanted))
    is_equal = abs(nearest.first[column] - wanted) <= _EQUAL * wanted
    return nearest if is_equal else None


def repeated(records: Records) -> Question:
    """TBN-8 of each layout against copies of filters, and TBN-8 against a tile as it was drawn."""
    full = arena.whole(records)

    def against(rival: str, layout: str) -> Contrast:
        name = arena.tbn(8, layout)
        return paired(
            f"against {rival}",
            arena.spec_of(8, layout),
            full.get(name),
            full.get(rival),
            first=name,
            second=rival,
        )

    copied = [against("Repeated filters-8", layout) for layout in arena.LAYOUTS]
    frozen = against("Frozen tile-8", arena.LAYOUTS[0])
    return _question(
        "repeated-filters",
        "Does tiling beat repeated filters?",
        [*copied, frozen],
        f"{copied[0].first} minus repeated filters: {copied[0].text}; minus a tile that stays as "
        f"it was drawn: {frozen.text}.",
        (arena.RUN_ARENA,),
        judged=copied,
    )


def low_rank(records: Records) -> Question:
    """TBN-p against binary factors of rank for 1/p bit per weight."""
    full = arena.whole(records)
    contrasts = []
    for p in arena.TILES:
        rival = f"Low rank 1/{p}"
        for layout in ("aligned", "hadamard"):
            name = arena.tbn(p, layout)
            contrast = paired(
                f"1/{p} bit per weight",
                arena.spec_of(p, layout),
                full.get(name),
                full.get(rival),
                first=name,
                second=rival,
            )
            contrasts.append(contrast)
    said = [f"{c.first} {c.text}" for c in contrasts if c.first in map(arena.tbn, arena.TILES)]
    return _question(
        "low-rank",
        "Does tiling beat low-rank binary factors of equal bits?",
        contrasts,
        f"TBN minus low rank: {'; '.join(said)}.",
        (arena.RUN_ARENA,),
    )


def layouts(records: Records) -> Question:
    """The layouts of copies against the paper's, with their multiply-adds."""
    full = arena.whole(records)
    contrasts = []
    for p in arena.TILES:
        paper = full.get(arena.tbn(p))
        for layout in arena.LAYOUTS[1:]:
            name = arena.tbn(p, layout)
            contrast = paired(
                f"p = {p}, {layout}",
                arena.spec_of(p, layout),
                full.get(name),
                paper,
                first=name,
                second=arena.tbn(p),
                detail=_arithmetic(full.get(name), paper),
            )
            contrasts.append(contrast)
    said = []
    for p in arena.TILES:
        best = _best([full.get(arena.tbn(p, layout)) for layout in arena.LAYOUTS])
        if best is not None and best.result is not None:
            macs = _macs(best)
            said.append(f"{best.label} {100 * best.result.mean:.2f} %, {macs}")
    best_of = f" Highest mean at each p: {'; '.join(said)}." if said else ""
    question = _question(
        "layouts",
        "Which layout of the copies is best, and at what arithmetic?",
        contrasts,
        best_of.strip(),
        (arena.RUN_ARENA,),
        subject="a layout other than the paper's",
        axis="points; right of 0, better than the paper's layout",
    )
    return question


def _best(found: Sequence[Group | None]) -> Group | None:
    known = [g for g in found if g is not None and g.result is not None]
    return max(known, key=_mean) if len(known) > 1 else None


def _mean(g: Group) -> float:
    assert g.result is not None
    return g.result.mean


def _macs(g: Group) -> str:
    """45.9 M multiply-adds and 3.1 M additions."""
    macs = g.first["distinct_macs"]
    added = g.first["additions"]
    if style.missing(macs):
        return "arithmetic not recorded"
    text = f"{macs / 1e6:.1f} M multiply-adds"
    if not style.missing(added) and added:
        text += f" and {added / 1e6:.1f} M additions"
    return text


def _arithmetic(first: Group | None, second: Group | None) -> str:
    said = [_macs(g) for g in (first, second) if g is not None]
    return "; against ".join(said) if len(said) == 2 else ""


def _question(
    key: str,
    title: str,
    contrasts: Sequence[Contrast],
    detail: str,
    commands: tuple[str, ...],
    subject: str = "tiling",
    axis: str = _PAST,
    judged: Sequence[Contrast] | None = None,
) -> Question:
    """judged: the contrasts that the answer is about, all by default."""
    own = contrasts if judged is None else judged
    is_run = any(contrast.verdict != NOT_RUN for contrast in contrasts)
    return Question(
        key,
        title,
        f"{answer(own)}: {counted(own, subject)}." if is_run else NOTHING,
        detail if is_run else "",
        tuple(contrasts),
        forest(contrasts, axis),
        commands_of(contrasts, commands),
        (f"results/runs/{arena.SWEEP}",),
    )


ALL: tuple[Callable[[Records], Question], ...] = (narrow, repeated, low_rank, layouts)
