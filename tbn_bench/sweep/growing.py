"""The rows of a run that another process is training."""

import contextlib
import time
from pathlib import Path
from typing import Any

from tbn_bench.records.files import RecordError, read_rows


class GrowingRows:
    """Reads the file when its size has changed, because thousands of rows take milliseconds.

    path: metrics.jsonl of the run. A damaged line leaves the rows as they were.
    """

    def __init__(self, path: Path):
        self._path = path
        self._size: int | None = None
        self._rows: list[dict[str, Any]] = []
        self._read = time.monotonic()

    @property
    def seconds_old(self) -> float:
        """Since the last look that found a change."""
        return time.monotonic() - self._read

    def now(self) -> list[dict[str, Any]]:
        """All rows so far."""
        size = self._size_now()
        if size == self._size:
            return self._rows
        self._size = size
        with contextlib.suppress(RecordError):
            self._rows = read_rows(self._path)
            self._read = time.monotonic()
        return self._rows

    def _size_now(self) -> int | None:
        try:
            return self._path.stat().st_size
        except OSError:
            return None
