"""Where is tiling worth it: flash, milliseconds, CPU hours of training? (cifar10_fast)"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from tbn_bench.reporting import names, narrower
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.questions import arena
from tbn_bench.reporting.questions.contrast import (
    NOT_RUN,
    Contrast,
    answer,
    counted,
    paired,
)
from tbn_bench.reporting.questions.question import NOTHING, Mark, Question, commands_of
from tbn_bench.reporting.tables.comparison import fastest

_SLACK = 1.02  # a rival's cost may be so many times that of the tiled network
_TIMES = f"tbn-bench latency --suite {arena.SWEEP} --packed"
Cost = Callable[[Records, Group], float | None]


@dataclass(frozen=True)
class Resource:
    name: str
    axis: str
    unit: str
    cost: Cost


def _flash(records: Records, g: Group) -> float | None:
    return g.first["stored_bytes"] / 1000


def hours(records: Records, g: Group) -> float | None:
    """Mean CPU hours of a group's runs on the machine that trained the most groups of the arena.

    Processors and versions of the code differ by up to two times for one network, so hours of
    several are never compared. None for a group without a run there.
    """
    own = _trained(records)
    own = own[own["run_id"].isin(g.run_ids)]
    return None if own.empty else float(own["cpu_seconds"].mean()) / 3600


def _trained(records: Records) -> pd.DataFrame:
    """The arena's runs of one processor and one commit: of those with the most groups."""
    runs = records.runs
    runs = runs[(runs["sweep"] == arena.SWEEP) & runs["cpu_seconds"].notna()]
    if runs.empty:
        return runs

    where = runs["cpu"].astype(str) + " " + runs["commit"].astype(str)
    most = runs.groupby(where)["group_id"].nunique().idxmax()
    return runs[where == most]


def _milliseconds(records: Records, g: Group) -> float | None:
    """Of the fastest exact implementation at batch 1, on the device that timed the most runs."""
    device = timed_on(records)
    best = fastest(records, g, 1, device) if device else {}
    return float(best["time_ms_p50"]) if best else None


def timed_on(records: Records) -> str | None:
    """The device with the most timed runs of the arena; None where none was timed."""
    timed = records.latency[records.latency["sweep"] == arena.SWEEP]
    if timed.empty:
        return None
    return str(timed.groupby("device")["run_id"].nunique().idxmax())


RESOURCES = (
    Resource("flash", "kB of the network", "kB", _flash),
    Resource("milliseconds", "ms, batch 1, one thread", "ms", _milliseconds),
    Resource("CPU hours of training", "CPU hours of training", "h", hours),
)


def worth(records: Records) -> Question:
    """Each TBN against the most accurate other network of at most its cost."""
    networks = _networks(records)
    contrasts: list[Contrast] = []
    said = []
    for resource in RESOURCES:
        own = _of_resource(records, resource, networks)
        contrasts += own
        if all(contrast.verdict == NOT_RUN for contrast in own):
            said.append(f"{resource.name}: not measured")
            continue
        said.append(f"{resource.name}: {_paper(own)}")
    is_run = any(contrast.verdict != NOT_RUN for contrast in contrasts)
    return Question(
        "worth",
        "Where is tiling worth it: flash, milliseconds, CPU hours of training?",
        f"{answer(contrasts)}: {counted(contrasts, 'tiling')}." if is_run else NOTHING,
        f"{arena.tbn(4)} by resource: {'; '.join(said)}." if is_run else "",
        tuple(contrasts),
        tuple(_marks(records, networks)),
        commands_of(contrasts, (arena.RUN_ARENA, arena.RUN_NARROW, _TIMES)),
        (f"results/runs/{arena.SWEEP}", "results/latency"),
        "The rival of a TBN is the network of the highest mean among BWN, narrower BWN, TWN, low "
        "rank and SNN whose cost is at most 1.02 times that of the TBN. The choice favours the "
        "rival, since its score is its own and of chance. CPU hours are of runs on one "
        "processor and at one commit.",
    )


def _networks(records: Records) -> list[Group]:
    """Of the arena, without full precision and without controls that are no rivals."""
    whole = [g for g in arena.whole(records).values() if not names.is_control(g.binarizer)]
    lowered = [g for g in whole if names.method(g.binarizer) != "FP32"]
    return lowered + arena.slim(records)


def _of_resource(records: Records, resource: Resource, networks: Sequence[Group]) -> list[Contrast]:
    costs = {}
    for g in networks:
        cost = resource.cost(records, g)
        if cost is not None:
            costs[g.group_id] = cost
    by_name = {names.method(g.binarizer): g for g in networks if arena.is_tiled(g)}
    out = []
    for p in arena.TILES:
        for layout in arena.LAYOUTS[:2]:
            name = arena.tbn(p, layout)
            spec = arena.spec_of(p, layout)
            label = f"{name}, {resource.name}"
            tiled = by_name.get(name)
            if tiled is None or tiled.group_id not in costs:
                out.append(Contrast(label, spec, name, ""))
                continue
            own = costs[tiled.group_id]
            rivals = [g for g in networks if costs.get(g.group_id, own * 2) <= _SLACK * own]
            out.append(_against(label, spec, tiled, rivals, f"{own:.3g} {resource.unit}"))
    return out


def _against(label: str, spec: str, tiled: Group, rivals: Sequence[Group], detail: str) -> Contrast:
    known = [g for g in rivals if not arena.is_tiled(g) and g.by_seed.keys() & tiled.by_seed.keys()]
    if not known:
        return Contrast(label, spec, tiled.label, "", detail=detail, is_open=True)
    best = max(known, key=_mean)
    second = best.label if best.model == tiled.model else narrower.label(best)
    return paired(label, spec, tiled, best, second=second, detail=detail)


def _mean(g: Group) -> float:
    assert g.result is not None
    return g.result.mean


def _paper(contrasts: Sequence[Contrast]) -> str:
    """Of TBN-4: the verdict and the difference behind it."""
    own = next(contrast for contrast in contrasts if contrast.first == arena.tbn(4))
    against = f" against {own.second}" if own.second else ""
    return f"{own.shown} ({own.text}{against})"


def _marks(records: Records, networks: Sequence[Group]) -> list[Mark]:
    marks = []
    full = [g for g in arena.whole(records).values() if names.method(g.binarizer) == "FP32"]
    for resource in RESOURCES:
        for g in [*full, *networks]:
            cost = resource.cost(records, g)
            if cost is None:
                continue
            assert g.result is not None
            is_narrow = g.model not in {own.model for own in arena.whole(records).values()}
            mean = 100 * g.result.mean
            half = 100 * (g.result.half or 0.0)
            mark = {
                "kind": "xy",
                "axis_x": resource.axis,
                "axis": "top-1 %",
                "log": 10,
                "joined": False,
                "front": True,
                "label": "BWN, narrower" if is_narrow else names.method(g.binarizer),
                "binarizer": g.binarizer,
                "control": is_narrow,
                "x": cost,
                "y": mean,
                "low": mean - half,
                "high": mean + half,
                "seeds": g.result.n,
            }
            marks.append(mark)
    return marks


ALL: tuple[Callable[[Records], Question], ...] = (worth,)
