"""How the runs of a sweep are carried out: options, and each run's share of this machine."""

import os
from dataclasses import dataclass

# By default glibc returns large blocks to the system at every step, and half of a step is spent on
# page faults. These settings make it keep them (LOG.md, "PointNet in minutes").
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "8000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000"}
# By default, threads without work spin. Where other programs need the cores, a step of a small
# network then takes ten times as long (LOG.md, "Threads that wait").
WAITING = "OMP_WAIT_POLICY"
MANY = 1000  # jobs, retries or threads: more is a slip of the hand, and takes a machine down


@dataclass(frozen=True)
class ExecutionOptions:
    """How the runs of a sweep are carried out; none of it is part of a run's id.

    jobs: runs at once; None: one per GPU slot with device="cuda", else 1. per_gpu: runs that share
    a GPU. retries: further attempts of a crashed run, from its last checkpoint. threads: of each
    run; None: its share of the cores. nice: added to the niceness of each run, 0 to 19, so that
    other work goes first. time_limit_s, memory_limit_gb: of one attempt; memory is the resident one
    of all its processes. stale: what is done with finished runs whose code has changed since: keep,
    rerun or error. warm: runs are forked from processes that have torch loaded, where that is
    possible (warm.py).
    Raises ValueError for values out of range.
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
    stale: str = "keep"
    warm: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.nice <= 19:
            raise ValueError(f"--nice must lie between 0 and 19, got {self.nice}")
        _check_count("--jobs", self.jobs, least=1)
        _check_count("--retries", self.retries, least=0)
        _check_count("--per-gpu", self.per_gpu, least=1)
        _check_count("--threads", self.threads, least=1)
        _check_limit("--time-limit", self.time_limit_s)
        _check_limit("--memory-limit", self.memory_limit_gb)

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
        """The environment of each of the runs at once: its share of the cores, and its GPU."""
        gpus = self.gpus * self.per_gpu
        count = self.jobs or max(1, len(gpus))
        share = max(1, (os.cpu_count() or 1) // count)
        waiting = os.environ.get(WAITING, "passive")
        slots = []
        for i in range(count):
            slot = {**ALLOCATOR, WAITING: waiting, "OMP_NUM_THREADS": str(self.threads or share)}
            if gpus:
                slot["CUDA_VISIBLE_DEVICES"] = gpus[i % len(gpus)]
            slots.append(slot)
        return slots

    @property
    def flags(self) -> list[str]:
        """Of `tbn-bench train`, the same for all runs."""
        flags = [f"--wandb={self.wandb}", f"--device={self.device}"]
        if self.channels_last:
            flags.append("--channels-last")
        if self.compile:
            flags.append("--compile")
        for name in self.trackers:
            flags.append(f"--tracker={name}")
        return flags

    def passed_limit(self, seconds: float, used_bytes: int) -> str | None:
        """The limit that an attempt has passed, in words."""
        if self.time_limit_s is not None and seconds > self.time_limit_s:
            return f"time limit of {self.time_limit_s:g} s passed"
        limit = self.memory_limit_gb
        if limit is not None and used_bytes > limit * 1e9:
            return f"memory limit of {limit:g} GB passed ({used_bytes / 1e9:.2f} GB)"
        return None


def _check_count(flag: str, value: int | None, least: int) -> None:
    if value is None:
        return
    bound = ""
    if value < least:
        bound = f"at least {least}, got {value}"
    elif value > MANY:
        bound = f"at most {MANY:,}, got {value:,}"
    if bound:
        raise ValueError(f"{flag} must be {bound}")


def _check_limit(flag: str, limit: float | None) -> None:
    if limit is not None and not limit > 0:
        raise ValueError(f"{flag} must be more than 0, got {limit}")
