"""Guards warm processes: a run that is forked is what a process of its own would be.

Most tests fork small scripts from a program that loads nothing, so that they take no seconds.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from kept_warm import gone

from tbn_bench import cli
from tbn_bench.records.store import RunStore
from tbn_bench.records.summary import TIMES
from tbn_bench.sweep import forking, local, process, spec, warm
from tbn_bench.sweep.execution import ExecutionOptions
from tbn_bench.sweep.process import Command

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs are forked on Linux alone")

PROGRAM = """
import socket, sys
from tbn_bench.sweep import forking
forking._load = lambda: sys.stdout.flush()
print("imported")
arguments = forking.serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
exec(arguments[0])
"""
SLEEP = "import time; print('asleep', flush=True); time.sleep(600)"
START, CLOSE, FITS = warm.WarmSlots.start, warm.WarmSlots.close, warm.WarmProcess.fits
STATE = """
import json, os, signal, sys
files = {os.readlink(f"/proc/self/fd/{n}") for n in (1, 2)}
print(json.dumps({
    "pid": os.getpid(), "session": os.getsid(0), "group": os.getpgid(0), "nice": os.nice(0), "folder": os.getcwd(),
    "environment": dict(os.environ), "files": sorted(files), "input": os.readlink("/proc/self/fd/0"),
    "interrupts": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
}))
"""  # fmt: skip


class Script(Command):
    """A command whose own process is a script too. It marks its log."""

    def start(self):
        with self.log.open("a") as out:
            out.write("a process of its own\n")
            out.flush()
            return subprocess.Popen(
                [sys.executable, "-c", self.arguments[0]],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.environment,
                preexec_fn=lambda: process.in_child(self.nice),
                start_new_session=True,
            )


@pytest.fixture
def slots(monkeypatch, own_slots):
    """The slots of a launch whose warm processes load nothing."""
    monkeypatch.setattr(warm, "_PROGRAM", ("-c", PROGRAM))
    found = own_slots(ExecutionOptions())
    yield found
    found.close()


@pytest.fixture
def own_slots(monkeypatch):
    """WarmSlots, which the tests of a session do not share here (tests/kept_warm.py)."""
    monkeypatch.setattr(warm.WarmSlots, "start", START)
    monkeypatch.setattr(warm.WarmSlots, "close", CLOSE)
    monkeypatch.setattr(warm.WarmProcess, "fits", FITS)
    return warm.WarmSlots


@pytest.fixture
def script(tmp_path):
    """script(code, nice) -> its command."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return lambda code, nice=0: Script([code], environment, nice, tmp_path / "log.txt")


def wait_for(event):
    """Polls until event() is true; the test's own time limit is the limit."""
    pause = threading.Event()
    while not event():
        pause.wait(0.005)


def asleep(command):
    return lambda: command.log.exists() and "asleep" in command.log.read_text()


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("print('done')", 0),
        ("import sys; sys.exit(75)", 75),
        ("raise ValueError('no')", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("import signal; signal.raise_signal(signal.SIGTERM)", -15),
    ],
)
def test_exit_statuses_are_those_of_a_process(slots, script, code, status):
    assert slots.start(0, script(code)).wait(60) == status
    assert script(code).start().wait(60) == status


def test_a_forked_process_has_the_state_of_its_own_process(slots, script):
    """Session, group, niceness, folder, environment, open files and SIGINT."""
    states = []
    for start in (lambda command: slots.start(0, command), lambda command: command.start()):
        command = script(STATE, nice=3)
        started = start(command)
        assert started.wait(60) == 0
        state = json.loads(command.log.read_text().splitlines()[-1])
        for name in ("pid", "session", "group"):
            assert state.pop(name) == started.pid
        states.append(state)
    assert states[0] == states[1]
    assert states[0]["nice"] == os.nice(0) + 3


def test_runs_of_a_slot_are_forked_from_one_process(slots, script):
    """What its imports have printed is in every log, as if each run had imported it."""
    runs = []
    for number in range(3):
        command = script(f"import sys; print({number}); print('fault', file=sys.stderr)")
        command.log.write_text("")
        runs.append(slots.start(0, command))
        assert runs[-1].wait(60) == 0
        assert sorted(command.log.read_text().split()) == sorted(["imported", str(number), "fault"])
    assert len({run.pid for run in runs}) == 3
    assert list(slots.processes) == [0]


def test_signals_reach_a_run_and_what_it_has_started(slots, script):
    code = (
        f"import subprocess; child = subprocess.Popen(['sleep', '600']); print(child.pid); {SLEEP}"
    )
    command = script(code)
    run = slots.start(0, command)
    wait_for(asleep(command))
    assert run.poll() is None
    child = int(command.log.read_text().split()[-2])
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait(60) == -9
    wait_for(lambda: gone(child))


def test_an_interrupted_run_can_end_in_its_own_way(slots, script):
    code = f"try:\n    {SLEEP}\nexcept KeyboardInterrupt:\n    raise SystemExit(130)"
    command = script(code.replace("; ", "\n    "))
    run = slots.start(0, command)
    wait_for(asleep(command))
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130


def test_a_wait_for_a_run_can_end_before_it(slots, script):
    run = slots.start(0, script(SLEEP))
    with pytest.raises(subprocess.TimeoutExpired):
        run.wait(0.01)


def test_a_run_goes_on_alone_when_its_warm_process_dies(slots, script, capfd):
    """It starts once more as a process of its own, as do the later runs of the slot."""
    command = script(SLEEP)
    run = slots.start(0, command)
    wait_for(asleep(command))
    assert run.poll() is None
    forked = run.pid
    slots.processes[0].send_signal(signal.SIGKILL)
    wait_for(lambda: run.poll() is None and run.pid != forked)
    assert gone(forked)
    wait_for(lambda: command.log.read_text().count("asleep") == 2)
    run.send_signal(signal.SIGKILL)
    assert run.wait(60) == -9
    later = slots.start(0, script("print('later')"))
    assert later.wait(60) == 0
    assert command.log.read_text().splitlines()[-2:] == ["a process of its own", "later"]
    assert f"[alone] the warm process {slots.processes[0].pid} is gone" in capfd.readouterr().out


def test_a_lost_warm_process_is_reported_once(slots, script, capfd):
    """Whether it dies during a run or between two; the line names the process and the slot."""
    assert slots.start(0, script("print('done')")).wait(60) == 0
    lost = slots.processes[0]
    lost.send_signal(signal.SIGKILL)
    wait_for(lambda: gone(lost.pid))
    for _ in range(2):
        assert slots.start(0, script("print('done')")).wait(60) == 0
    (line,) = capfd.readouterr().out.splitlines()
    assert line.startswith("[alone] ")
    assert line.endswith("the runs of slot 0 are processes of their own")


def test_a_run_that_is_stopped_does_not_go_on_alone(slots, script):
    """The signal came before the fork: it ends the warm process."""
    run = slots.start(0, script(SLEEP))
    assert run.pid == slots.processes[0].pid
    run.send_signal(signal.SIGKILL)
    assert run.wait(60) == -9


def test_a_warm_process_that_cannot_load_the_code_is_replaced(monkeypatch, own_slots, script):
    monkeypatch.setattr(warm, "_PROGRAM", ("-c", "raise ImportError('broken')"))
    slots = own_slots(ExecutionOptions())
    command = script("print('trained')")
    assert slots.start(0, command).wait(60) == 0
    slots.close()
    assert command.log.read_text().split("\n")[:2] == ["a process of its own", "trained"]


def test_closed_slots_leave_no_process(slots, script):
    command = script(SLEEP)
    run = slots.start(0, command)
    wait_for(asleep(command))
    run.poll()
    pids = (run.pid, slots.processes[0].pid)
    assert len(set(pids)) == 2
    slots.close()
    wait_for(lambda: all(gone(pid) for pid in pids))


LAUNCHER = """
import os, sys, time
from pathlib import Path
from tbn_bench.sweep import warm
from tbn_bench.sweep.execution import ExecutionOptions
from tbn_bench.sweep.process import Command
warm._PROGRAM = ("-c", sys.argv[1])
slots = warm.WarmSlots(ExecutionOptions())
run = slots.start(0, Command([sys.argv[2]], dict(os.environ), 0, Path(sys.argv[3])))
while run.pid == slots.processes[0].pid:
    run.poll()
print(run.pid, slots.processes[0].pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("dies_with_parent", [True, False])
def test_a_launcher_that_is_killed_leaves_no_process(tmp_path, dies_with_parent):
    """By the kernel's signal, and without it by the socket that has closed."""
    program = PROGRAM
    if not dies_with_parent:
        program = f"import ctypes; ctypes.CDLL(None).prctl(1, 0)\n{PROGRAM}"
    words = [sys.executable, "-c", LAUNCHER, program, SLEEP, str(tmp_path / "log.txt")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as launcher:
        pids = [int(word) for word in launcher.stdout.readline().split()]
        assert len(pids) == 2
        assert not any(gone(pid) for pid in pids)
        launcher.kill()
    wait_for(lambda: all(gone(pid) for pid in pids))


def test_other_code_or_another_environment_needs_another_process(
    slots, script, monkeypatch, tmp_path
):
    """Else a run would be recorded with the fingerprint of code that it has not run."""
    monkeypatch.setattr(warm, "_PACKAGE", tmp_path)
    source = tmp_path / "binarizers" / "own.py"
    source.parent.mkdir()
    source.write_text("A = 1\n")
    pids = []

    def run():
        assert slots.start(0, script("")).wait(60) == 0
        pids.append(slots.processes[0].pid)

    run()
    run()
    source.write_text("A = 12\n")
    run()
    assert pids[0] == pids[1] != pids[2]
    other = Script([""], os.environ | {"TBN_BENCH_DATA": "elsewhere"}, 0, tmp_path / "log.txt")
    assert slots.start(0, other).wait(60) == 0
    assert slots.processes[0].pid != pids[2]


@pytest.mark.parametrize(
    ("options", "system", "possible"),
    [
        ({}, "linux", True),
        ({}, "darwin", False),
        ({"device": "cuda"}, "linux", False),
        ({"compile": True}, "linux", False),
        ({"warm": False}, "linux", False),
    ],
)
def test_runs_are_forked_where_that_is_safe(options, system, possible, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    assert warm.is_possible(ExecutionOptions(**options)) is possible


def test_a_process_that_has_used_cuda_is_not_forked(monkeypatch):
    cuda = SimpleNamespace(is_initialized=lambda: True)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with pytest.raises(RuntimeError, match="has used CUDA cannot be forked"):
        forking._check()


@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [
        (["train", "--epochs=1"], {"sklearn.datasets"}),
        (["train", "--data=digits(size=16)"], {"sklearn.datasets"}),
        (["train", "--data=synthetic"], set()),
        (["train", "--data=synthetic", "--wandb=off"], set()),
        (["train", "--data=synthetic", "--wandb=offline"], {"wandb", "wandb.sdk.launch"}),
    ],
)
def test_a_run_s_libraries_are_loaded_once_for_all_runs(monkeypatch, arguments, loaded):
    """Before the fork; each run would need half a second for each of them."""
    asked = []
    monkeypatch.setattr(forking, "import_module", asked.append)
    forking._load_for(arguments)
    assert set(asked) & {"sklearn.datasets", "wandb", "wandb.sdk.launch"} == loaded


def test_a_library_that_is_missing_is_left_to_the_run(monkeypatch):
    def missing(module):
        raise ModuleNotFoundError(module)

    monkeypatch.setattr(forking, "import_module", missing)
    forking._load_for(["train", "--wandb=offline"])


def test_a_warm_process_serves_every_folder(slots, script, monkeypatch, tmp_path):
    """Runs of one process are each in the launcher's folder, and import from there."""
    command = script("import os; print(os.getcwd())")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert slots.start(0, command).wait(60) == 0
    shown = [line for line in command.log.read_text().splitlines() if line != "imported"]
    assert shown == [str(tmp_path / "a"), str(tmp_path / "b")]
    monkeypatch.setattr(sys, "path", [str(tmp_path / "b"), "elsewhere"])
    forking._move(str(tmp_path / "b"), str(tmp_path / "a"))
    assert sys.path == [str(tmp_path / "a"), "elsewhere"]


def test_a_process_with_threads_is_not_forked():
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="with threads cannot be forked"):
            forking._check()
    finally:
        done.set()
        thread.join()


def test_no_warm_is_an_option_of_a_sweep(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(
        local, "run", lambda sweep, results, options, *rest: found.append(options) or {}
    )
    file = sweep_file(tmp_path)
    cli.main(["sweep", str(file)])
    cli.main(["sweep", str(file), "--no-warm"])
    assert [options.warm for options in found] == [True, False]


def sweep_file(folder: Path) -> Path:
    values = {
        "data": "synthetic",
        "model": "resnet_cifar(depth=8, width=4)",
        "binarizer": "tbn(p=4, min_layer_size=0)",
        "epochs": 1,
        "batch_size": 16,
    }
    parameters = {name: {"value": value} for name, value in values.items()}
    parameters["seed"] = {"values": [0, 1]}
    path = folder / "warm.yaml"
    path.write_text(yaml.safe_dump({"name": "warm", "method": "grid", "parameters": parameters}))
    return path


def content(record) -> dict:
    """All that is recorded of a run, without what is measured in seconds."""

    def timeless(row):
        return {name: value for name, value in row.items() if name not in TIMES}

    header = json.loads((record.path / "run.json").read_text())
    for times in (header, header["provenance"]):
        for name in ("started", "ended"):
            times.pop(name, None)
    return {
        "header": header,
        "rows": [timeless(row) for row in record.rows()],
        "summary": timeless(record.summary),
        "network": (record.path / "network.safetensors").read_bytes(),
        "files": sorted(path.name for path in record.path.iterdir()),
    }


def test_a_forked_run_has_the_record_of_its_own_process(tmp_path):
    """To the bit, with two threads; and the process that forks has one thread."""
    sweep = spec.load(sweep_file(tmp_path))
    threads = []
    real = warm.WarmProcess.order

    def order(self, command):
        if self.has_forked:
            threads.append(len(list(Path(f"/proc/{self.pid}/task").iterdir())))
        real(self, command)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm.WarmProcess, "order", order)
        local.run(sweep, tmp_path / "warm", ExecutionOptions(threads=2))
    local.run(sweep, tmp_path / "own", ExecutionOptions(threads=2, warm=False))
    assert set(threads) == {1}  # earlier tests may have forked from this process, too
    for config in sweep.configs:
        forked = RunStore(tmp_path / "warm").read("warm", config.run_id)
        own = RunStore(tmp_path / "own").read("warm", config.run_id)
        assert content(forked) == content(own)
        words = [process.log_of(RunStore(tmp_path / name), "warm", config.run_id) for name in ("warm", "own")]  # fmt: skip
        assert len({len(log.read_text().splitlines()) for log in words}) == 1
