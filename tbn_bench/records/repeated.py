"""That later code has given a run's numbers again, beside its record: repeated.json.

fingerprint: part -> hash of that code (fingerprint.py). epochs, numbers: how many of each were
compared; all were equal to the last digit. commit, dirty, cpu: where that was.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tbn_bench.records.files import RecordError, read_json, replace, to_json

NAME = "repeated.json"


class Repeated(BaseModel):
    """The content of repeated.json."""

    model_config = ConfigDict(strict=True, extra="forbid")

    fingerprint: dict[str, str]
    epochs: int
    numbers: int
    commit: str | None
    dirty: bool | None
    cpu: str | None


def write(folder: Path, found: Repeated) -> None:
    """Writes the file whole or not at all."""
    text = to_json(found.model_dump(mode="json")) + "\n"
    replace(folder / NAME, text.encode())


def fingerprint(folder: Path, recorded: Any) -> Any:
    """The code that is known to give a run's numbers: of its last repetition, else `recorded`.

    A file that cannot be read counts as none.
    """
    path = folder / NAME
    if not path.exists():
        return recorded
    try:
        return Repeated(**read_json(path)).fingerprint
    except (RecordError, ValidationError, TypeError):
        return recorded
