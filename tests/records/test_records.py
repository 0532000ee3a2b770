"""Guards the run directory: what a reader sees after a kill, a torn write, a full disk or a second owner."""

import contextlib
import errno
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tbn_bench.records import files
from tbn_bench.records import provenance as provenance_module
from tbn_bench.records import run as run_module
from tbn_bench.records.files import RecordError
from tbn_bench.records.provenance import provenance
from tbn_bench.records.run import FSYNC_ROWS, RunBusy
from tbn_bench.records.store import LatencyRecord, McuRecord, RunStore

CONFIG = {"data": "digits", "seed": 0}
HARD = {
    "nan": float("nan"),
    "up": float("inf"),
    "down": float("-inf"),
    "deep": [{"x": (float("nan"), 1.5, None, True)}],
}

# Holds a run and writes rows until it is killed; says on stdout which rows log() has returned for.
WRITER = """
import sys
from tbn_bench.records.store import RunStore
run = RunStore(sys.argv[1]).claim("s", "killed", {"seed": 0}, {})
for k in range(100_000):
    run.log({"epoch": k, "loss": 1 / (k + 1)})
    print(k, flush=True)
"""


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "results")


@pytest.fixture
def claim(store):
    """Claims a run of sweep "s" and gives it back at the end, so that no file stays open."""
    with contextlib.ExitStack() as stack:

        def take(run_id="r"):
            run = store.claim("s", run_id, CONFIG, {"command": "c"})
            stack.callback(run._lock.release)  # even where release is what a test finds broken
            stack.enter_context(contextlib.suppress(OSError))
            stack.callback(run.release)
            return run

        yield take


@contextlib.contextmanager
def full_disk():
    """Every fsync finds the disk full: that is where delayed allocation reports it."""

    def fsync(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "fsync", fsync)
        yield


@contextlib.contextmanager
def largest_file(size):
    """No file may grow beyond `size` bytes: the kernel cuts the write short, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def strict(text):
    """JSON as the standard has it: NaN and Infinity as bare words are refused."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def writer(store):
    command = [sys.executable, "-c", WRITER, str(store.root)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )


def killed(process, rows):
    """SIGKILL once `rows` rows are acknowledged; the last acknowledged row."""
    acknowledged = [int(process.stdout.readline()) for _ in range(rows)]
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split("\n")[:-1]  # lines printed before the signal took effect
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return int(rest[-1]) if rest else acknowledged[-1]


# What is written


def test_a_run_from_claim_to_finish(store, claim):
    """running without a summary, then finished with one; the config and every row come back as they went in."""
    run = claim()
    run.log({"epoch": 0, "loss": 0.5}, durable=True)
    before = store.read("s", "r")
    assert (before.status, before.summary, before.config, before.rows()) == (
        "running",
        None,
        CONFIG,
        [{"epoch": 0, "loss": 0.5}],
    )
    assert not store.finished("s", "r")
    run.finish({"test/top1": 0.75})
    after = store.read("s", "r")
    assert (after.status, after.error, after.provenance) == ("finished", None, {"command": "c"})
    assert after.summary["test/top1"] == 0.75
    assert store.finished("s", "r")


@pytest.mark.parametrize("status", ["failed", "diverged", "interrupted"])
def test_a_run_without_result_says_why(store, claim, status):
    """Status and error are in the record, the summary is not, and the next process may take the run."""
    claim().fail(status, "ValueError: why")
    record = store.read("s", "r")
    assert (record.status, record.error, record.summary) == (status, "ValueError: why", None)
    assert claim().header["error"] is None


def test_values_json_cannot_hold(store, claim):
    """NaN and infinities, however deep, are strings in strict JSON, in all three files; rows give floats."""
    run = claim()
    run.log(HARD)
    run.finish(HARD)
    row, summary = (
        strict((run.path / "metrics.jsonl").read_text()),
        strict((run.path / "summary.json").read_text()),
    )
    for got in (row, summary):
        assert (got["up"], got["down"], got["deep"]) == (
            "Infinity",
            "-Infinity",
            [{"x": ["NaN", 1.5, None, True]}],
        )
        assert math.isnan(float(got["nan"]))
        assert float(got["down"]) == -math.inf
    read = store.read("s", "r").rows()[0]
    assert math.isnan(read["nan"])
    assert (read["up"], read["down"]) == (math.inf, -math.inf)


def test_rows_reach_the_disk_every_ten_and_at_once_if_durable(claim, monkeypatch):
    """fsync is called for row 10 and for a durable row, and the count starts again after either."""
    run, synced = claim(), []
    monkeypatch.setattr(files.os, "fsync", synced.append)
    calls = []
    for k in range(25):
        run.log({"epoch": k}, durable=k == 3)
        calls.append(len(synced))
    assert [k for k in range(25) if calls[k] > (calls[k - 1] if k else 0)] == [
        3,
        3 + FSYNC_ROWS,
        3 + 2 * FSYNC_ROWS,
    ]


def test_each_row_is_in_the_file_when_log_returns(store, claim):
    """Nothing waits in a buffer of the process, where a kill would lose it."""
    run = claim()
    for k in range(3):
        run.log({"epoch": k})
        assert len(store.read("s", "r").rows()) == k + 1


@pytest.mark.parametrize("name", ["run.json", "summary.json"])
def test_a_reader_never_sees_half_a_file(store, claim, monkeypatch, name):
    """Until the rename the old file stands whole, the new content being complete beside it."""
    run = claim()
    files.write_atomic(run.path / name, {"old": 1})
    seen, replace = [], Path.replace

    def watched(self, target):
        seen.append(
            (
                json.loads(self.read_text()),
                json.loads(Path(target).read_text()),
                self.parent == Path(target).parent,
            )
        )
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    files.write_atomic(run.path / name, {"new": 2})
    assert seen == [({"new": 2}, {"old": 1}, True)]
    assert files.read_json(run.path / name) == {"new": 2}


def test_the_summary_is_written_before_the_status(store, claim, monkeypatch):
    """A process that dies between the two files leaves a finished run, never one called finished without numbers."""
    run, written = claim(), []
    monkeypatch.setattr(
        run_module,
        "write_atomic",
        lambda path, value: written.append((path.name, value.get("status"))),
    )
    run.finish({"test/top1": 1.0})
    assert written == [("summary.json", None), ("run.json", "finished")]


def test_a_value_that_is_no_json_leaves_the_old_file(claim):
    """A programming error in a summary costs neither the record nor leaves a temporary file."""
    run = claim()
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(TypeError):
        files.write_atomic(run.path / "run.json", {"x": object()})
    assert (run.path / "run.json").read_bytes() == before
    assert list(run.path.glob(".*.tmp")) == []


# What is read


@pytest.mark.parametrize("keep", [0, 1, 40])
@pytest.mark.parametrize("name", ["run.json", "summary.json"])
def test_a_half_written_record_costs_its_own_row(store, claim, name, keep):
    """Both readers name the damaged file; the list goes on with the other runs."""
    for run_id in ("broken", "whole"):
        claim(run_id).finish({"test/top1": 0.5, "note": "long enough to be cut in its middle"})
    damaged = store.path("s", "broken") / name
    damaged.write_bytes(damaged.read_bytes()[:keep])
    with pytest.raises(RecordError, match=f"{name}.*delete the folder"):
        store.read("s", "broken")
    problems = []
    assert [r.run_id for r in store.runs(problems)] == ["whole"]
    assert len(problems) == 1
    assert str(damaged) in problems[0]
    with pytest.raises(RecordError, match=name):
        list(store.runs())


@pytest.mark.parametrize(
    "content", [b"[1]", b"\xff\xfe\x00", b'{"schema_version": 99}', b"{}", b'{"schema_version": 1}']
)
def test_foreign_records_are_named(store, claim, content):
    """Another JSON value, no text, another version, a missing key: one RecordError that holds the path."""
    path = claim().path / "run.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=str(path)):
        store.read("s", "r")
    problems = []
    assert list(store.runs(problems)) == []
    assert [str(path) in problem for problem in problems] == [True]


def test_another_schema_version_is_not_guessed_at(store, claim):
    """A whole record of another version is refused, with both versions named."""
    run = claim()
    files.write_atomic(run.path / "run.json", {**run.header, "schema_version": 99})
    with pytest.raises(
        RecordError, match=f"schema_version 99, this version reads {files.SCHEMA_VERSION}"
    ):
        store.read("s", "r")


@pytest.mark.parametrize("torn", ['{"epoch": 2, "lo', '{"epoch": 2}', "{", "\0" * 64])
def test_a_torn_last_row_is_ignored(store, claim, torn):
    """What follows the last newline was not acknowledged: also a whole object, or the zeros of a power cut."""
    run = claim()
    for k in range(2):
        run.log({"epoch": k})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    assert [row["epoch"] for row in store.read("s", "r").rows()] == [0, 1]


@pytest.mark.parametrize("bad", [b'{"epoch": 1\n', b"\xff\xfe\n", b"\n"])
def test_damage_elsewhere_is_an_error(store, claim, bad):
    """A broken line before the end is damage, not a torn write: the file is named, nothing is dropped in silence."""
    run = claim()
    (run.path / "metrics.jsonl").write_bytes(b'{"epoch": 0}\n' + bad + b'{"epoch": 2}\n')
    with pytest.raises(RecordError, match="metrics.jsonl has a damaged row"):
        store.read("s", "r").rows()


def test_find_by_the_beginning_of_an_id(store, claim):
    """One match is the run; none or several is an error that says how to list them."""
    for run_id in ("ab1", "ab2"):
        claim(run_id)
    assert store.find("ab2").run_id == "ab2"
    assert store.find("s/ab2").run_id == "ab2"
    for prefix, count in (("ab", 2), ("x", 0), ("other/ab2", 0), ("ab[12]", 0)):
        with pytest.raises(
            RecordError, match=f"{count} runs match {re.escape(repr(prefix))}.*tbn-bench runs"
        ):
            store.find(prefix)


def test_latency_records_come_back(store):
    """A written case is read back equal; a torn one is named and costs only itself."""
    record = LatencyRecord(
        "case-b1",
        "cpu",
        [{"binarizer": "bwn", "implementation": "cpu", "time_ms_p50": 1.0}],
        {"batch": 1},
        {"command": "c"},
    )
    path = store.write_latency(record)
    assert list(store.latencies()) == [record]
    (path.parent / "torn.json").write_text('{"schema_version": 1, "case": "to')
    problems = []
    assert list(store.latencies(problems)) == [record]
    assert len(problems) == 1
    assert "torn.json" in problems[0]


PATHS = ("", ".", "..", "/X", "../X", "../../../X", "a/b", "a/..")


@pytest.mark.parametrize("name", [*PATHS, "a\\b", "a\nb", "a\0b", "\x1b[2J", "\ue000", 3, None])
def test_a_name_that_is_a_path_makes_no_file(store, name):
    """Neither a run nor a measurement, by any of its two names; nothing is made, in the store or beside it."""
    for names in ((name, "r"), ("s", name)):
        with pytest.raises(RecordError, match="name"):
            store.claim(*names, CONFIG, {})
        with pytest.raises(RecordError, match="name"):
            store.write_latency(LatencyRecord(*names, []))
        with pytest.raises(RecordError, match="name"):
            store.write_mcu(McuRecord(*names, {}))
    assert list(store.root.parent.iterdir()) == []


@pytest.mark.parametrize("name", PATHS)
def test_the_folder_of_a_run_lies_in_the_store(store, name):
    """Whoever asks for a folder by a name gets one of the store's, or an error."""
    for names in ((name, "r"), ("s", name)):
        with pytest.raises(RecordError, match="names no folder in"):
            store.path(*names)
    assert store.path("lr study", "r:1") == store.root / "runs" / "lr study" / "r:1"


# Kill, owners, resume


@pytest.mark.timeout(60)
def test_sigkill_in_the_middle_of_writing(store, claim):
    """After kill -9: no gap in the rows, every acknowledged row but at most ten is there, and the run can be taken again."""
    last = killed(writer(store), rows=57)
    epochs = [row["epoch"] for row in store.read("s", "killed").rows()]
    assert epochs == list(range(len(epochs)))
    assert epochs[-1] >= last - FSYNC_ROWS
    assert store.read("s", "killed").status == "running"
    run = claim("killed")
    run.rewind(5)
    run.log({"epoch": 5})
    assert [row["epoch"] for row in store.read("s", "killed").rows()] == [0, 1, 2, 3, 4, 5]


@pytest.mark.timeout(60)
def test_a_run_of_a_live_process_is_busy(store, claim):
    """A second process is refused, by name, without a mark on the record; the owner's death frees the run."""
    owner = writer(store)
    owner.stdout.readline()
    before = (store.path("s", "killed") / "run.json").read_bytes()
    with pytest.raises(RunBusy, match="run killed of sweep 's' is being run by another process"):
        store.claim("s", "killed", {"seed": 1}, {})
    assert (store.path("s", "killed") / "run.json").read_bytes() == before
    killed(owner, rows=1)
    claim("killed")


def test_two_owners_in_one_process(store, claim):
    """The lock is the run's, not the process's; other runs are free, and each way to end gives it back."""
    for end in (
        lambda run: run.fail("failed", "x"),
        lambda run: run.release(),
        lambda run: run.finish({}),
    ):
        run = claim()
        with pytest.raises(RunBusy):
            store.claim("s", "r", CONFIG, {})
        claim("other").release()
        end(run)
    assert store.claim("s", "r", CONFIG, {}) is None, "a finished run is not taken again"


def test_rewind_drops_what_is_trained_again(store, claim):
    """Rows of the epoch and later go, also between earlier ones, with a torn line; then rows are appended as before."""
    run = claim()
    for epoch in (0, 1, 2, 1, 3):
        run.log({"epoch": epoch, "loss": float("nan")})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "lo')
    run.rewind(2)
    run.log({"epoch": 2})
    rows = store.read("s", "r").rows()
    assert [row["epoch"] for row in rows] == [0, 1, 1, 2]
    assert math.isnan(rows[0]["loss"])
    run.rewind(0)
    assert store.read("s", "r").rows() == []


def test_rewind_of_a_run_without_rows(store, claim):
    """A run stopped before its first epoch has no metrics file: nothing to drop."""
    claim().rewind(0)
    assert store.read("s", "r").rows() == []


# Where writing fails


@pytest.mark.parametrize(
    "blocked", ["results", "results/runs", "results/runs/s", "results/runs/s/r"]
)
def test_a_folder_that_cannot_be_made(store, tmp_path, blocked):
    """A regular file where a folder must be stops root too: the error has the path, the reason and the way out."""
    (tmp_path / blocked).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / blocked).write_text("in the way")
    with pytest.raises(
        RecordError,
        match=f"cannot write to {store.path('s', 'r')}: .+; choose another folder with --results",
    ):
        store.claim("s", "r", CONFIG, {})
    assert (tmp_path / blocked).read_text() == "in the way"


def test_a_latency_folder_that_cannot_be_made(store):
    """The same for timings."""
    store.root.mkdir()
    (store.root / "latency").write_text("in the way")
    with pytest.raises(RecordError, match="cannot write to .*latency.*--results"):
        store.write_latency(LatencyRecord("c", "cpu", []))


@pytest.mark.parametrize("name", ["run.json", "summary.json"])
def test_a_full_disk_leaves_the_older_record(claim, name):
    """The old file is untouched, no temporary file takes the last bytes, and the error says what to do."""
    run = claim()
    files.write_atomic(run.path / name, {"old": 1})
    with (
        full_disk(),
        pytest.raises(RecordError, match=f"{name}: No space left on device; free space"),
    ):
        files.write_atomic(run.path / name, {"new": 2})
    assert files.read_json(run.path / name) == {"old": 1}
    assert list(run.path.glob(".*.tmp")) == []


def test_a_disk_full_at_the_end_is_not_finished(store, claim):
    """A run whose summary could not be written is not done; it is free again once its process has given up."""
    run = claim()
    run.log({"epoch": 0})
    with full_disk():
        with pytest.raises(RecordError, match="No space left"):
            run.finish({"test/top1": 1.0})
        with pytest.raises(RecordError, match="No space left"):
            run.fail("failed", "disk full")
    record = store.read("s", "r")
    assert (record.status, len(record.rows())) == ("running", 1)
    claim()


def test_a_claim_on_a_full_disk_gives_the_lock_back(store, claim):
    """The refused claim must not keep the run busy for a second try of the same process, which may still hold the error."""
    with full_disk(), pytest.raises(RecordError, match="No space left") as refused:
        store.claim("s", "r", CONFIG, {})
    assert refused.type is RecordError
    claim()


def test_a_row_that_does_not_fit_costs_only_itself(store, claim):
    """The kernel cuts the row in two: the error names the file, every earlier row is read, a resume goes on after them."""
    run = claim()
    for k in range(3):
        run.log({"epoch": k})
    path = run.path / "metrics.jsonl"
    size = path.stat().st_size
    with (
        largest_file(size + 4),
        pytest.raises(RecordError, match=f"cannot append to {path}: .*; earlier rows are intact"),
    ):
        run.log({"epoch": 3})
    assert path.stat().st_size == size + 4  # torn indeed
    assert [row["epoch"] for row in store.read("s", "r").rows()] == [0, 1, 2]
    run.rewind(3)
    run.log({"epoch": 3})
    assert [row["epoch"] for row in store.read("s", "r").rows()] == [0, 1, 2, 3]


def test_a_disk_that_stays_full_frees_the_run(store, claim):
    """Where not even the failure can be written, the error is still a RecordError and the lock is given back."""
    run = claim()
    run.log({"epoch": 0})
    with largest_file((run.path / "metrics.jsonl").stat().st_size + 4):
        with pytest.raises(RecordError, match="metrics.jsonl"):
            run.log({"epoch": 1})
        with pytest.raises(RecordError, match="run.json"):
            run.fail("failed", "disk full")
    assert [row["epoch"] for row in store.read("s", "r").rows()] == [0]
    claim()


def test_a_rewind_on_a_full_disk_keeps_the_rows(store, claim):
    """Rows are dropped by a new file only: if that cannot be written the old one stands, and the error is a RecordError."""
    run = claim()
    for k in range(3):
        run.log({"epoch": k})
    with full_disk(), pytest.raises(RecordError, match="metrics.jsonl: No space left on device"):
        run.rewind(1)
    assert [row["epoch"] for row in store.read("s", "r").rows()] == [0, 1, 2]
    assert list(run.path.glob(".*")) == []


def test_changed_code_is_flagged_and_changed_records_are_not(tmp_path, monkeypatch):
    """Runs rewrite committed records; only files that make numbers count as a change."""

    def git(*arguments):
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )

    for name in ("tbn_bench/records/store.py", "results/run.json", "sweeps/a.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    git("init", "-q"), git("add", "."), git("commit", "-q", "-m", "x")
    here = tmp_path / "tbn_bench" / "records" / "store.py"
    monkeypatch.setattr(provenance_module, "__file__", str(here))
    assert provenance("c")["dirty"] is False
    (tmp_path / "results" / "run.json").write_text("2")
    assert provenance("c")["dirty"] is False
    (tmp_path / "sweeps" / "a.yaml").write_text("2")
    assert provenance("c")["dirty"] is True
