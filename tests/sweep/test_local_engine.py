"""Guards the local engine by real processes: crashes, hangs, limits, early stops and kills cost
time, never a result.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from tbn_bench import cli
from tbn_bench.config import make
from tbn_bench.records.files import RecordError
from tbn_bench.records.store import RunStore
from tbn_bench.records.summary import TIMES
from tbn_bench.sweep import estimate, local, process, spec
from tbn_bench.sweep.execution import ExecutionOptions

ONE = {"data": {"value": "synthetic"}, "model": {"value": "mlp(hidden=[8])"}, "epochs": {"value": 3}, "batch_size": {"value": 16},
       "lr": {"value": 0.05}}  # fmt: skip


def sweep_file(folder: Path, top=None, **parameters) -> Path:
    path = folder / "engine.yaml"
    path.write_text(
        yaml.safe_dump(
            {"name": "engine", "method": "grid", "parameters": ONE | parameters, **(top or {})}
        )
    )
    return path


def wait_for(event, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not event():
        assert time.monotonic() < limit, "it never happened"
        time.sleep(0.005)


@pytest.fixture
def struck(monkeypatch):
    """struck(signal, times): the first so many attempts get the signal once they have logged an
    epoch. aged: seconds that such an attempt then seems to have lived longer.
    """

    def plan(sign: int, times: int, aged: float = 0):
        real, left = process.start, [times]

        def start(sweep, store, config, *rest):
            attempt = real(sweep, store, config, *rest)
            if left[0]:
                left[0] -= 1
                rows = store.path(sweep, config.run_id) / "metrics.jsonl"
                before = len(rows.read_text().splitlines()) if rows.exists() else 0

                def strike():
                    wait_for(
                        lambda: (
                            attempt.process.poll() is not None
                            or (rows.exists() and len(rows.read_text().splitlines()) > before)
                        )
                    )
                    attempt.process.send_signal(sign)
                    attempt.started -= aged

                threading.Thread(target=strike, daemon=True).start()
            return attempt

        monkeypatch.setattr(process, "start", start)

    return plan


def lines(results: Path, config) -> list[dict]:
    return [
        {k: v for k, v in row.items() if k not in TIMES}
        for row in RunStore(results).read("engine", config.run_id).rows()
    ]


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path, struck):
    """SIGKILL after an epoch: tried again, and the rows are those of a run that nobody disturbed."""
    sweep = spec.load(sweep_file(tmp_path, epochs={"value": 20}))
    local.run(sweep, tmp_path / "calm")
    struck(signal.SIGKILL, 1)
    said = local.run(sweep, tmp_path / "struck")
    assert (said["finished"], said["failed"]) == (1, 0)
    assert lines(tmp_path / "struck", sweep.configs[0]) == lines(
        tmp_path / "calm", sweep.configs[0]
    )


def test_retries_run_out(tmp_path, struck):
    """Killed each time: so many attempts and no more, and the record says why."""
    struck(signal.SIGKILL, 9)
    sweep = spec.load(sweep_file(tmp_path, epochs={"value": 200}))
    said = local.run(sweep, tmp_path / "r", ExecutionOptions(retries=1))
    record = RunStore(tmp_path / "r").read("engine", sweep.configs[0].run_id)
    assert said["failed_ids"] == [record.run_id]
    assert (record.status, record.error) == ("failed", "killed by signal 9")


def test_a_hanging_run_meets_its_limit(tmp_path, struck, monkeypatch):
    """A process that stands still answers to nothing: it is killed after its time, and a later
    attempt finishes.
    """
    monkeypatch.setattr(process, "PATIENCE", 0.5)
    struck(signal.SIGSTOP, 1, aged=3600)
    sweep = spec.load(sweep_file(tmp_path))
    said = local.run(sweep, tmp_path / "r", ExecutionOptions(time_limit_s=3600))
    assert (said["finished"], said["failed"]) == (1, 0)


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        ({"memory_limit_gb": 0.1}, "memory limit of 0.1 GB passed"),
        ({"time_limit_s": 2}, "time limit of 2 s passed"),
    ],
)
def test_limits_name_themselves(tmp_path, limit, why):
    """A run that cannot live within its limit fails with that reason, in its record too, whether or
    not it had begun one.
    """
    sweep = spec.load(sweep_file(tmp_path, epochs={"value": 5000}))
    said = local.run(sweep, tmp_path / "r", ExecutionOptions(**limit, retries=0))
    record = RunStore(tmp_path / "r").read("engine", sweep.configs[0].run_id)
    assert said["failed_ids"] == [record.run_id]
    assert (record.status, record.error.startswith(why)) == ("failed", True)


def test_runs_listen_to_interruptions_also_in_the_background():
    """A script's background job, and all that it starts, has SIGINT ignored.

    A run must still hear its launcher.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with subprocess.Popen(["sleep", "20"], preexec_fn=process.die_with_parent) as child:
            status = Path(f"/proc/{child.pid}/status").read_text()
            child.kill()
    finally:
        signal.signal(signal.SIGINT, before)
    ignored = int(
        next(line for line in status.splitlines() if line.startswith("SigIgn")).split()[1], 16
    )
    assert not ignored & 1 << (signal.SIGINT - 1)


def test_a_diverged_run_is_not_tried_again(tmp_path, capsys):
    """A NaN is a result: one attempt, recorded with its reason."""
    sweep = spec.load(sweep_file(tmp_path, lr={"value": 1e30}))
    said = local.run(sweep, tmp_path / "r", ExecutionOptions(retries=3))
    assert said["failed"] == 1
    assert "[again]" not in capsys.readouterr().out
    assert RunStore(tmp_path / "r").read("engine", sweep.configs[0].run_id).status == "diverged"


def test_early_termination_stops_the_worse(tmp_path):
    """Hyperband from the first epoch on: a learning rate that learns nothing is stopped, says so,
    and is not begun again.
    """
    top = {
        "early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 2},
        "metric": {"name": "val/top1", "goal": "maximize"},
    }
    sweep = spec.load(
        sweep_file(
            tmp_path,
            top,
            lr={"values": [0.1, 0.05, 1e-9]},
            epochs={"value": 300},
            seed={"values": [0, 1]},
        )
    )
    said = local.run(sweep, tmp_path / "r")
    store = RunStore(tmp_path / "r")
    stopped = [r for r in store.runs() if r.status == "stopped"]
    assert said["stopped"] == len(stopped) > 0
    assert 1e-9 not in {r.config["lr"] for r in store.runs() if r.status == "finished"}
    assert all(len(r.rows()) < 300 for r in stopped)
    again = local.run(sweep, tmp_path / "r")
    assert (again["finished"], again["stopped"]) == (0, said["stopped"])


def test_search_by_bayes_is_rebuilt_from_the_records(tmp_path):
    """run_cap counts runs that are recorded: a second call adds what is missing and repeats
    nothing.
    """
    pytest.importorskip("optuna")
    top = {"method": "bayes", "run_cap": 3, "metric": {"name": "val/loss"}}
    wide = {
        "lr": {"distribution": "log_uniform_values", "min": 1e-3, "max": 0.5},
        "epochs": {"value": 1},
    }
    first = local.run(spec.load(sweep_file(tmp_path, top, **wide)), tmp_path / "r")
    second = local.run(
        spec.load(sweep_file(tmp_path, top | {"run_cap": 4}, **wide)), tmp_path / "r"
    )
    assert (first["finished"], second["finished"], second["skipped"]) == (3, 1, 3)
    assert len({r.config["lr"] for r in RunStore(tmp_path / "r").runs()}) == 4


def test_a_search_with_a_damaged_trial_does_not_go_on(tmp_path):
    """Its number would be drawn again as another config: the run is named, and restored the search
    goes on.
    """
    pytest.importorskip("optuna")
    top = {"method": "bayes", "run_cap": 3, "metric": {"name": "val/loss"}}
    sweep = spec.load(sweep_file(tmp_path, top, lr={"min": 0.01, "max": 0.5}, epochs={"value": 1}))
    local.run(sweep, tmp_path / "r")
    victim = next(r.path / "summary.json" for r in RunStore(tmp_path / "r").runs())
    content = victim.read_text()
    victim.write_text(content[: len(content) // 2])
    with pytest.raises(
        ValueError, match=rf"run {victim.parent.name}: its record cannot be used .*runs verify"
    ):
        local.run(sweep, tmp_path / "r")
    victim.write_text(content)
    assert local.run(sweep, tmp_path / "r")["skipped"] == 3


def test_a_draw_that_no_layer_can_take_is_a_failed_point(tmp_path):
    """Its reason is in its record, and the search goes on."""
    pytest.importorskip("optuna")
    top = {"method": "bayes", "run_cap": 4, "metric": {"name": "val/loss"}}
    sweep = spec.load(
        sweep_file(
            tmp_path,
            top,
            binarizer={"values": ["bwn", "sign", "tbn(p=7, min_layer_size=0)"]},
            epochs={"value": 1},
        )
    )
    said = local.run(sweep, tmp_path / "r")
    errors = [r.error for r in RunStore(tmp_path / "r").runs() if r.status == "failed"]
    assert (said["finished"], said["failed"]) == (2, 1)
    assert "p must divide the number of weights" in errors[0]
    assert local.run(sweep, tmp_path / "r")["skipped"] == 2  # and is rebuilt with it


def test_missing_seeds_are_filled(tmp_path, capsys):
    """Two methods, one of them with one of the two seeds: just that run is made, with the settings
    of its group.
    """
    store = RunStore(tmp_path)
    base = {"data": "synthetic", "model": "mlp(hidden=[8])", "epochs": 1, "batch_size": 16}
    for binarizer, seeds in (("bwn", (0, 1)), ("sign", (1,))):
        for seed in seeds:
            config = make({**base, "binarizer": binarizer, "seed": seed})
            store.claim("s", config.run_id, config.model_dump(mode="json"), {}).finish(
                {"test/top1": 0.5}
            )
    assert cli.main(["sweep", "--fill=s", f"--results={tmp_path}"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["finished"] == 1
    assert store.finished("s", make({**base, "binarizer": "sign", "seed": 0}).run_id)
    assert cli.main(["sweep", "--fill=t", f"--results={tmp_path}"]) == 1
    assert "no FILE, got 't'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "message"),
    [({"jobs": 0}, "--jobs must be at least 1, got 0"), ({"retries": -1}, "--retries must be at least 0, got -1"),
     ({"jobs": 1001}, "--jobs must be at most 1,000, got 1,001"), ({"threads": 10**9}, "--threads must be at most 1,000, got"),
     ({"per_gpu": 10**6}, "--per-gpu must be at most 1,000"), ({"retries": 1001}, "--retries must be at most 1,000"),
     ({"time_limit_s": 0}, "--time-limit must be more than 0, got 0"), ({"memory_limit_gb": -2}, "--memory-limit must be more than 0, got -2")],
)  # fmt: skip
def test_impossible_ways_are_refused(how, message):
    with pytest.raises(ValueError, match=message):
        ExecutionOptions(**how)


@pytest.mark.parametrize("command", ["train", "latency", "bench"])
@pytest.mark.parametrize("threads", ["0", "1001", "x", "9" * 5000])
def test_impossible_numbers_of_threads_are_refused(command, threads, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, f"--threads={threads}"])
    said = capsys.readouterr().err
    assert "argument --threads: expected an integer from 1 to 1,000, got" in said
    assert len(said) < 300


def test_sweeps_whose_names_differ_by_case_are_refused(tmp_path):
    """On macOS and Windows they would be one folder. The sweep itself goes on."""
    store = RunStore(tmp_path)
    (tmp_path / "runs" / "Study").mkdir(parents=True)
    store.refuse_other_case("Study")
    with pytest.raises(
        RecordError, match="'study' and the recorded 'Study' differ in upper and lower case alone"
    ):
        store.claim("study", "1" * 12, {}, {})
    with pytest.raises(RecordError, match="differ in upper and lower case"):
        local.run(
            spec.expand({"method": "grid", "parameters": {"seed": {"value": 0}}}, "STUDY"),
            tmp_path,
            dry_run=True,
        )


def test_slots_share_gpus_and_cores(monkeypatch):
    """Two runs on each of two GPUs; every run its share of the cores."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    slots = ExecutionOptions(device="cuda", per_gpu=2).slots
    assert [s["CUDA_VISIBLE_DEVICES"] for s in slots] == ["3", "5", "3", "5"]
    assert {s["OMP_NUM_THREADS"] for s in slots} == {"4"}
    assert [s["OMP_NUM_THREADS"] for s in ExecutionOptions(jobs=2).slots] == ["8", "8"]


def test_memory_is_that_of_all_processes_of_a_run():
    """A child's memory counts."""
    code = "import subprocess, sys; x = bytearray(80_000_000); subprocess.run([sys.executable, '-c', \"x = bytearray(80_000_000); print('up', flush=True); input()\"])"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as parent:
        parent.stdout.readline()
        used = process.resident_bytes(parent.pid)
        parent.communicate(b"\n")
    assert 160e6 < used < 260e6


def test_time_is_estimated_by_like_runs(tmp_path, capsys):
    """Median seconds per epoch of the same method on the same data and model, else of any.

    Unknown is said.
    """
    store = RunStore(tmp_path)
    for seed, seconds, binarizer in (
        (0, 10, "bwn"),
        (1, 30, "bwn"),
        (2, 20, "bwn"),
        (0, 99, "sign"),
    ):
        config = make({"binarizer": binarizer, "seed": seed, "epochs": 10})
        store.claim("s", config.run_id, config.model_dump(mode="json"), {}).finish(
            {"seconds": seconds}
        )
    done = list(store.runs())
    assert estimate.seconds_of(make({"binarizer": "bwn", "epochs": 5}), done) == pytest.approx(10)
    assert estimate.seconds_of(make({"binarizer": "irnet", "epochs": 10}), done) == pytest.approx(
        25
    )
    assert estimate.seconds_of(make({"data": "cifar10"}), done) is None
    wanted = spec.SweepSpec(
        "new", [make({"binarizer": "bwn", "epochs": 10, "seed": s}) for s in (7, 8)]
    )
    said = local.run(wanted, tmp_path, ExecutionOptions(jobs=2), dry_run=True)
    assert said["estimated_seconds"] == pytest.approx(20)
    assert "time: about 20 s with 2 at once" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_and_started_again_the_table_is_the_same(tmp_path):
    """Twenty rounds of SIGKILL to the launcher, a run or both, at random moments, on a path with spaces and umlauts: the records are those
    of an undisturbed sweep."""
    file = sweep_file(
        tmp_path,
        epochs={"value": 30},
        seed={"values": list(range(8))},
        binarizer={"values": ["bwn", "sign"]},
    )
    ids, rng = [c for c in spec.load(file).configs], random.Random(0)
    local.run(spec.load(file), tmp_path / "calm", ExecutionOptions(jobs=2))
    results = tmp_path / "a sweep, gestört"
    command = [
        sys.executable,
        "-m",
        "tbn_bench.cli",
        "sweep",
        str(file),
        f"--results={results}",
        "--jobs=2",
        "--retries=2",
    ]
    for _ in range(20):
        launcher = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(1, 9))
        children = [
            int(p)
            for p in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        ]
        for pid in rng.choice([[launcher.pid], children[:1], [launcher.pid, *children]]):
            os.kill(pid, signal.SIGKILL)
        if launcher.poll() is None:
            time.sleep(rng.uniform(0, 4))
            launcher.kill()
        launcher.wait()
    done = subprocess.run(command, capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1])["failed"] == 0, done.stderr
    for config in ids:
        assert lines(results, config) == lines(tmp_path / "calm", config)
