"""Where the files of the data sets are."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path


def data_root() -> Path:
    """The folder of the data files: $TBN_BENCH_DATA, else ./data."""
    return Path(os.environ.get("TBN_BENCH_DATA", "data"))


def find(candidates: Sequence[Path]) -> Path | None:
    """The first candidate that exists."""
    for candidate in candidates:
        if candidate.exists():
            return candidate
    return None


def md5(path: Path) -> str:
    data = path.read_bytes()
    digest = hashlib.md5(data, usedforsecurity=False)
    return digest.hexdigest()
