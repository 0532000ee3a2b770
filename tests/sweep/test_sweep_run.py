"""Guards a sweep as it runs: kills, second calls and two launchers at once neither lose, repeat nor
damage a run; faults are named.
"""

import contextlib
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from kept_warm import gone

from tbn_bench import cli
from tbn_bench.records.store import RunStore
from tbn_bench.sweep import local, process, spec
from tbn_bench.sweep.execution import ExecutionOptions

ONE = {"data": {"value": "synthetic"}, "model": {"value": "mlp(hidden=[8])"}, "epochs": {"value": 2}, "batch_size": {"value": 16},
       "lr": {"value": 0.05}}  # fmt: skip
DIVERGES = 1e30


def sweep_file(folder: Path, name: str = "journey", **parameters) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(
        yaml.safe_dump({"name": name, "method": "grid", "parameters": ONE | parameters})
    )
    return path


def call(file: Path, results: Path, *flags: str) -> int:
    return cli.main(["sweep", str(file), f"--results={results}", *flags])


def wait_for(event, process: subprocess.Popen | None = None):
    """Polls until event() is true; the test's own time limit is the limit."""
    while not event():
        assert process is None or process.poll() is None, "the launcher ended first"
        time.sleep(0.005)


def stamp(results: Path) -> dict[str, tuple[bytes, int]]:
    """run id -> run.json and when it was written: a run that is started again changes both."""
    paths = sorted(results.glob("runs/*/*/run.json"))
    return {p.parent.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in paths}


def summary_ids(results: Path) -> set[str]:
    return {p.parent.name for p in results.glob("runs/*/*/summary.json")}


@contextlib.contextmanager
def streams():
    """stdout and stderr of this process, as a fixture of a whole module cannot have capsys."""
    said = SimpleNamespace(out=None, err=None)
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        yield said
    said.out, said.err = out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def journey(tmp_path_factory):
    """Three configs, the last one diverges.

    The launcher is killed during the second; then the same call again, twice.
    """
    folder = tmp_path_factory.mktemp("sweep")
    results = folder / "results"
    file = sweep_file(folder, lr={"values": [0.05, 0.04, DIVERGES]})
    ids = [c.run_id for c in spec.load(file).configs]
    launcher = subprocess.Popen(
        [sys.executable, "-m", "tbn_bench.cli", "sweep", str(file), f"--results={results}"],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: ids[1] in stamp(results), launcher)
    finally:
        launcher.kill()
        launcher.wait()
    wait_for(lambda: free(results, ids[1]))
    j = SimpleNamespace(
        file=file, results=results, ids=ids, killed=(stamp(results), summary_ids(results))
    )
    with streams() as j.second:
        j.second_status = call(file, results, "--jobs=2")
    j.after_second = stamp(results)
    with streams() as j.third:
        j.third_status = call(file, results, "--jobs=2")
    j.after_third = stamp(results)
    return j


def free(results: Path, run_id: str) -> bool:
    """Whether no live process holds the run."""
    return not RunStore(results).is_held("journey", run_id)


def test_a_killed_launcher_leaves_what_was_done(journey):
    """After kill -9: the first run is finished, the last was never started."""
    stamps, finished = journey.killed
    assert list(stamps) == sorted(journey.ids[:2])
    assert journey.ids[0] in finished


def test_the_same_call_completes_the_same_runs(journey):
    """Every config of the file has a record, all but the diverging one a summary.

    What was finished was not started again.
    """
    stamps, finished = journey.killed
    assert set(journey.after_second) == set(journey.ids)
    assert summary_ids(journey.results) == set(journey.ids[:2])
    assert {i: journey.after_second[i] for i in finished} == {i: stamps[i] for i in finished}
    for run_id in journey.ids[:2]:
        assert [
            row["epoch"] for row in RunStore(journey.results).read("journey", run_id).rows()
        ] == [0, 1]


def test_a_failed_run_is_named_and_the_others_finish(journey):
    """Non-zero exit, its id and reason on stderr and in the closing JSON, its record diverged."""
    bad = journey.ids[2]
    said = json.loads(journey.second.out.splitlines()[-1])
    assert journey.second_status == 1
    assert (said["runs"], said["failed"], said["failed_ids"]) == (3, 1, [bad])
    assert said["skipped"] + said["finished"] == 2
    assert [
        line
        for line in journey.second.err.splitlines()
        if bad in line and "diverged" in line and "lower lr" in line
    ]
    assert RunStore(journey.results).read("journey", bad).status == "diverged"


def test_calling_again_retries_only_the_failed_run(journey):
    """The finished records are untouched, the failed one is started once more and named again."""
    changed = [i for i in journey.ids if journey.after_third[i] != journey.after_second[i]]
    said = json.loads(journey.third.out.splitlines()[-1])
    assert changed == [journey.ids[2]]
    assert (journey.third_status, said["skipped"], said["finished"], said["failed_ids"]) == (
        1,
        2,
        0,
        changed,
    )
    assert journey.ids[2] in journey.third.err


def test_a_finished_sweep_starts_nothing(journey, tmp_path, capsys, monkeypatch):
    """The same sweep without its failing config is done: no process starts, no byte changes, exit
    0.
    """
    monkeypatch.setattr(process, "start", lambda *args: pytest.fail("a run was started"))
    file, before = sweep_file(tmp_path, lr={"values": [0.05, 0.04]}), stamp(journey.results)
    assert call(file, journey.results) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["skipped"] == 2
    assert stamp(journey.results) == before


def test_dry_run_tells_done_from_to_run(journey, capsys, monkeypatch):
    """--dry-run lists every run with its state and starts nothing."""
    monkeypatch.setattr(process, "start", lambda *args: pytest.fail("a run was started"))
    assert call(journey.file, journey.results, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    states = [
        next(line for line in lines if line.startswith(i))
        .removeprefix(i)
        .split("tbn-bench")[0]
        .strip()
        for i in journey.ids
    ]
    assert states == ["done", "done", "to run"]
    said = json.loads(lines[-1])
    assert {"sweep": "journey", "runs": 3, "finished": 2, "to_run": 1}.items() <= said.items()
    assert said["estimated_seconds"] > 0


def test_two_launchers_share_the_work(tmp_path, monkeypatch):
    """Started together on one folder, both end well, and each run was trained by exactly one
    process.
    """
    logs, number = tmp_path / "logs", itertools.count()
    logs.mkdir()
    monkeypatch.setattr(
        process, "log_of", lambda store, name, run_id: logs / f"{run_id}.{next(number)}.txt"
    )  # one per process
    file, gate, results = (
        sweep_file(tmp_path, lr={"values": [0.05, 0.04]}),
        threading.Barrier(2),
        [],
    )

    def launch():
        gate.wait()
        results.append(local.run(spec.load(file), tmp_path / "results"))

    threads = [threading.Thread(target=launch) for _ in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    ids = [c.run_id for c in spec.load(file).configs]
    assert [(r["failed"], r["skipped"] + r["finished"]) for r in results] == [(0, 2), (0, 2)]
    assert len(list(logs.iterdir())) > 2  # they did compete
    for run_id in ids:
        trained = [log for log in logs.glob(f"{run_id}.*") if "epoch 1/2" in log.read_text()]
        assert len(trained) == 1
        record = RunStore(tmp_path / "results").read("journey", run_id)
        assert json.loads((record.path / "run.json").read_text())["status"] == "finished"
        assert [row["epoch"] for row in record.rows()] == [0, 1]


@pytest.fixture
def started(monkeypatch):
    """Run ids, in the order in which a process was started for them."""
    real, ids = process.start, []

    def start(sweep, store, config, *rest):
        ids.append(config.run_id)
        return real(sweep, store, config, *rest)

    monkeypatch.setattr(process, "start", start)
    return ids


def test_a_run_of_another_launcher_costs_no_process(tmp_path, started, capsys):
    """The first run is held: the second one is trained, none is started for the first, which ends
    elsewhere.
    """
    file, results = sweep_file(tmp_path, lr={"values": [0.05, 0.04]}), tmp_path / "results"
    elsewhere, own = spec.load(file).configs
    held = RunStore(results).claim(
        "journey", elsewhere.run_id, elsewhere.model_dump(mode="json"), {"trial": 0}
    )
    said = []
    launcher = threading.Thread(target=lambda: said.append(local.run(spec.load(file), results)))
    launcher.start()
    wait_for(lambda: summary_ids(results) == {own.run_id} or not launcher.is_alive())
    held.finish({"test/top1": 0.5, "seconds": 1.0})
    launcher.join()
    assert started == [own.run_id]
    assert (said[0]["finished"], said[0]["skipped"], said[0]["failed"]) == (1, 1, 0)
    assert capsys.readouterr().out.count(f"[held] {elsewhere.run_id}  another process runs it") == 1


def test_a_run_that_another_launcher_lost_is_taken_over(tmp_path, started):
    """Its process has ended without a result: it is run here, once."""
    file, results = sweep_file(tmp_path), tmp_path / "results"
    (config,) = spec.load(file).configs
    held = RunStore(results).claim(
        "journey", config.run_id, config.model_dump(mode="json"), {"trial": 0}
    )
    said = []
    launcher = threading.Thread(target=lambda: said.append(local.run(spec.load(file), results)))
    launcher.start()
    time.sleep(1)
    assert started == []
    held.release()
    launcher.join()
    assert started == [config.run_id]
    assert said[0]["finished"] == 1


def test_a_search_draws_nothing_while_another_launcher_holds_a_trial(
    tmp_path, started, monkeypatch
):
    """A draw made without that trial's result would be another one than the other launcher's, of
    the same number.
    """
    top = {"method": "bayes", "metric": {"name": "val/loss", "goal": "minimize"}, "run_cap": 2}
    file, results = sweep_file(tmp_path, lr={"min": 0.01, "max": 0.1}), tmp_path / "results"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | top))
    sweep, store = spec.load(file), RunStore(results)
    first = local.LocalLaunch(sweep, store, ExecutionOptions()).next().config
    held = store.claim("journey", first.run_id, first.model_dump(mode="json"), {"trial": 0})
    engine = local.LocalLaunch(sweep, store, ExecutionOptions())
    engine.step()
    assert (started, len(engine.planner.trials), len(engine.held)) == ([], 1, 1)
    held.release()


def test_looks_do_not_count_the_gpus(tmp_path, monkeypatch):
    """Counting them takes milliseconds, and a launcher looks ten times a second."""
    (tmp_path / "r").mkdir()
    how = ExecutionOptions(jobs=2)
    engine = local.LocalLaunch(spec.load(sweep_file(tmp_path)), RunStore(tmp_path / "r"), how)
    engine.exhausted = True
    monkeypatch.setattr(
        ExecutionOptions, "gpus", property(lambda self: pytest.fail("the GPUs were counted"))
    )
    engine.step()


def test_children_end_with_their_launcher(tmp_path):
    """A launcher that is killed takes its runs along, so that no orphan holds one."""
    pid_file, test = tmp_path / "pid", os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # fork beside threads: the child only starts a process
        launcher = os.fork()
    if launcher == 0:
        try:
            child = subprocess.Popen(["sleep", "600"], preexec_fn=process.die_with_parent)
            (tmp_path / "tmp").write_text(str(child.pid))
            (tmp_path / "tmp").rename(pid_file)
            while os.getppid() == test:
                time.sleep(0.05)
        finally:
            os._exit(1)  # never back into pytest
    try:
        wait_for(pid_file.exists)
        child = int(pid_file.read_text())
        assert not gone(child)
    finally:
        os.kill(launcher, signal.SIGKILL)
        os.waitpid(launcher, 0)
    try:
        wait_for(lambda: gone(child))
    finally:
        if not gone(child):
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"binarizer": {"values": ["bwn", "tbn(p=7, min_layer_size=0)"]}}, ["p=7", "must divide"]),
        ({"binarizer": {"values": ["bwn", "tnb(p=4)"]}}, ["did you mean 'tbn'"]),
        ({"model": {"values": ["mlp(hidden=[8])", "mlp(hiden=[8])"]}}, ["did you mean 'hidden'"]),
        ({"data": {"values": ["synthetic", "sinthetic"]}}, ["did you mean 'synthetic'"]),
        ({"lr": {"values": [0.1, -1]}}, ["lr", "greater than 0"]),
        ({"binariser": {"value": "bwn"}}, ["did you mean 'binarizer'"]),
        ({"lr": {"vales": [0.1]}}, ["did you mean 'values'"]),
        (
            {"model": {"values": ["mlp(hidden=[8])", "mlp(hidden=5)"]}},
            ["hidden must be Sequence[int], got 5"],
        ),
        (
            {"model": {"values": ["mlp(hidden=[8])", "mlp(hidden=[0])"]}},
            ["1.weight has no elements"],
        ),
        ({"optimizer": {"values": ["sgd", "adam(betas=[1])"]}}, ["betas must be two numbers"]),
        ({"task": {"value": "image_classification(config='1e-3')"}}, ["has no option 'config'"]),
    ],
)
def test_a_bad_config_is_found_before_the_first_start(
    parameters, said, tmp_path, capsys, monkeypatch
):
    """Exit 1 with the fault named, although the first config is good: nothing starts, no folder
    appears.
    """
    monkeypatch.setattr(process, "start", lambda *args: pytest.fail("a run was started"))
    assert call(sweep_file(tmp_path, **parameters), tmp_path / "results") == 1
    error = capsys.readouterr().err
    assert [word for word in said if word not in error] == []
    assert "Traceback" not in error
    assert not (tmp_path / "results").exists()


def test_an_unknown_key_of_the_file_is_answered_with_the_nearest(tmp_path, capsys):
    """`paramters:` at the top of the file: exit 1, the file's name and did-you-mean."""
    path = sweep_file(tmp_path)
    path.write_text(path.read_text().replace("parameters:", "paramters:"))
    assert call(path, tmp_path / "results") == 1
    error = capsys.readouterr().err
    assert "did you mean 'parameters'" in error
    assert str(path) in error


def test_niceness_is_that_of_the_session_too():
    """Linux shares the processor among sessions, and every run of a sweep is one: its own niceness
    alone would do nothing.
    """
    if not Path("/proc/self/autogroup").exists():
        pytest.skip("this kernel has no autogroups")
    script = "import os; print(os.nice(0), open('/proc/self/autogroup').read().split()[-1])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        preexec_fn=lambda: process.in_child(7),
        start_new_session=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(min(os.nice(0) + 7, 19)), "7"]


def test_each_run_gets_threads_that_wait_and_an_allocator_that_keeps_its_blocks(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    one, other = ExecutionOptions(jobs=2, threads=3).slots
    assert one == other
    assert one["OMP_NUM_THREADS"] == "3"
    assert one["OMP_WAIT_POLICY"] == "passive"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert ExecutionOptions().slots[0]["OMP_WAIT_POLICY"] == "active"
    assert int(one["MALLOC_TRIM_THRESHOLD_"]) > 1e9


@pytest.mark.parametrize(
    ("option", "words"),
    [({"nice": 20}, "--nice must lie between 0 and 19"), ({"threads": 0}, "--threads must be")],
)
def test_impossible_execution_options_are_refused(option, words):
    with pytest.raises(ValueError, match=words):
        ExecutionOptions(**option)
