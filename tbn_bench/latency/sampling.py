"""Clocks, and samples that are taken in turn.

All variants of a case are timed round by round, in an order that rotates.

One CPU thread is timed by its own CPU clock, which other processes do not disturb. Several threads
are timed by the wall clock: a sample counts only if this process's threads waited less than 2 % of
it for a processor. CUDA is timed by its own events.
"""

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROUNDS = 31
# Calls are repeated inside a sample until it lasts about this long: hot caches, few clock reads.
MIN_SAMPLE_MS = 5.0
SLOW_MS = 300.0  # calls longer than this are timed in fewer rounds
MAX_WAIT = 0.02  # of a sample, in run queues, where several threads are timed
RETRIES = 4
FLUSH_BYTES = 96 << 20
FLUSH_BYTES_CUDA = 512 << 20


def run_queue_wait() -> float:
    """Seconds that the threads of this process have waited for a processor so far.

    Linux only; 0 elsewhere.
    """
    total = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[1])
        except (OSError, IndexError, ValueError):
            continue
    return total / 1e9


_flush: dict[str, Any] = {}  # device -> an array that is larger than its caches


def flush_caches(device: str = "cpu") -> None:
    """Evicts weights and activations from every cache level by walking over a larger array."""
    if device not in _flush:
        if device == "cuda":
            floats = FLUSH_BYTES_CUDA // 4
            _flush[device] = torch.zeros(floats, device=device)
        else:
            doubles = FLUSH_BYTES // 8
            _flush[device] = np.zeros(doubles)
    _flush[device] += 1.0


def clock_for(device: str, threads: int) -> tuple[str, Callable[..., float]]:
    """(name of the clock of a case, a function that takes a sample with it).

    A sample is in milliseconds per call.
    """
    if device == "cuda":
        return "CUDA events", _one_sample_cuda
    if threads == 1:
        return "thread CPU time", functools.partial(_one_sample, time.thread_time)
    wall_clock = functools.partial(_one_sample, time.perf_counter)
    return "wall clock, quiet samples only", wall_clock


@dataclass
class Samples:
    """times: milliseconds per call by name, one per accepted round. rejected: share of samples."""

    times: dict[str, list[float]]
    rejected: float = 0.0


def _one_sample(
    clock: Callable[[], float],
    call: Callable[[], Any],
    n: int,
    before: Callable[[], None] | None,
) -> float:
    if before is None:
        start = clock()
        for _ in range(n):
            call()
        return 1e3 * (clock() - start) / n
    total = 0.0
    for _ in range(n):
        before()
        start = clock()
        call()
        total += clock() - start
    return 1e3 * total / n


def _one_sample_cuda(call: Callable[[], Any], n: int, before: Callable[[], None] | None) -> float:
    """By events on the stream.

    The host's work between calls is not in it while the GPU has work.
    """
    intervals = n if before else 1
    calls = 1 if before else n
    pairs = [_event_pair() for _ in range(intervals)]
    torch.cuda.synchronize()
    for start, end in pairs:
        if before:
            before()
        start.record()
        for _ in range(calls):
            call()
        end.record()
    torch.cuda.synchronize()
    total = sum(start.elapsed_time(end) for start, end in pairs)
    return total / n


def _event_pair() -> tuple[Any, Any]:
    """(start, end)."""
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    return start, end


@dataclass
class _Sampler:
    """Takes samples until one is quiet, and counts those taken and rejected."""

    sample: Callable[..., float]
    before: Callable[[], None] | None
    wait: Callable[[], float] | None
    taken: int = 0
    rejected: int = 0

    def quiet(self, call: Callable[[], Any], repeats: int) -> float | None:
        """Milliseconds per call; None where all of 1 + RETRIES samples were disturbed."""
        for _ in range(RETRIES + 1):
            waited = self.wait() if self.wait else 0.0
            value = self.sample(call, repeats, self.before)
            self.taken += 1
            if self.wait is None:
                return value
            allowed = MAX_WAIT * value * repeats / 1e3
            if self.wait() - waited <= allowed:
                return value
            self.rejected += 1
        return None


def interleave(
    calls: dict[str, Callable[[], Any]],
    sample: Callable[..., float],
    rounds: int = ROUNDS,
    before: Callable[[], None] | None = None,
    wait: Callable[[], float] | None = None,
) -> Samples:
    """Every round times every name once, starting one further each time. sample: of clock_for.

    before: run, untimed, in front of each call. wait: cumulative seconds in run queues; a sample
    that waited more than MAX_WAIT of its time is taken again, up to RETRIES times, and then the
    round is dropped.
    """
    repeats = {}
    slowest = 0.0
    for name, call in calls.items():
        call()  # warm up
        call()
        once = sample(call, 1, before)
        slowest = max(slowest, once)
        repeats[name] = 1 if before else repeats_of(once)
    if slowest > SLOW_MS:
        rounds = max(min(rounds, 9), rounds // 3)
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    sampler = _Sampler(sample, before, wait)
    for turn in range(rounds):
        shift = turn % len(names)
        row = {}
        for name in names[shift:] + names[:shift]:
            value = sampler.quiet(calls[name], repeats[name])
            if value is None:
                break
            row[name] = value
        if len(row) == len(names):
            for name, value in row.items():
                times[name].append(value)
    if not times[names[0]]:
        raise RuntimeError(
            "every round was disturbed by other processes; nothing was recorded. "
            "Time again on a quieter machine"
        )
    return Samples(times, sampler.rejected / sampler.taken)


def repeats_of(once: float) -> int:
    """Calls of `once` milliseconds that fill a sample."""
    measurable = max(1e-3, once)
    calls = MIN_SAMPLE_MS / measurable
    return max(1, math.ceil(calls))
