"""How anything is timed here.

Every variant of a case runs in one process: each must first match its own float64 reference on the case's input, then all are
timed round by round, interleaved, in an order that rotates. A ratio is the median over rounds of (peer / variant) within the
round. One CPU thread is timed by its own CPU clock, which other processes do not disturb. Several threads are timed by the wall
clock, and a sample counts only if this process's threads waited less than 2 % of it for a processor; the share of rejected
samples is recorded. CUDA is timed by its own events. Batch 1 is timed hot and with the caches flushed before each call.
"""

import functools
import logging
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tbn_bench.latency.machine import ceilings
from tbn_bench.native import LEVEL_VARIABLE
from tbn_bench.records.store import LatencyRecord, provenance, tell

ROUNDS = 31
MIN_SAMPLE_MS = 5.0  # calls are repeated inside a sample until it lasts about this long: hot caches, a clock read seldom
SLOW_MS = 300.0  # calls longer than this are timed in fewer rounds
TOLERANCE = 1e-5  # max |y - ref| / max |ref|, float32 against float64 through a whole network
MAX_WAIT = 0.02  # of a sample, in run queues, where several threads are timed
RETRIES = 4
FLUSH_BYTES, FLUSH_BYTES_CUDA = 96 << 20, 512 << 20
PEERS = {
    "ratio": "dense",
    "ratio_compiled": "dense, torch.compile",
    "ratio_ort_int8": "ONNX Runtime int8",
}
BASELINE = PEERS["ratio"]


class ParityError(RuntimeError):
    """An implementation does not compute what its reference does; nothing was timed."""


@dataclass
class Variant:
    """One implementation of one network or operation. tolerance: of relative_error; wider only for lossy peers, which record theirs.

    foreign: somebody else's engine; where it computes something else, its row says so, and the others are timed.
    """

    binarizer: str
    implementation: str
    call: Callable[[Tensor], Tensor]
    reference: nn.Module
    weight_bytes: int
    run_id: str | None = None
    unavailable: str | None = None
    tolerance: float = TOLERANCE
    extra: dict[str, Any] = field(default_factory=dict)
    foreign: bool = False

    @property
    def name(self) -> str:
        return f"{self.binarizer} [{self.implementation}]"


def relative_error(got: Tensor, reference: Tensor) -> float:
    """max |got - reference| / max |reference|, in float64; infinite for a wrong shape or a value that is not finite."""
    if got.shape != reference.shape or not torch.isfinite(got).all():
        return math.inf
    scale = reference.double().abs().max().item() or 1.0
    return (got.double() - reference.double()).abs().max().item() / scale


def gate(variants: Iterable[Variant], x: Tensor) -> dict[str, float]:
    """Relative error of each variant on x: (B, ...). Raises ParityError naming the first beyond its tolerance; a foreign one becomes
    unavailable instead."""
    errors: dict[str, float] = {}
    expected: dict[int, Tensor] = {}
    for variant in variants:
        with torch.no_grad():
            if id(variant.reference) not in expected:
                expected[id(variant.reference)] = variant.reference.double()(x.double())
            try:
                got = variant.call(x)
            except Exception as error:
                if not variant.foreign:
                    raise
                variant.unavailable = (
                    f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
                )
                continue
            error = relative_error(got, expected[id(variant.reference)])
        if not error <= variant.tolerance:
            why = f"{variant.name} differs from its float64 reference by {error:.2e} (allowed {variant.tolerance:.0e}); not timed"
            if not variant.foreign:
                raise ParityError(why)
            variant.unavailable = why
            continue
        errors[variant.name] = error
    return errors


def run_queue_wait() -> float:
    """Seconds that the threads of this process have waited for a processor so far (Linux; elsewhere 0)."""
    total = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[1])
        except (OSError, IndexError, ValueError):
            continue
    return total / 1e9


def flush_caches(device: str = "cpu") -> None:
    """Evicts weights and activations from every cache level by walking over a larger array."""
    if device not in _flush:
        cuda = device == "cuda"
        _flush[device] = (
            torch.zeros(FLUSH_BYTES_CUDA // 4, device=device)
            if cuda
            else np.zeros(FLUSH_BYTES // 8)
        )
    _flush[device] += 1.0


_flush: dict[str, Any] = {}


def clock_for(device: str, threads: int) -> tuple[str, Callable[..., float]]:
    """(name of the clock that a case is timed by, what takes a sample with it: milliseconds per call)."""
    if device == "cuda":
        return "CUDA events", _one_sample_cuda
    if threads == 1:
        return "thread CPU time", functools.partial(_one_sample, time.thread_time)
    return "wall clock, quiet samples only", functools.partial(_one_sample, time.perf_counter)


@dataclass
class Samples:
    """Milliseconds per call by name, one per accepted round, and the share of samples that were rejected."""

    times: dict[str, list[float]]
    rejected: float = 0.0


def _one_sample(
    clock: Callable[[], float], call: Callable[[], Any], n: int, before: Callable[[], None] | None
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
    """By events on the stream: what the host does between calls is not in it, as long as the GPU has work."""
    pairs = [
        [torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(n if before else 1)
    ]
    torch.cuda.synchronize()
    for start, end in pairs:
        if before:
            before()
        start.record()
        for _ in range(1 if before else n):
            call()
        end.record()
    torch.cuda.synchronize()
    return sum(start.elapsed_time(end) for start, end in pairs) / n


def interleave(
    calls: dict[str, Callable[[], Any]],
    sample: Callable[..., float],
    rounds: int = ROUNDS,
    before: Callable[[], None] | None = None,
    wait: Callable[[], float] | None = None,
) -> Samples:
    """Every round times every name once, starting one further each time. sample: of clock_for.

    before: run, untimed, in front of each call. wait: cumulative seconds in run queues; a sample that waited more than MAX_WAIT of its
    time is taken again, up to RETRIES times, and then the round is dropped.
    """
    repeats, slowest = {}, 0.0
    for name, call in calls.items():
        call(), call()  # warm up
        once = sample(call, 1, before)
        slowest = max(slowest, once)
        repeats[name] = 1 if before else max(1, math.ceil(MIN_SAMPLE_MS / max(1e-3, once)))
    if slowest > SLOW_MS:
        rounds = max(min(rounds, 9), rounds // 3)
    names, samples, taken, rejected = list(calls), {name: [] for name in calls}, 0, 0
    for turn in range(rounds):
        shift, row = turn % len(names), {}
        for name in names[shift:] + names[:shift]:
            for _ in range(RETRIES + 1):
                waited = wait() if wait else 0.0
                value = sample(calls[name], repeats[name], before)
                taken += 1
                if wait is None or wait() - waited <= MAX_WAIT * value * repeats[name] / 1e3:
                    row[name] = value
                    break
                rejected += 1
            else:
                break
        if len(row) == len(names):
            for name, value in row.items():
                samples[name].append(value)
    if not samples[names[0]]:
        raise RuntimeError(
            "every round was disturbed by other processes; nothing was recorded. Time again on a quieter machine"
        )
    return Samples(samples, rejected / taken)


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of the sorted values lie, linearly interpolated."""
    ordered, position = sorted(values), share * (len(values) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def statistics_of(samples: list[float], baseline: list[float] | None) -> dict[str, Any]:
    """time_ms_p20 / p50 / p80, n, and the paired ratio to the baseline (how many times as fast) with its p20 / p80."""
    row = {f"time_ms_p{q}": quantile(samples, q / 100) for q in (20, 50, 80)} | {"n": len(samples)}
    if baseline is None:
        return row | {"ratio": None, "ratio_p20": None, "ratio_p80": None}
    ratios = [b / s for b, s in zip(baseline, samples, strict=True)]
    return row | {
        "ratio": statistics.median(ratios),
        "ratio_p20": quantile(ratios, 0.2),
        "ratio_p80": quantile(ratios, 0.8),
    }


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return str(provenance("")["hardware"]["cpu"])


def prepare(device: str, threads: int) -> None:
    """Sets torch up for a case. Raises ValueError for a device or a number of threads that is not to be had."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here; use --device cpu")
    if threads < 1:
        raise ValueError(f"--threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = (
        False  # what is called float32 here is float32
    )
    logging.getLogger("torch.utils.cpp_extension").setLevel(
        logging.ERROR
    )  # "no CUDA runtime" is no news on a CPU


def time_case(
    case: str,
    variants: list[Variant],
    x: Tensor,
    threads: int,
    device: str,
    info: dict[str, Any],
    command: str,
    cold: bool = False,
) -> LatencyRecord:
    """Gates and times the variants on x: (B, ...); ratios are to full precision's rows of the same rounds, where they exist."""
    forced = os.environ.get(LEVEL_VARIABLE)  # another kernel on the same machine is another case
    case += f"-{forced}" if forced else ""
    errors = gate([v for v in variants if v.unavailable is None], x)
    usable = [v for v in variants if v.unavailable is None]
    clock_name, sample = clock_for(device, threads)
    with torch.no_grad():
        samples = interleave(
            {v.name: lambda v=v: v.call(x) for v in usable},
            sample,
            before=(lambda: flush_caches(device)) if cold else None,
            wait=run_queue_wait if threads > 1 and device == "cpu" else None,
        )
    peers = {key: samples.times.get(f"full_precision [{name}]") for key, name in PEERS.items()}
    rows = []
    for v in variants:
        row = {
            "binarizer": v.binarizer,
            "implementation": v.implementation,
            "run_id": v.run_id,
            "weight_bytes": v.weight_bytes,
        }
        if v.unavailable is not None:
            rows.append(row | {"unavailable": v.unavailable})
            continue
        mine = samples.times[v.name]
        row |= {
            "unavailable": None,
            "relative_error": errors[v.name],
            "tolerance": v.tolerance,
            **v.extra,
        }
        row |= statistics_of(mine, peers["ratio"])
        row |= {k: statistics_of(mine, peers[k])["ratio"] for k in PEERS if k != "ratio"}
        if "tile_macs" in info and v.binarizer != "full_precision":
            row["tile_gmacs"] = v.extra.get("tile_macs", 0) * x.shape[0] / row["time_ms_p50"] / 1e6
            if row["tile_gmacs"] and ceilings().get("fma_gmacs"):
                row["of_fma_peak"] = row["tile_gmacs"] / threads / ceilings()["fma_gmacs"]
        rows.append(row)
    info = info | {
        "batch": x.shape[0], "threads": threads, "clock": clock_name, "tolerance": TOLERANCE, "baseline": BASELINE,
        "cache": "flushed before each call" if cold else "hot", "rejected_share": samples.rejected,
        "ceilings": ceilings() if device == "cpu" else {},
    }  # fmt: skip
    name = device_name(device)
    return LatencyRecord(case, slug(name), rows, info, provenance(command, name, threads))


def show(record: LatencyRecord) -> None:
    """The record as a table on the terminal."""

    def times(value: Any) -> str:
        return f"{'—' if value is None else f'{value:.2f}':>9}"

    info = record.case_info
    tell(
        f"\n{record.case}  ({info['clock']}, {info['threads']} thread(s), {info.get('cache', 'hot')})"
    )
    if info.get("ceilings"):
        c = info["ceilings"]
        names = {
            "lookup_gmacs": "lookup",
            "matrix_gmacs": "matrix unit in float32",
            "matrix_a14_gmacs": "in 14 bits",
        }
        others = "".join(f", {name} {c[key]:.0f}" for key, name in names.items() if c.get(key))
        reads = ", ".join(f"{v} GB/s from {k}" for k, v in c["read_gb_s"].items())
        tell(
            f"this machine, one thread: {c['fma_gmacs']:.0f} GMAC/s by FMA{others}; reads {reads}; native level {c['level']}"
        )
    tell(
        f"{'method [implementation]':<66}{'p50 ms':>9}{'p20':>9}{'p80':>9}{'n':>4}{'x eager':>9}{'x compil':>9}{'x int8':>9}"
        f"{'weights':>14}{'error':>9}{'x FMA':>7}"
    )
    for row in record.rows:
        name = f"{row['binarizer']} [{row['implementation']}]"
        if row["unavailable"]:
            tell(f"{name:<66}  {row['unavailable']}")
            continue
        tell(
            f"{name:<66}{row['time_ms_p50']:>9.3f}{row['time_ms_p20']:>9.3f}{row['time_ms_p80']:>9.3f}{row['n']:>4}"
            f"{times(row['ratio'])}{times(row.get('ratio_compiled'))}{times(row.get('ratio_ort_int8'))}"
            f"{row['weight_bytes']:>12,} B{row['relative_error']:>9.1e}"
            + (f"{row['of_fma_peak']:>7.2f}" if row.get("of_fma_peak") else "")
        )
    sys.stdout.flush()
