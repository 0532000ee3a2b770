"""How the signs of each layer settle, beside a run's record: tiles.jsonl, a row per epoch.

epoch: from 0. flips: layer -> share of its stored sign bits that changed in the epoch. near_zero:
layer -> share of its column sums that are close to a flip; layers without such sums have none.
"""

from pathlib import Path
from typing import Any

from tbn_bench.records.files import RecordError, read_rows, replace, to_json

NAME = "tiles.jsonl"

Shares = dict[str, float]


def append(folder: Path, epoch: int, flips: Shares, near_zero: Shares) -> None:
    """Raises RecordError where the file cannot be written."""
    row = {"epoch": epoch, "flips": _short(flips), "near_zero": _short(near_zero)}
    path = folder / NAME
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(to_json(row) + "\n")
    except OSError as error:
        raise RecordError(f"cannot append to {path}: {error.strerror}") from error


def rewind(folder: Path, epoch: int) -> None:
    """Drops the rows of `epoch` and later: a resume trains them again."""
    path = folder / NAME
    if not path.exists():
        return
    kept = [row for row in read(folder) if row["epoch"] < epoch]
    replace(path, "".join(f"{to_json(row)}\n" for row in kept).encode())


def read(folder: Path) -> list[dict[str, Any]]:
    """The rows in order, without damaged ones; none where there is no file."""
    path = folder / NAME
    try:
        rows = read_rows(path)
    except (RecordError, ValueError):
        return []
    return [row for row in rows if _is_whole(row)]


def _is_whole(row: dict[str, Any]) -> bool:
    shares = (row.get("flips"), row.get("near_zero"))
    return isinstance(row.get("epoch"), int) and all(isinstance(s, dict) for s in shares)


def _short(shares: Shares) -> Shares:
    """Four digits: the shares are drawn, not computed with."""
    return {name: float(f"{share:.4g}") for name, share in shares.items()}
