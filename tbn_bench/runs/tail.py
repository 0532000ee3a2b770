"""tbn-bench runs tail RUN: the end of its log and its last epochs.

With --follow also what comes until the run ends.
"""

import time
from pathlib import Path
from typing import Any

from tbn_bench.records.files import RecordError, read_file
from tbn_bench.records.run import RunRecord
from tbn_bench.records.schema import parse
from tbn_bench.records.store import RunStore
from tbn_bench.runs import text
from tbn_bench.runs.lock import held
from tbn_bench.runs.show import log_of

PAUSE_S = 0.3


class Lines:
    """Whole lines of a growing file.

    In a file that was cut short or replaced (a resume drops epochs), reading continues behind the
    lines that it kept.
    """

    def __init__(self, path: Path):
        self.path = path
        self.seen: list[bytes] = []

    def new(self, rest: bool = False) -> list[str]:
        """Lines that were not there at the last call. rest: also a last one without newline."""
        try:
            content = read_file(self.path)
            parts = content.split(b"\n")
        except RecordError:
            return []
        *whole, last = parts
        lines = parts if rest and last else whole
        kept = _common(self.seen, lines)
        self.seen = lines
        new = lines[kept:]
        return [line.decode(errors="replace") for line in new]


def _common(old: list[bytes], new: list[bytes]) -> int:
    """The number of first lines that both have."""
    count = 0
    for a, b in zip(old, new, strict=False):
        if a != b:
            break
        count += 1
    return count


def epoch(line: str) -> str:
    """A row of metrics.jsonl for reading; unchanged if it is no object."""
    try:
        row = parse(line.encode())
        words = [f"{name} {text.word(value)}" for name, value in row.items()]
    except (ValueError, AttributeError):
        return line
    return text.GAP.join(words)


def run(store: RunStore, name: str, lines: int, follow: bool) -> dict[str, Any]:
    """lines: of the log, and epochs, to begin with.

    Ctrl-C ends the looking quietly, never the run.
    """
    if lines < 0:
        raise ValueError(f"--lines must be at least 0, got {lines}")
    record = store.find(name)
    try:
        status = _tail(store, record, lines, follow)
    except KeyboardInterrupt:
        status = store.read(record.sweep, record.run_id).status
    return {
        "sweep": record.sweep,
        "run_id": record.run_id,
        "status": status,
    }


def _tail(store: RunStore, record: RunRecord, count: int, follow: bool) -> str:
    log = Lines(log_of(store, record))
    rows = Lines(record.path / "metrics.jsonl")
    # asked before each look, so that the last look sees all that the run has written
    live = held(record.path)
    words = _last(log.new(rest=not live), count)
    words += [epoch(line) for line in _last(rows.new(), count)]
    _say(words)
    while follow and live:
        time.sleep(PAUSE_S)
        live = held(record.path)
        _say(log.new(rest=not live) + [epoch(line) for line in rows.new()])
    found = store.read(record.sweep, record.run_id)
    status = found.status
    if status == "running" and not live:
        status = "dead"
    said = f"{found.sweep}/{found.run_id}: {status}"
    if found.error:
        said += f", {found.error}"
    _say([said])
    return status


def _last(lines: list[str], count: int) -> list[str]:
    return lines[-count:] if count else []


def _say(lines: list[str]) -> None:
    if lines:
        text.say(lines)
