"""Faults that a sweep must survive, by real processes: a full disk, damaged records, a clock that
goes backwards, many writers at once.
"""

import collections
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from tbn_bench import cli
from tbn_bench.records.store import RunStore
from tbn_bench.records.summary import TIMES
from tbn_bench.sweep import local, spec
from tbn_bench.sweep.execution import ExecutionOptions

PARAMETERS = {"data": {"value": "synthetic"}, "model": {"value": "mlp(hidden=[8])"}, "epochs": {"value": 3}, "batch_size": {"value": 16},
              "lr": {"value": 0.05}, "seed": {"values": [0, 1]}}  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "faults.yaml"
    path.write_text(yaml.safe_dump({"name": "faults", "method": "grid", "parameters": PARAMETERS}))
    return path


@pytest.fixture(scope="module")
def calm(sweep):
    """Records of the sweep that nothing disturbed."""
    local.run(spec.load(sweep), sweep.parent / "calm", ExecutionOptions(jobs=2))
    return sweep.parent / "calm"


def table(results: Path) -> dict[str, tuple]:
    """run id -> its rows and results, without what is measured in seconds."""

    def timeless(row):
        return {k: v for k, v in row.items() if k not in TIMES}

    return {
        r.run_id: ([timeless(row) for row in r.rows()], timeless(r.summary))
        for r in RunStore(results).runs()
    }


def launch(file: Path, results: Path, prefix=(), **environment) -> subprocess.CompletedProcess:
    command = [
        *prefix,
        sys.executable,
        "-m",
        "tbn_bench.cli",
        "sweep",
        str(file),
        f"--results={results}",
        "--retries=0",
    ]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )


def last(done: subprocess.CompletedProcess) -> dict:
    return json.loads(done.stdout.splitlines()[-1])


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB, if this user may mount one."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_fills_up_in_the_middle_of_a_sweep(sweep, calm, small_disk, capsys):
    """Everything after the first epoch fails for want of space, with the path and what to do; the rows from before are whole. Once there
    is space the same command ends with the table of a calm sweep."""
    results, ids = small_disk / "r", [c.run_id for c in spec.load(sweep).configs]
    rows = RunStore(results).path("faults", ids[0]) / "metrics.jsonl"
    ballast = small_disk / "ballast"

    def fill():
        while not (rows.exists() and rows.read_bytes().count(b"\n")):
            time.sleep(0.002)
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    filler = threading.Thread(target=fill)
    filler.start()
    command = ["sweep", str(sweep), f"--results={results}", "--retries=0"]
    code = cli.main(command)
    filler.join()
    said = capsys.readouterr().err
    assert code == 1
    assert "No space left on device" in said
    assert str(results) in said
    assert "Traceback" not in said
    assert [row["epoch"] for row in RunStore(results).read("faults", ids[0]).rows()] == list(
        range(rows.read_bytes().count(b"\n"))
    )
    ballast.unlink()
    assert cli.main(command) == 0
    assert table(results) == table(calm)


# Damaged records


@pytest.mark.parametrize(
    ("name", "keep", "said"),
    [
        ("run.json", 0.5, "cannot read"),
        ("summary.json", 0.5, "cannot read"),
        ("metrics.jsonl", 0.5, "epochs"),
    ],
)
def test_a_truncated_record_is_found_and_made_again(
    sweep, calm, tmp_path, capsys, name, keep, said
):
    """Cut in the middle: verify names it; the sweep does not count it as finished; --set-aside moves it away, the next sweep makes it again
    with the same numbers, and nothing was deleted."""
    results = tmp_path / "r"
    shutil.copytree(calm, results)
    before, victim = (
        table(results),
        RunStore(results).path("faults", spec.load(sweep).configs[1].run_id),
    )
    content = (victim / name).read_bytes()
    (victim / name).write_bytes(content[: int(len(content) * keep)])
    assert cli.main(["runs", "verify", f"--results={results}"]) == 1
    assert any(
        str(victim) in line and said in line for line in capsys.readouterr().out.splitlines()
    )
    if name != "metrics.jsonl":  # rows that are missing at the end are a matter for verify
        counted = local.run(spec.load(sweep), results)
        assert (counted["skipped"], counted["failed_ids"]) == (1, [victim.name])
        assert "runs verify` (--set-aside" in capsys.readouterr().err
    assert cli.main(["runs", "verify", "--set-aside", f"--results={results}"]) == 0
    assert (results / "set_aside" / "faults" / f"{victim.name}.1" / name).read_bytes() == content[
        : int(len(content) * keep)
    ]
    assert local.run(spec.load(sweep), results)["finished"] == 1
    assert table(results) == before
    assert cli.main(["runs", "verify", f"--results={results}"]) == 0


# A clock that goes backwards

BACKWARDS = """
import datetime, time
_start, _monotonic = time.time(), time.monotonic
def _back(): return _start - 1000 * (_monotonic() - _begin)
_begin = _monotonic()
time.time = _back
time.time_ns = lambda: int(_back() * 1e9)
class _Datetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None): return cls.fromtimestamp(_back(), tz)
datetime.datetime = _Datetime
"""


def test_a_clock_that_goes_backwards(sweep, calm, tmp_path, capsys):
    """In launcher and runs every second takes the clock back by 17 minutes: the same table, and
    seconds are counted forwards.
    """
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(BACKWARDS)
    done = launch(sweep, tmp_path / "r", PYTHONPATH=str(tmp_path / "clock"))
    assert done.returncode == 0, done.stderr
    assert table(tmp_path / "r") == table(calm)
    records = list(RunStore(tmp_path / "r").runs())
    assert all(
        r.summary["seconds"] > 0 and all(row["seconds"] > 0 for row in r.rows()) for r in records
    )
    ended = [json.loads((r.path / "run.json").read_text())["ended"] for r in records]
    assert all(
        end < r.provenance["started"] for r, end in zip(records, ended, strict=True)
    )  # the clock did go backwards
    capsys.readouterr()
    assert cli.main(["runs", f"--results={tmp_path / 'r'}"]) == 0
    listed = capsys.readouterr().out
    assert sum("finished" in line for line in listed.splitlines()) == 2


# Many writers

WRITER = """
import os, random, sys
from tbn_bench.records.run import RunBusy
from tbn_bench.records.store import RunStore
store, me = RunStore(sys.argv[1]), int(sys.argv[2])
sys.stdin.readline()
left, rng = [f"run{n:02d}" for n in range(40)], random.Random(me)
while left:
    run_id = rng.choice(left)
    try:
        run = store.claim("many", run_id, {"seed": 0}, {})
    except RunBusy:
        continue
    if run is not None:
        done = len(run.rows())
        for epoch in range(done, 30):
            run.log({"epoch": epoch, "writer": me, "text": "x" * 200})
            if rng.random() < 0.01:
                os._exit(9) if me % 4 == 0 else run.release()
                break
        else:
            run.finish({"writer": me})
            print(run_id, flush=True)
            left.remove(run_id)
        continue
    left.remove(run_id)
"""


def test_sixteen_writers_at_once(tmp_path):
    """Forty runs, some given up and some writers killed in the middle: each is finished once, by
    one writer, with its rows in order.
    """
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path, str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(16)
    ]
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    finished = [line for writer in writers for line in writer.communicate(timeout=120)[0].split()]
    codes = collections.Counter(writer.returncode for writer in writers)
    assert set(codes) <= {0, 9}
    assert codes[0] >= 12
    assert sorted(finished) == [f"run{n:02d}" for n in range(40)]
    for record in RunStore(tmp_path).runs():
        assert record.status == "finished"
        assert [row["epoch"] for row in record.rows()] == list(range(30))
