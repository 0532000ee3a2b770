"""How a case is timed: gate, samples, statistics, record.

Every variant of a case runs in one process. Each must first match its own float64 reference on the
case's input (`gate`). Then all are timed round by round, interleaved (`sampling`). A ratio is the
median over rounds of (peer / variant) within the round. Batch 1 is timed hot and with the caches
flushed before each call.
"""

import functools
import logging
import math
import os
import re
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tbn_bench.latency.gate import TOLERANCE, Variant, gate
from tbn_bench.latency.machine import ceilings
from tbn_bench.latency.sampling import Samples, clock_for, flush_caches, interleave, run_queue_wait
from tbn_bench.native import LEVEL_VARIABLE
from tbn_bench.records.provenance import provenance
from tbn_bench.records.store import LatencyRecord

PEERS = {
    "ratio": "dense",
    "ratio_compiled": "dense, torch.compile",
    "ratio_ort_int8": "ONNX Runtime int8",
}
BASELINE = PEERS["ratio"]
_CPUINFO = Path("/proc/cpuinfo")


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
    words = re.sub(r"[^a-z0-9]+", "_", text.lower())
    return words.strip("_")


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()

    name = str(provenance("")["hardware"]["cpu"])
    if any(letter.isdigit() for letter in name):
        return name
    return f"{name}{_generation(_CPUINFO)}"


def _generation(cpuinfo: Path) -> str:
    """As in " family 26 model 2", of an x86 CPU under Linux; "" elsewhere.

    A virtual machine may call every EPYC "AMD EPYC". Records of Zen 4 and Zen 5 would then have one
    name, and the later would replace the earlier.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return ""

    numbers: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        numbers.setdefault(key.strip(), value.strip())
    if "cpu family" not in numbers or "model" not in numbers:
        return ""
    return f" family {numbers['cpu family']} model {numbers['model']}"


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
    # no TF32: results called float32 are really float32
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
