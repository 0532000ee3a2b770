"""Guards locks: they end with their process, who only looks is in nobody's way, no locks are named."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tbn_bench import cli
from tbn_bench.records import locks
from tbn_bench.records.files import RecordError
from tbn_bench.records.locks import LockError
from tbn_bench.records.run import RunBusy
from tbn_bench.records.store import RunStore
from tbn_bench.runs import lock

HOLDER = """
import sys
from pathlib import Path
from tbn_bench.records import locks
held = locks.take(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""
NO_LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]
TINY = ["--data=synthetic", "--model=mlp(hidden=[8])", "--epochs=1", "--batch_size=16"]


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "results")


@pytest.fixture
def refusing(monkeypatch):
    """refusing(error): from now on, the file system answers every lock with this error."""

    def refuse(error: Exception) -> None:
        def lock_descriptor(fd, *, blocking=True):
            raise error

        monkeypatch.setattr(locks, "lock_descriptor", lock_descriptor)

    return refuse


def end(store: RunStore, run_id: str = "r") -> Path:
    """A run that has failed, whose folder and lock file stay."""
    run = store.claim("s", run_id, {"seed": 0}, {})
    run.fail("failed", "out of memory")
    return run.path


def look_for_a_moment(path: Path, seconds: float = 0.3) -> threading.Timer:
    """Holds the lock as a reader does on a machine that is so busy that the moment lasts."""
    held = locks.take(path / "owner.lock")
    timer = threading.Timer(seconds, held.release)
    timer.start()
    return timer


# Locks


def test_one_holder_at_a_time(tmp_path):
    path = tmp_path / "a.lock"
    first = locks.take(path)
    assert locks.is_held(path)
    assert locks.take(path, wait_s=0) is None
    first.release()
    first.release()
    assert not locks.is_held(path)
    with locks.take(path):
        assert locks.is_held(path)
    assert not locks.is_held(path)
    assert path.exists()


def test_a_killed_process_leaves_no_lock(tmp_path):
    path = tmp_path / "a.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout.readline() == b"held\n"
        assert locks.is_held(path)
        holder.kill()
    assert not locks.is_held(path)
    locks.take(path, wait_s=0).release()


def test_a_missing_file_is_not_held(tmp_path):
    assert not locks.is_held(tmp_path / "none.lock")
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_flock(tmp_path):
    """Another version of this package, which calls flock itself, respects our locks, and we respect its."""
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "a.lock"
    with locks.take(path), path.open("w") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert locks.is_held(path)
        assert locks.take(path, wait_s=0) is None


def test_a_released_lock_is_free_although_a_child_has_the_file_open(tmp_path):
    """Workers that load data are forked: they have every open file of the run's process."""
    held = locks.take(tmp_path / "a.lock")
    copy = os.dup(held._file.fileno())
    try:
        held.release()
        assert not locks.is_held(tmp_path / "a.lock")
    finally:
        os.close(copy)


def test_two_who_look_do_not_see_each_other(tmp_path, monkeypatch):
    """The lock of another reader is gone at the next look."""
    path = tmp_path / "a.lock"
    other = locks.take(path)
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: other.release())
    assert not locks.is_held(path)


def test_a_folder_that_was_moved_away_is_not_locked(tmp_path):
    """As `runs verify --set-aside` does, under the lock: who waits for it must not get the moved file."""
    old, new = tmp_path / "run", tmp_path / "aside"
    old.mkdir()
    held = locks.take(old / "owner.lock")

    def move():
        old.rename(new)
        held.release()

    timer = threading.Timer(0.2, move)
    timer.start()
    assert locks.take(old / "owner.lock") is None
    timer.join()
    assert not locks.is_held(new / "owner.lock")


def test_what_was_opened_before_the_move_is_not_locked(tmp_path, monkeypatch):
    """The file is moved, and another takes its place, between opening and locking it."""
    path = tmp_path / "owner.lock"
    real = locks._locks

    def moved_first(file, where):
        path.rename(tmp_path / "aside")
        path.touch()
        return real(file, where)

    monkeypatch.setattr(locks, "_locks", moved_first)
    assert locks.take(path, wait_s=0) is None


# Runs


def test_who_looks_does_not_make_a_claim_fail(store):
    """`tbn-bench runs` holds the lock for a moment: the run is not busy, and is taken after it."""
    path = end(store)
    looking = look_for_a_moment(path)
    store.claim("s", "r", {"seed": 0}, {}).release()
    looking.join()


def test_who_looks_does_not_keep_a_reason_from_the_record(store):
    path = end(store)
    looking = look_for_a_moment(path)
    store.mark("s", "r", "failed", "time limit", {"seed": 0}, None)
    looking.join()
    assert store.read("s", "r").error == "time limit"


def test_who_looks_does_not_keep_prune_away(store):
    path = end(store)
    looking = look_for_a_moment(path)
    with lock.taken(path) as mine:
        assert mine
    looking.join()


def test_a_run_that_is_moved_away_is_busy(store):
    """The sweep looks again later, and makes the run anew."""
    path = end(store)
    held = locks.take(path / "owner.lock")

    def move():
        path.rename(path.with_name("aside"))
        held.release()

    timer = threading.Timer(0.2, move)
    timer.start()
    with pytest.raises(RunBusy):
        store.claim("s", "r", {"seed": 0}, {})
    timer.join()
    store.claim("s", "r", {"seed": 0}, {}).release()


# Without locks


@pytest.mark.parametrize("number", NO_LOCKS)
def test_a_file_system_without_locks_is_named(store, refusing, number):
    """Not taken for a run that another process has: the folder, the reason and what to do."""
    path = end(store)
    refusing(OSError(number, os.strerror(number)))
    said = (
        f"cannot lock owner.lock in {path} .*{os.strerror(number)}.* no locks; use a local folder"
    )
    with pytest.raises(RecordError, match=said) as caught:
        store.claim("s", "r", {"seed": 0}, {})
    assert not isinstance(caught.value, RunBusy)
    with pytest.raises(LockError, match="gives no locks"):
        locks.is_held(path / "owner.lock")
    with pytest.raises(RecordError, match="gives no locks"):
        store.check_locks()


def test_a_python_without_locks_is_named(store, refusing):
    refusing(NotImplementedError())
    with pytest.raises(RecordError, match="gives no locks; use a local folder with --results"):
        store.claim("s", "r", {"seed": 0}, {})


def test_another_fault_of_a_lock_is_not_taken_for_missing_locks(store, refusing):
    refusing(OSError(errno.EIO, os.strerror(errno.EIO)))
    with pytest.raises(RecordError, match="Input/output error.*try again") as caught:
        store.claim("s", "r", {"seed": 0}, {})
    assert "gives no locks" not in str(caught.value)


def test_readers_need_no_locks(store, refusing):
    """What cannot be told is taken for a run that goes on."""
    path = end(store)
    refusing(OSError(errno.ENOLCK, "No locks available"))
    assert lock.held(path)
    assert store.read("s", "r").status == "failed"
    with lock.taken(path) as mine:
        assert not mine


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_commands_end_where_there_are_no_locks(command, tmp_path, refusing, capsys):
    """One line, exit status 1, and no wait."""
    refusing(OSError(errno.ENOLCK, os.strerror(errno.ENOLCK)))
    results = tmp_path / "results"
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "name: s\nmethod: grid\nparameters: {data: {value: synthetic}, epochs: {value: 1}}\n"
    )
    what = [*TINY, "--wandb=off", "--quiet"] if command == "train" else [str(file)]
    assert cli.main([command, *what, f"--results={results}"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"tbn-bench {command}: error: cannot lock ")
    assert f"in {results}" in line
    assert line.endswith("its file system gives no locks; use a local folder with --results")


def test_locks_that_work_leave_nothing_behind(store):
    store.check_locks()
    assert list((store.root / "runs").iterdir()) == []


# Windows

IMPORT = """
import asyncio  # from Python 3.12 on it calls os.sysconf, which Windows' form of it does not
import importlib, os, pkgutil, signal, sys, warnings
for name in sys.argv[1:]:
    sys.modules[name] = None
for module, names in ((signal, ("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "pthread_kill")),
                      (os, ("fork", "killpg", "setsid", "nice", "getpgid", "geteuid", "sysconf"))):
    for name in names:
        delattr(module, name)
warnings.simplefilter("ignore")  # filelock's, of a Unix without fcntl
for part in ("cli", "records", "runs", "reporting", "sweep", "tracking"):
    module = importlib.import_module(f"tbn_bench.{part}")
    print(module.__name__)
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), module.__name__ + "."):
        importlib.import_module(found.name)
        print(found.name)
"""


def test_reports_and_sweeps_import_without_unix():
    """Without modules and functions that Windows lacks. Of the rest, test_floors reads the imports."""
    unix = ["fcntl", "resource", "termios", "pty", "tty", "pwd", "grp"]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, *unix],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert {"tbn_bench.cli.parser", "tbn_bench.sweep.local", "tbn_bench.reporting.build"} <= set(
        done.stdout.split()
    )
