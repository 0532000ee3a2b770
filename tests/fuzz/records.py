"""Fuzzes the readers of records: committed ones are damaged, and every reader must give rows or a refusal by name.

.venv/bin/python -m tests.fuzz.records --count 1000 --seed 0

Each case damages one file of a small store and reads it as `runs list`, `runs show`, `runs verify` and the report do.
Beside the damaged record its neighbours must all be read, and what a reader refuses `verify` must find too.
The last line is JSON: cases by outcome, seed, worst time. A failure prints its input, and makes the exit status 1.
"""

import argparse
import collections
import contextlib
import io
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # also where it is run by its path

from fuzz import record_mutations as mutations

from tbn_bench.records.store import RunStore
from tbn_bench.reporting import build, figures, tables, write
from tbn_bench.reporting.latex import latex
from tbn_bench.reporting.load import Records, load
from tbn_bench.reporting.page import details
from tbn_bench.runs import compare, export, index, show, verify
from tbn_bench.runs import list as listing

RESULTS = Path(__file__).parents[2] / "results"
NEIGHBOURS = (
    "runs/fashion_mlp/*/",
    "runs/vit/*/",  # timed
    "latency/*/vit-digits_size_32-b1-t1.json",
    "latency/*/op-linear_768x3072-b1-t1.json",
    "mcu/*/2110947c908d-u8-m4-qemu.json",
)
KINDS = {
    "run.json": 4,
    "summary.json": 4,
    "metrics.jsonl": 3,
    "latency": 3,
    "mcu": 1,
}  # kind -> how often
LIMIT_S = 60  # of one case: a pipe that somebody waits for has no end
WRITERS = (write.markdown, write.comma_separated, latex)


class Failure(AssertionError):
    """A reader gave neither rows nor a refusal."""


class Bench:
    """A store of sound neighbours and one record that is damaged anew for every case."""

    def __init__(self, root: Path):
        self.root = root
        self.store = RunStore(root)
        for pattern in NEIGHBOURS:
            for path in sorted(RESULTS.glob(pattern))[:3]:
                _copy(path, root / path.relative_to(RESULTS))
        self.sound = {
            path for kind in ("runs/*/*", "latency/*/*", "mcu/*/*") for path in root.glob(kind)
        }
        self.runs = sorted(path.parent for path in RESULTS.glob("runs/*/*/summary.json"))
        layers = sorted(RESULTS.glob("latency/*/op-*.json"))
        timed = sorted(RESULTS.glob("latency/*/vit-*.json"))  # of runs that are in the store
        self.latencies = layers + timed * (len(layers) // len(timed))
        self.mcus = sorted(RESULTS.glob("mcu/*/*.json"))

    @contextlib.contextmanager
    def planted(self, rng: random.Random) -> Iterator[tuple[Path, Path, str]]:
        """(record, file of it that is damaged, how) in the store, for the block."""
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        chosen = rng.choice({"latency": self.latencies, "mcu": self.mcus}.get(kind, self.runs))
        place = self.root / chosen.relative_to(RESULTS)
        record = place.with_name(f"damaged{place.suffix}") if chosen.is_file() else place
        if record in self.sound:
            record = self.root / "runs" / "damaged" / place.name
        _copy(chosen, record)
        file = record / kind if record.is_dir() else record
        try:
            yield record, file, _damage(rng, file)
        finally:
            shutil.rmtree(record) if record.is_dir() and not record.is_symlink() else record.unlink(
                missing_ok=True
            )
            (self.root / index.NAME).unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    """The record's own files: no network lies beside it."""
    files = (
        [source]
        if source.is_file()
        else [source / name for name in ("run.json", "summary.json", "metrics.jsonl")]
    )
    for file in files:
        to = target if source.is_file() else target / file.name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, to)


def _damage(rng: random.Random, file: Path) -> str:
    how = rng.choices(("values", "text", "file"), (12, 4, 1))[0]
    if how == "file":
        return mutations.of_file(rng, file)
    change = mutations.of_values if how == "values" else mutations.of_text
    file.write_bytes(change(rng, file.read_bytes()))
    return how


def outcome(bench: Bench, record: Path) -> str:
    """ "rows" or "refused". Raises Failure, or what a reader raises."""
    problems: list[str] = []
    for kind in (bench.store.runs, bench.store.latencies, bench.store.mcus):
        list(kind(problems))
    rows = _rows_of(index.rows(bench.store, []))
    if rows != _rows_of(index.rows(bench.store, [])):  # NaN would differ: a row has none
        raise Failure("a warm index lists other rows than a cold one")
    _commands(bench, is_read=not problems)
    records = load(bench.root)
    _sound(bench, records)
    named = [problem for problem in records.problems if str(record) in problem]
    if records.problems != named:
        raise Failure(f"problems of other records: {records.problems}")
    if not named:
        _report(bench, records)
    return "refused" if named else "rows"


def _rows_of(rows: list[index.Row]) -> list[str]:
    return [json.dumps(row, sort_keys=True) for row in rows]


def _commands(bench: Bench, is_read: bool) -> None:
    """`runs list`, `show`, `compare`, `export` and `verify`, by what the command line calls."""
    rows = index.rows(bench.store, [])
    listing.run(bench.store, filters=[], sort="value", reverse=True, columns=None, limit=None)
    "\n".join(listing.table(rows, index.columns(rows), head=True)).encode()
    export.table(rows).encode()
    found = verify.run(bench.store, False)
    if not is_read and not found["failed"]:
        raise Failure("verify finds no fault in what no reader reads")
    runs = list(bench.store.runs([]))
    for run in runs:
        list(show._lines(bench.store, run))
        compare.differences(run, runs[0])


def _sound(bench: Bench, records: Records) -> None:
    """Every neighbour is in the frames."""
    names = {path.name for path in bench.sound if path.parents[1].name == "runs"}
    if missing := names - set(records.runs["run_id"]):
        raise Failure(f"sound runs are missing beside the damaged record: {missing}")
    if not len(records.latency) or not len(records.mcu):
        raise Failure("sound measurements are missing beside the damaged record")


def _report(bench: Bench, records: Records) -> None:
    """Every table in every format, and what figures draw."""
    for name, module in build.entries(tables):
        table = getattr(module, name)(records)
        for writer in WRITERS if table is not None else ():
            writer(table).encode()
    for _, module in build.entries(figures):
        module.frame(records)
    details.book(bench.root, records.curves)


def _stop(*_: object) -> None:
    raise TimeoutError(f"a reader did not come to an end within {LIMIT_S} s")


def case(bench: Bench, seed: str) -> tuple[str, str]:
    """(outcome, the input where it failed)."""
    with bench.planted(random.Random(seed)) as (record, file, how), warnings.catch_warnings():
        warnings.simplefilter("error")
        before = signal.signal(signal.SIGALRM, _stop)
        signal.alarm(LIMIT_S)
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                return outcome(bench, record), ""
        except Exception:  # noqa: BLE001 (any is a finding)
            content = (
                file.read_bytes()[:4000] if file.is_file() and how != "device" else how.encode()
            )
            return (
                "failed",
                f"case {seed}: {how} of {file.relative_to(bench.root)}\n{content!r}\n{traceback.format_exc()}",
            )
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)


def run(count: int, seed: int, root: Path) -> dict[str, object]:
    """Cases by outcome. Prints the input of every failure."""
    bench = Bench(root)
    outcomes = collections.Counter(rows=0, refused=0, failed=0)
    worst_s = 0.0
    for number in range(count):
        began = time.perf_counter()
        found, what = case(bench, f"{seed}.{number}")
        worst_s = max(worst_s, time.perf_counter() - began)
        outcomes[found] += 1
        if what:
            print(what, flush=True)
    return {**outcomes, "seed": seed, "worst_s": round(worst_s, 3)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(args.count, args.seed, Path(folder))
    print(json.dumps(found))
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
