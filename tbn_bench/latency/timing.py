"""How anything is timed here.

Every variant of a case runs in one process. Each must first match its own float64 reference on the
case's input. Then all are timed round by round, interleaved, in an order that rotates. A ratio is
the median over rounds of (peer / variant) within the round.

One CPU thread is timed by its own CPU clock, which other processes do not disturb. Several threads
are timed by the wall clock: a sample counts only if this process's threads waited less than 2 % of
it for a processor, and the share of rejected samples is recorded. CUDA is timed by its own events.
Batch 1 is timed hot and with the caches flushed before each call.
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
# Calls are repeated inside a sample until it lasts about this long: hot caches, few clock reads.
MIN_SAMPLE_MS = 5.0
SLOW_MS = 300.0  # calls longer than this are timed in fewer rounds
TOLERANCE = 1e-5  # max |y - ref| / max |ref|, float32 against float64 through a whole network
MAX_WAIT = 0.02  # of a sample, in run queues, where several threads are timed
RETRIES = 4
FLUSH_BYTES = 96 << 20
FLUSH_BYTES_CUDA = 512 << 20
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
    """One implementation of one network or operation.

    tolerance: of relative_error; wider only for lossy peers, which record theirs. foreign: somebody
    else's engine; where it computes something else, its row says so and the others are timed.
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


def first_line(error: BaseException) -> str:
    """The error's type and the beginning of its message, for a row's reason."""
    lines = str(error).strip().splitlines()
    said = lines[0][:200] if lines else ""
    return f"{type(error).__name__}: {said}"


def relative_error(got: Tensor, reference: Tensor) -> float:
    """max |got - reference| / max |reference|, in float64.

    Infinite for a wrong shape or a value that is not finite.
    """
    if got.shape != reference.shape or not torch.isfinite(got).all():
        return math.inf
    exact = reference.double()
    scale = exact.abs().max().item() or 1.0
    furthest = (got.double() - exact).abs().max()
    return furthest.item() / scale


def gate(variants: Iterable[Variant], x: Tensor) -> dict[str, float]:
    """Relative error of each variant on x: (B, ...).

    Raises ParityError naming the first variant beyond its tolerance; a foreign one becomes
    unavailable instead.
    """
    errors: dict[str, float] = {}
    expected: dict[int, Tensor] = {}
    for variant in variants:
        reference = id(variant.reference)
        with torch.no_grad():
            if reference not in expected:
                expected[reference] = variant.reference.double()(x.double())
            got = _output(variant, x)
            if got is None:
                continue
            error = relative_error(got, expected[reference])
        if error <= variant.tolerance:
            errors[variant.name] = error
            continue
        why = (
            f"{variant.name} differs from its float64 reference by {error:.2e} "
            f"(allowed {variant.tolerance:.0e}); not timed"
        )
        if not variant.foreign:
            raise ParityError(why)
        variant.unavailable = why
    return errors


def _output(variant: Variant, x: Tensor) -> Tensor | None:
    """None where a foreign engine raises, which becomes unavailable."""
    try:
        return variant.call(x)
    except Exception as error:
        if not variant.foreign:
            raise
        variant.unavailable = first_line(error)
        return None


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
            _flush[device] = torch.zeros(FLUSH_BYTES_CUDA // 4, device=device)
        else:
            _flush[device] = np.zeros(FLUSH_BYTES // 8)
    _flush[device] += 1.0


def clock_for(device: str, threads: int) -> tuple[str, Callable[..., float]]:
    """(name of the clock of a case, a function that takes a sample with it).

    A sample is in milliseconds per call.
    """
    if device == "cuda":
        return "CUDA events", _one_sample_cuda
    if threads == 1:
        return "thread CPU time", functools.partial(_one_sample, time.thread_time)
    return "wall clock, quiet samples only", functools.partial(_one_sample, time.perf_counter)


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
    pairs = [_event_pair() for _ in range(n if before else 1)]
    torch.cuda.synchronize()
    for start, end in pairs:
        if before:
            before()
        start.record()
        for _ in range(1 if before else n):
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
        repeats[name] = 1 if before else _repeats(once)
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


def _repeats(once: float) -> int:
    """Calls of `once` milliseconds that fill a sample."""
    return max(1, math.ceil(MIN_SAMPLE_MS / max(1e-3, once)))


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of the sorted values are, linearly interpolated."""
    ordered = sorted(values)
    position = share * (len(values) - 1)
    place = math.floor(position)
    low = ordered[place]
    high = ordered[min(place + 1, len(ordered) - 1)]
    rest = position - place
    return low + rest * (high - low)


def statistics_of(samples: list[float], baseline: list[float] | None) -> dict[str, Any]:
    """time_ms_p20 / p50 / p80, n, and the paired ratio to the baseline with its p20 / p80.

    ratio: how many times as fast.
    """
    row = {
        "time_ms_p20": quantile(samples, 0.2),
        "time_ms_p50": quantile(samples, 0.5),
        "time_ms_p80": quantile(samples, 0.8),
        "n": len(samples),
    }
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
    """Sets torch up for a case.

    Raises ValueError for a device or a number of threads that this machine does not have.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here; use --device cpu")
    if threads < 1:
        raise ValueError(f"--threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True
    # what is called float32 here is float32
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    # "no CUDA runtime" is no news on a CPU
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


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
    """Gates and times the variants on x: (B, ...).

    Ratios are to full precision's rows of the same rounds, where they exist.
    """
    forced = os.environ.get(LEVEL_VARIABLE)  # another kernel on the same machine is another case
    if forced:
        case = f"{case}-{forced}"
    errors = gate(_available(variants), x)
    usable = _available(variants)
    clock_name, sample = clock_for(device, threads)
    waits = threads > 1 and device == "cpu"
    with torch.no_grad():
        samples = interleave(
            {v.name: functools.partial(v.call, x) for v in usable},
            sample,
            before=functools.partial(flush_caches, device) if cold else None,
            wait=run_queue_wait if waits else None,
        )
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
        row |= _measured(v, errors[v.name], samples)
        if "tile_macs" in info and v.binarizer != "full_precision":
            row |= _tile_speed(v, row["time_ms_p50"], len(x), threads)
        rows.append(row)
    info = info | {
        "batch": len(x),
        "threads": threads,
        "clock": clock_name,
        "tolerance": TOLERANCE,
        "baseline": BASELINE,
        "cache": "flushed before each call" if cold else "hot",
        "rejected_share": samples.rejected,
        "ceilings": ceilings() if device == "cpu" else {},
    }
    name = device_name(device)
    return LatencyRecord(case, slug(name), rows, info, provenance(command, name, threads))


def _available(variants: list[Variant]) -> list[Variant]:
    return [v for v in variants if v.unavailable is None]


def _measured(variant: Variant, error: float, samples: Samples) -> dict[str, Any]:
    """Error, times, and ratios to each peer that was timed."""
    mine = samples.times[variant.name]
    row = {
        "unavailable": None,
        "relative_error": error,
        "tolerance": variant.tolerance,
        **variant.extra,
    }
    ratios = {}
    for key, name in PEERS.items():
        peer = samples.times.get(f"full_precision [{name}]")
        found = statistics_of(mine, peer)
        if key == "ratio":
            row |= found
        else:
            ratios[key] = found["ratio"]
    return row | ratios


def _tile_speed(variant: Variant, time_ms: float, batch: int, threads: int) -> dict[str, float]:
    """Distinct multiply-adds in 1e9 / s, and the share of the peak by FMA that a thread reaches."""
    macs = variant.extra.get("tile_macs", 0) * batch
    found = {"tile_gmacs": macs / time_ms / 1e6}
    if macs and ceilings().get("fma_gmacs"):
        found["of_fma_peak"] = found["tile_gmacs"] / threads / ceilings()["fma_gmacs"]
    return found


def show(record: LatencyRecord) -> None:
    """The record as a table on the terminal."""
    info = record.case_info
    cache = info.get("cache", "hot")
    tell(f"\n{record.case}  ({info['clock']}, {info['threads']} thread(s), {cache})")
    if info.get("ceilings"):
        tell(_said(info["ceilings"]))
    tell(
        f"{'method [implementation]':<66}{'p50 ms':>9}{'p20':>9}{'p80':>9}{'n':>4}"
        f"{'x eager':>9}{'x compil':>9}{'x int8':>9}{'weights':>14}{'error':>9}{'x FMA':>7}"
    )
    for row in record.rows:
        name = f"{row['binarizer']} [{row['implementation']}]"
        if row["unavailable"]:
            tell(f"{name:<66}  {row['unavailable']}")
            continue
        tell(f"{name:<66}{_cells(row)}")
    sys.stdout.flush()


def _said(peaks: dict[str, Any]) -> str:
    """The ceilings as a line."""
    names = {
        "lookup_gmacs": "lookup",
        "matrix_gmacs": "matrix unit in float32",
        "matrix_a14_gmacs": "in 14 bits",
    }
    others = [f", {name} {peaks[key]:.0f}" for key, name in names.items() if peaks.get(key)]
    reads = [f"{rate} GB/s from {size}" for size, rate in peaks["read_gb_s"].items()]
    return (
        f"this machine, one thread: {peaks['fma_gmacs']:.0f} GMAC/s by FMA{''.join(others)}; "
        f"reads {', '.join(reads)}; native level {peaks['level']}"
    )


def _cells(row: dict[str, Any]) -> str:
    """A measured row, under the head that show prints."""
    times = (row["time_ms_p50"], row["time_ms_p20"], row["time_ms_p80"])
    ratios = (row["ratio"], row.get("ratio_compiled"), row.get("ratio_ort_int8"))
    of_peak = row.get("of_fma_peak")
    cells = [f"{time:>9.3f}" for time in times]
    cells.append(f"{row['n']:>4}")
    cells += [f"{_ratio(value):>9}" for value in ratios]
    cells.append(f"{row['weight_bytes']:>12,} B{row['relative_error']:>9.1e}")
    if of_peak:
        cells.append(f"{of_peak:>7.2f}")
    return "".join(cells)


def _ratio(value: float | None) -> str:
    return "—" if value is None else f"{value:.2f}"
