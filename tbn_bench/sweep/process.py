"""One `tbn-bench train`: started in its slot, watched, stopped.

It is a process of its own, or forked from the slot's warm process (warm.py).
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tbn_bench.config import RunConfig
from tbn_bench.records.files import RecordError
from tbn_bench.records.store import RunStore
from tbn_bench.sweep.execution import ExecutionOptions

if TYPE_CHECKING:
    from tbn_bench.sweep.warm import WarmSlots

PATIENCE = 20  # seconds that a process has to record its interruption
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG
# places in /proc/PID/stat behind the name of the program
_SESSION = 3
_RESIDENT_PAGES = 21


def log_of(store: RunStore, sweep: str, run_id: str) -> Path:
    """The file of what the processes of a run have printed, one attempt after the other."""
    return store.root / "logs" / sweep / f"{run_id}.txt"


def die_with_parent() -> None:
    """Called in the child, so that no orphan holds a run.

    On Linux the child is terminated when the launcher dies, even by SIGKILL. The child also listens
    to SIGINT, by which the launcher stops it: a launcher that a script has started in the
    background ignores that signal, and its children would too.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    terminate_with_parent()


def terminate_with_parent() -> None:
    """On Linux this process gets SIGTERM when the thread that started it ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)


def in_child(nice: int) -> None:
    """Called in the child before its program starts. nice: added to its niceness."""
    die_with_parent()
    if nice:
        os.nice(nice)
        lower_session(nice)


def lower_session(nice: int) -> None:
    """Sets the niceness of this session.

    Linux weighs whole sessions against each other, and a run has a session of its own.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(nice))


class Process(Protocol):
    """The part of subprocess.Popen that a launcher needs. The process leads its session."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...


@dataclass(frozen=True)
class Command:
    """`tbn-bench train` for an attempt. arguments: behind `tbn-bench`. log: file of its output."""

    arguments: list[str]
    environment: dict[str, str]
    nice: int
    log: Path

    def start(self) -> subprocess.Popen[bytes]:
        """Starts a process of its own, which adds to the log. Raises OSError."""
        with self.log.open("a") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "tbn_bench.cli", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.environment,
                preexec_fn=partial(in_child, self.nice),
                start_new_session=True,
            )


@dataclass
class Attempt:
    """A live process of a run. stopping: why the launcher is stopping it, once it is."""

    process: Process
    config: RunConfig
    slot: int
    number: int
    started: float = field(default_factory=time.monotonic)
    stopping: str | None = None
    asked_at: float = 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def passed_limit(self, options: ExecutionOptions) -> str | None:
        """The limit that it has passed, in words."""
        used = 0
        if options.memory_limit_gb is not None:
            used = resident_bytes(self.process.pid)
        return options.passed_limit(self.seconds, used)

    def stop(self, why: str) -> None:
        """Asks it to record its interruption and to end.

        A later call kills it, with what it has started, if PATIENCE is over.
        """
        if self.stopping is None:
            self.stopping = why
            self.asked_at = time.monotonic()
            self.process.send_signal(signal.SIGINT)
            return
        waited = time.monotonic() - self.asked_at
        if waited > PATIENCE and self.process.poll() is None:
            # it leads a session, so its group is its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def start(
    sweep: str,
    store: RunStore,
    config: RunConfig,
    options: ExecutionOptions,
    slot: int = 0,
    number: int = 1,
    trial: int = 0,
    warm: "WarmSlots | None" = None,
) -> Attempt:
    """Starts attempt `number` of a run, the sweep's trial `trial`, in a slot.

    warm: forks it; None: a process of its own. Raises RecordError if its log cannot be written.
    """
    extra = options.slots[slot]
    arguments = [
        *("train", "--quiet"),
        f"--sweep={sweep}",
        f"--results={store.root}",
        f"--threads={extra['OMP_NUM_THREADS']}",
        f"--trial={trial}",
        *options.flags,
        *_config_flags(config),
    ]
    log = log_of(store, sweep, config.run_id)
    command = Command(arguments, {**os.environ, **extra}, options.nice, log)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        if number == 1:
            log.write_bytes(b"")
        process = command.start() if warm is None else warm.start(slot, command)
    except OSError as error:
        raise RecordError(
            f"cannot write {log}: {error.strerror}; choose another folder with --results"
        ) from error
    return Attempt(process, config, slot, number)


def _config_flags(config: RunConfig) -> list[str]:
    flags = []
    for name, value in config.non_defaults.items():
        if name == "keep":
            value = ",".join(value)
        flags.append(f"--{name}={value}")
    return flags


def resident_bytes(session: int) -> int:
    """Memory that the processes of a session hold (Linux; 0 without /proc)."""
    pages = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[_SESSION]) == session:
                pages += int(fields[_RESIDENT_PAGES])
    return pages * os.sysconf("SC_PAGE_SIZE") if pages else 0
