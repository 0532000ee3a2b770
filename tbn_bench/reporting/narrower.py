"""Narrower binary networks: the controls that a sub-bit network must beat at equal cost."""

from collections.abc import Sequence
from typing import Any

from tbn_bench import catalog
from tbn_bench.reporting import names
from tbn_bench.reporting.groups import Group, groups
from tbn_bench.reporting.load import Records


def narrower(records: Records, whole: Sequence[Group]) -> list[Group]:
    """The BWN groups with the sweep, data and track of a panel, but fewer weights than its network.

    whole: the groups of the panel. None is found where the panel compares fewer than two methods.
    """
    weights = most_weights(whole)
    if len({g.binarizer for g in whole}) < 2 or not weights:
        return []
    tracks = {g.track for g in whole}
    found = []
    for g in groups(records):
        is_same_track = g.result is not None and g.track in tracks
        if is_same_track and _is_narrower(g, whole[0], weights):
            found.append(g)
    return found


def most_weights(whole: Sequence[Group]) -> float:
    """Of the networks of a panel; 0 where no record has them."""
    return max(g.first.get("weights") or 0 for g in whole)


def label(g: Group) -> str:
    """BWN airbench 34/132/132, narrower."""
    return f"{g.label} {names.network(g.model)}, narrower"


def control(g: Group) -> dict[str, Any]:
    """The fields of a figure's mark by which narrower networks have one look and one name."""
    return {"label": f"{g.label}, narrower", "control": True, "line": "narrower"}


def _is_narrower(g: Group, whole: Group, weights: float) -> bool:
    """Whether a binary network is that of `whole` with fewer than so many weights."""
    if (g.sweep, g.data, g.score) != (whole.sweep, whole.data, whole.score):
        return False
    own_entry, _ = catalog.parse(g.model)
    entry, _ = catalog.parse(whole.model)
    if own_entry != entry or names.method(g.binarizer) != "BWN":
        return False
    has_size = g.first["weights"] and g.first["stored_bits_weights"]
    return bool(has_size) and g.first["weights"] < weights
