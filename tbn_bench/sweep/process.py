"""One `tbn-bench train` in a process of its own: started in its slot, watched, stopped."""

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

from tbn_bench.config import RunConfig
from tbn_bench.records.files import RecordError
from tbn_bench.records.store import RunStore
from tbn_bench.sweep.execution import ExecutionOptions

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
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)


def _in_child(nice: int) -> None:
    die_with_parent()
    if nice:
        os.nice(nice)
        # Linux weighs whole sessions against each other, and a run has a session of its own
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(nice))


@dataclass
class Attempt:
    """A live process of a run. stopping: why the launcher is stopping it, once it is."""

    process: subprocess.Popen[bytes]
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
) -> Attempt:
    """Starts attempt `number` of a run, the sweep's trial `trial`, in a slot.

    Raises RecordError if its log cannot be written.
    """
    extra = options.slots[slot]
    command = [
        *(sys.executable, "-m", "tbn_bench.cli", "train", "--quiet"),
        f"--sweep={sweep}",
        f"--results={store.root}",
        f"--threads={extra['OMP_NUM_THREADS']}",
        f"--trial={trial}",
        *options.flags,
        *_config_flags(config),
    ]
    log = log_of(store, sweep, config.run_id)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w" if number == 1 else "a") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **extra},
                preexec_fn=partial(_in_child, options.nice),
                start_new_session=True,
            )
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
