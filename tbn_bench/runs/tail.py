"""tbn-bench runs tail RUN: the end of its log and its last epochs; with --follow, what comes until it ends."""

import time
from pathlib import Path
from typing import Any

from tbn_bench.records.schema import parse
from tbn_bench.records.store import RecordError, RunRecord, RunStore, read_file
from tbn_bench.runs import text
from tbn_bench.runs.lock import held
from tbn_bench.runs.show import log_of

PAUSE_S = 0.3


class Lines:
    """Whole lines of a growing file. One that was cut short or replaced (a resume drops epochs) goes on behind what it kept."""

    def __init__(self, path: Path):
        self.path = path
        self.seen: list[bytes] = []

    def new(self, rest: bool = False) -> list[str]:
        """Lines that were not there at the last call; rest: also a last one without its newline."""
        try:
            parts = read_file(self.path).split(b"\n")
        except RecordError:
            return []
        lines = parts if rest and parts[-1] else parts[:-1]
        same = next(
            (i for i, (a, b) in enumerate(zip(self.seen, lines, strict=False)) if a != b),
            min(len(self.seen), len(lines)),
        )
        self.seen = lines
        return [line.decode(errors="replace") for line in lines[same:]]


def epoch(line: str) -> str:
    """A row of metrics.jsonl for reading; as it is where it is no object."""
    try:
        row = parse(line.encode())
        return text.GAP.join(f"{k} {text.word(v)}" for k, v in row.items())
    except (ValueError, AttributeError):
        return line


def run(store: RunStore, name: str, lines: int, follow: bool) -> dict[str, Any]:
    """Ctrl-C ends it quietly: only the looking on stops, never the run."""
    if lines < 0:
        raise ValueError(f"--lines must be at least 0, got {lines}")
    record = store.find(name)
    try:
        status = _tail(store, record, lines, follow)
    except KeyboardInterrupt:
        status = store.read(record.sweep, record.run_id).status
    return {"sweep": record.sweep, "run_id": record.run_id, "status": status}


def _tail(store: RunStore, record: RunRecord, count: int, follow: bool) -> str:
    log, rows = Lines(log_of(store, record)), Lines(record.path / "metrics.jsonl")
    live = held(
        record.path
    )  # before the look: what is written until the end of the run is then seen by the last one
    _say(
        [*_last(log.new(rest=not live), count), *(epoch(line) for line in _last(rows.new(), count))]
    )
    while follow and live:
        time.sleep(PAUSE_S)
        live = held(record.path)
        _say([*log.new(rest=not live), *map(epoch, rows.new())])
    found = store.read(record.sweep, record.run_id)
    status = found.status if live or found.status != "running" else "dead"
    _say([f"{found.sweep}/{found.run_id}: {status}{f', {found.error}' if found.error else ''}"])
    return status


def _last(lines: list[str], count: int) -> list[str]:
    return lines[-count:] if count else []


def _say(lines: list[str]) -> None:
    if lines:
        text.say(lines)
