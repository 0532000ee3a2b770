"""Tracks: the numbers that may be compared in one table.

W1A32 means 1-bit weights and 32-bit activations. Binary activations are never compared with real
ones. Full precision is the reference row of every track.
"""

from typing import Any

from tbn_bench import catalog
from tbn_bench.scores import REFERENCE, TRACKS, WEIGHTS_ONLY


def title(track: str) -> str:
    return f"{TRACKS[track]} ({track})"


def activation_bits(track: str) -> int:
    """W1A8 -> 8."""
    return int(track.partition("A")[2])


def checked(track: str) -> str:
    """The track itself. Raises ValueError for one that no comparison shows."""
    if track not in TRACKS:
        raise ValueError(
            f"track must be one of {', '.join(TRACKS)}, got {track!r}; a new one needs its line in "
            f"scores.py and its "
            f"reporting/tables/comparison_{str(track).lower()}.py"
        )
    return track


def without_record(binarizer: str) -> str:
    """The track of a run that recorded none.

    Such methods were weights only, unless the spec asks for binary activations.
    """
    name, options = catalog.parse(binarizer)
    if name == "full_precision":
        return REFERENCE
    return "W1A1" if options.get("activations") is True else WEIGHTS_ONLY


def fill(rows: list[dict[str, Any]]) -> None:
    """Fills in the track of old runs that have none.

    A finished run of the same method gives it, else the spec.
    """
    known = {}
    for row in rows:
        if row["track"]:
            known[row["binarizer"]] = row["track"]
    for row in rows:
        if not row["track"]:
            spec = row["binarizer"]
            row["track"] = known.get(spec) or without_record(spec)
