"""The groups that the questions compare: of the arena, and of its four-minute networks."""

import functools
from collections.abc import Iterator

from tbn_bench import catalog
from tbn_bench.reporting import names
from tbn_bench.reporting.groups import Group, groups
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.narrower import narrower

SWEEP = "cifar10_fast"
SMALL = "cifar10_small"
FLAGS = "--jobs 2 --threads 1 --nice 19 --channels-last"
RUN_ARENA = f"tbn-bench sweep sweeps/{SWEEP}.yaml {FLAGS}"
RUN_NARROW = f"tbn-bench sweep sweeps/{SWEEP}_narrow.yaml {FLAGS}"
RUN_SMALL = f"tbn-bench sweep sweeps/{SMALL}.yaml {FLAGS}"
TILES = (4, 8, 16)
LAYOUTS = ("aligned", "hadamard", "columns")


@functools.lru_cache(maxsize=2)
def whole(records: Records) -> dict[str, Group]:
    """Display name -> group with a result, of the arena's full network."""
    found = [g for g in _judged(records, SWEEP)]
    if not found:
        return {}
    most = max(found, key=lambda g: g.first["weights"] or 0)
    return {names.method(g.binarizer): g for g in found if g.model == most.model}


def slim(records: Records) -> list[Group]:
    """The narrower BWN groups of the arena."""
    full = list(whole(records).values())
    return narrower(records, full) if full else []


@functools.lru_cache(maxsize=2)
def small(records: Records) -> dict[tuple[str, int, str], Group]:
    """(model, epochs, display name) -> group with a result, of the sweep of widths and epochs."""
    found = {}
    for g in _judged(records, SMALL):
        found[g.model, int(g.first["epochs"]), names.method(g.binarizer)] = g
    return found


def models_by_width(records: Records) -> list[str]:
    """The models of `small`, narrowest first."""
    weights = {}
    for (model, _, _), g in small(records).items():
        weights[model] = g.first["weights"] or 0
    return sorted(weights, key=lambda model: weights[model])


def _judged(records: Records, sweep: str) -> Iterator[Group]:
    for g in groups(records):
        if g.sweep == sweep and g.result is not None:
            yield g


def tbn(p: int, layout: str = "aligned") -> str:
    """The display name of a TBN: TBN-4, TBN-4 hadamard."""
    return names.method(spec_of(p, layout))


def spec_of(p: int, layout: str = "aligned") -> str:
    """A call with the colour and the marker of a TBN."""
    return f"tbn(copies={layout!r}, p={p})"


def p_of(g: Group) -> int | None:
    """The p of a TBN; None for other methods."""
    name, options = catalog.parse(g.binarizer)
    return int(options["p"]) if name == "tbn" and "p" in options else None


def is_tiled(g: Group) -> bool:
    return p_of(g) is not None
