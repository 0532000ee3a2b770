"""Tracks: which numbers may stand in one table. W1A32 is read "1-bit weights, 32-bit activations"; binary activations are never
compared with real ones. Full precision is the reference row of every track."""

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
            f"track must be one of {', '.join(TRACKS)}, got {track!r}; a new one needs its line in scores.py and its "
            f"reporting/tables/comparison_{str(track).lower()}.py"
        )
    return track


def without_record(binarizer: str) -> str:
    """The track of a run that recorded none: methods were weights only then, unless the spec asks for activations."""
    name, options = catalog.parse(binarizer)
    return (
        REFERENCE
        if name == "full_precision"
        else "W1A1"
        if options.get("activations") is True
        else WEIGHTS_ONLY
    )


def fill(rows: list[dict[str, Any]]) -> None:
    """Gives runs without a track (old ones) that of a finished run of the same method, else what the spec says."""
    known = {row["binarizer"]: row["track"] for row in rows if row["track"]}
    for row in rows:
        row["track"] = (
            row["track"] or known.get(row["binarizer"]) or without_record(row["binarizer"])
        )
