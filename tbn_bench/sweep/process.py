"""One `tbn-bench train` in a process of its own: started with its share of the machine, watched, stopped."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tbn_bench.config import RunConfig
from tbn_bench.records.store import RecordError, RunStore

# glibc gives large blocks back to the system at every step, and half of a step is spent on page faults, unless it is told
# to keep them (LOG.md, "PointNet in minutes")
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "8000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000"}
MANY = 1000  # jobs, retries or threads: more is a slip of the hand, and takes a machine down
PATIENCE = 20  # seconds that a process has to record its interruption


@dataclass(frozen=True)
class How:
    """How the runs of a sweep are carried out; nothing here enters a run's id.

    jobs: at once; None: one per GPU slot with device="cuda", else 1. per_gpu: runs that share a GPU. retries: further attempts of a run that
    crashed, from its last checkpoint. threads: of each run; None: its share of the cores. nice: added to the niceness of each run, 0 to 19,
    so that other work goes first. time_limit_s, memory_limit_gb: of one attempt; memory is the resident one of all its processes.
    Raises ValueError for what cannot be.
    """

    jobs: int | None = None
    wandb: str = "off"
    device: str = "cpu"
    channels_last: bool = False
    compile: bool = False
    retries: int = 1
    time_limit_s: float | None = None
    memory_limit_gb: float | None = None
    per_gpu: int = 1
    trackers: tuple[str, ...] = ()
    threads: int | None = None
    nice: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.nice <= 19:
            raise ValueError(f"--nice must lie between 0 and 19, got {self.nice}")
        for name, least in (("jobs", 1), ("retries", 0), ("per_gpu", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(
                    f"--{name.replace('_', '-')} must be at least {least}, got {value}"
                )
            if value is not None and value > MANY:
                raise ValueError(
                    f"--{name.replace('_', '-')} must be at most {MANY:,}, got {value:,}"
                )
        for flag, limit in (
            ("--time-limit", self.time_limit_s),
            ("--memory-limit", self.memory_limit_gb),
        ):
            if limit is not None and not limit > 0:
                raise ValueError(f"{flag} must be more than 0, got {limit}")

    @property
    def gpus(self) -> list[str]:
        """Names for CUDA_VISIBLE_DEVICES: those that this process may see."""
        if self.device != "cuda":
            return []
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            return [name for name in visible.split(",") if name.strip()]
        import torch

        return [str(i) for i in range(torch.cuda.device_count())]

    @property
    def slots(self) -> list[dict[str, str]]:
        """What each of the runs at once has in its environment: a GPU, shared by per_gpu of them, and its share of the cores."""
        gpus = self.gpus * self.per_gpu
        count = self.jobs or max(1, len(gpus))
        threads = str(self.threads or max(1, (os.cpu_count() or 1) // count))
        return [
            {**ALLOCATOR, "OMP_NUM_THREADS": threads}
            | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {})
            for i in range(count)
        ]

    @property
    def flags(self) -> list[str]:
        """Of `tbn-bench train`, the same for all runs."""
        switches = [
            flag
            for flag, on in (("--channels-last", self.channels_last), ("--compile", self.compile))
            if on
        ]
        return [
            f"--wandb={self.wandb}",
            f"--device={self.device}",
            *switches,
            *(f"--tracker={name}" for name in self.trackers),
        ]


def log_of(store: RunStore, sweep: str, run_id: str) -> Path:
    """What the processes of a run have printed, one attempt after the other."""
    return store.root / "logs" / sweep / f"{run_id}.txt"


def die_with_parent() -> None:
    """In the child: be terminated when the launcher dies, even by SIGKILL, so that no orphan holds a run (Linux); and listen to SIGINT, by
    which the launcher asks it to end: a launcher in the background of a script was started with that ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _in_child(nice: int) -> None:
    """Linux weighs whole sessions against each other (autogroups), and a run has a session of its own: that gets the niceness too."""
    die_with_parent()
    if nice:
        os.nice(nice)
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(nice))


@dataclass
class Attempt:
    """A live process of a run. over: why the launcher is stopping it, once it is."""

    process: subprocess.Popen
    config: RunConfig
    slot: int
    number: int
    started: float = field(default_factory=time.monotonic)
    over: str | None = None
    asked_at: float = 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def beyond(self, how: How) -> str | None:
        """Which limit it has passed, in words."""
        if how.time_limit_s is not None and self.seconds > how.time_limit_s:
            return f"time limit of {how.time_limit_s:g} s passed"
        if (
            how.memory_limit_gb is not None
            and (used := resident_bytes(self.process.pid)) > how.memory_limit_gb * 1e9
        ):
            return f"memory limit of {how.memory_limit_gb:g} GB passed ({used / 1e9:.2f} GB)"
        return None

    def stop(self, why: str) -> None:
        """Asks it to record its interruption and end; called again and again, kills it (with what it started) when patience is out."""
        if self.over is None:
            self.over, self.asked_at = why, time.monotonic()
            self.process.send_signal(signal.SIGINT)
        elif time.monotonic() - self.asked_at > PATIENCE and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(
                    self.process.pid, signal.SIGKILL
                )  # a session of its own: the group is its own too


def start(
    sweep: str,
    store: RunStore,
    config: RunConfig,
    how: How,
    slot: int = 0,
    number: int = 1,
    trial: int = 0,
) -> Attempt:
    """Starts attempt `number` of a run, the sweep's trial `trial`, in a slot. Raises RecordError where its log cannot be written."""
    flags = [f"--{k}={','.join(v) if k == 'keep' else v}" for k, v in config.non_defaults.items()]
    extra = how.slots[slot]
    command = [
        sys.executable, "-m", "tbn_bench.cli", "train", "--quiet", f"--sweep={sweep}", f"--results={store.root}",
        f"--threads={extra['OMP_NUM_THREADS']}", f"--trial={trial}", *how.flags, *flags,
    ]  # fmt: skip
    log = log_of(store, sweep, config.run_id)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w" if number == 1 else "a") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, preexec_fn=lambda: _in_child(how.nice),
                env={**os.environ, **extra}, start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        raise RecordError(
            f"cannot write {log}: {error.strerror}; choose another folder with --results"
        ) from error
    return Attempt(process, config, slot, number)


def resident_bytes(session: int) -> int:
    """Memory that the processes of a session hold (Linux; 0 where there is no /proc)."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    return total
