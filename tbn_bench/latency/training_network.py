"""tbn-bench bench --network: the training step of a whole ResNet-18 against full precision.

A step is forward, backward and SGD with momentum, on random images of 32 x 32. Full precision runs
in both memory formats, and ratios are to the faster one. A tiled network runs as binarize_ leaves
it, and fused (convert/fuse.py), both in channels-last memory.
"""

import copy
import ctypes
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbn_bench import catalog
from tbn_bench.convert.binarize import binarize_
from tbn_bench.convert.fuse import describe, fuse_
from tbn_bench.latency.gate import ParityError
from tbn_bench.latency.sampling import clock_for, interleave
from tbn_bench.latency.show import show
from tbn_bench.latency.timing import device_name, prepare, slug, statistics_of
from tbn_bench.records.provenance import provenance
from tbn_bench.records.store import LatencyRecord, RunStore

NETWORKS = {"resnet18": "resnet_cifar(depth=18)"}
KEEP = ("conv1.weight", "fc.weight")  # stem and classifier, as in sweeps/resnet18.yaml
ROUNDS = 15
# of the length of all gradients together: where the input of a ReLU is 0 up to rounding, it may let
# a value pass that the reference stops, which alone is 1.4e-3 in torch's own float32
TOLERANCE = 5e-3
CHECKED_IMAGES = 8
_BASELINE = "full_precision"
_FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
_HALF_GB = 1 << 29
_TRIM_THRESHOLD = -1  # names of glibc's mallopt
_MMAP_THRESHOLD = -3


@dataclass(frozen=True)
class _Case:
    """spec: a binarizer. format: a key of _FORMATS. fused: whether fuse_ was called."""

    spec: str
    format: str
    fused: bool = False

    @property
    def implementation(self) -> str:
        way = ", fused" if self.fused else ""
        return f"training step, {self.format}{way}"


def specs(ps: Iterable[int]) -> list[str]:
    """The tiled networks: aligned and hadamard at each p, elementwise at the first."""
    found = []
    for p in ps:
        shared = f"min_layer_size=0, p={p}"
        found.append(f"tbn(gradient='tile', {shared})")
        found.append(f"tbn(copies='hadamard', gradient='tile', {shared})")
    first, *_ = ps
    found.append(f"tbn(gradient='elementwise', min_layer_size=0, p={first})")
    return found


def _cases(ps: Iterable[int]) -> Iterator[_Case]:
    for name in _FORMATS:
        yield _Case(_BASELINE, name)
    for spec in specs(ps):
        yield _Case(spec, "NHWC")
        yield _Case(spec, "NHWC", fused=True)


def _network(model: str, spec: str, learned_scales: bool) -> nn.Module:
    """The initial network of seed 0."""
    torch.manual_seed(0)
    network: nn.Module = catalog.build("models", model)
    if spec != _BASELINE:
        binarize_(network, spec, keep=KEEP)
    for name, parameter in network.named_parameters():
        if name.endswith(".A"):
            parameter.requires_grad_(learned_scales)
    return network


@dataclass(frozen=True)
class _Batch:
    """images: (B, 3, 32, 32). labels: (B,)."""

    images: Tensor
    labels: Tensor

    @classmethod
    def random(cls, size: int, memory_format: torch.memory_format) -> "_Batch":
        seeded = torch.Generator().manual_seed(0)
        images = torch.randn(size, 3, 32, 32, generator=seeded)
        labels = torch.randint(0, 10, (size,), generator=seeded)
        return cls(images.contiguous(memory_format=memory_format), labels)


def _loss(model: nn.Module, batch: _Batch, half: bool) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = model(batch.images)
    return F.cross_entropy(logits.float(), batch.labels)


def _step(model: nn.Module, batch: _Batch, half: bool) -> Callable[[], None]:
    """One training step of the network."""
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=1e-6, momentum=0.9, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        _loss(model, batch, half).backward()
        optimizer.step()

    return step


def _gradients(model: nn.Module, batch: _Batch) -> dict[str, Tensor]:
    """The loss and all gradients but those of A, which are 0 up to batch norm's eps."""
    loss = _loss(model, batch, half=False)
    loss.backward()
    found = {"loss": loss.detach()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not name.endswith(".A"):
            found[name] = parameter.grad

    return found


def _check(case: _Case, model: nn.Module) -> float:
    """The relative error of loss and gradients as one vector. The reference is plain, in float64.

    Raises ParityError where it is too large.
    """
    memory_format = _FORMATS[case.format]
    batch = _Batch.random(CHECKED_IMAGES, memory_format)
    own = _gradients(_made(copy.deepcopy(model), case), batch)
    exact = copy.deepcopy(model).double()
    reference = _Batch(batch.images.double(), batch.labels)
    expected = _gradients_in_double(exact, reference)
    names = list(expected)
    error = _relative_length([own[name] for name in names], [expected[name] for name in names])
    if not error <= TOLERANCE:
        raise ParityError(
            f"{case.spec} [{case.implementation}]: loss or a gradient is off by {error:.2e} "
            f"(allowed {TOLERANCE:.0e}); not timed"
        )
    return error


def _relative_length(found: list[Tensor], expected: list[Tensor]) -> float:
    """|found - expected| / |expected|, over all elements of all tensors, in float64."""
    away = length = 0.0
    for own, exact in zip(found, expected, strict=True):
        away += float((own.double() - exact).square().sum())
        length += float(exact.square().sum())
    return math.sqrt(away / length)


def _gradients_in_double(model: nn.Module, batch: _Batch) -> dict[str, Tensor]:
    logits = model(batch.images)
    loss = F.cross_entropy(logits, batch.labels)
    loss.backward()
    found = {"loss": loss.detach()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not name.endswith(".A"):
            found[name] = parameter.grad
    return found


def _made(model: nn.Module, case: _Case) -> nn.Module:
    """The network in the case's format, fused where it asks for that."""
    model = model.to(memory_format=_FORMATS[case.format])
    if case.fused:
        fuse_(model)
    return model


@contextmanager
def _memory_kept() -> Iterator[None]:
    """Makes glibc keep freed memory.

    Otherwise each step gets its large blocks from the system again, and page faults take longer
    than a fast step. Sweeps set the same by environment variables.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 3 * _HALF_GB)
        libc.mallopt(_TRIM_THRESHOLD, 3 * _HALF_GB)
    yield


def network_steps(
    results: Path,
    network: str,
    ps: list[int],
    batch: int,
    threads: int,
    half: bool,
    learned_scales: bool,
) -> dict[str, Any]:
    """Times a training step of a whole network; writes a record and prints it.

    half: bfloat16 autocast. learned_scales: train the tensors A, too. Raises ValueError for a
    network that is not known, and ParityError.
    """
    if network not in NETWORKS:
        known = ", ".join(NETWORKS)
        raise ValueError(f"--network must be one of {known}, got {network!r}")
    prepare("cpu", threads)
    clock_name, sample = clock_for("cpu", threads)
    hardware = device_name("cpu")
    flags = f"--batch {batch} --threads {threads}"
    all_p = " ".join(map(str, ps))
    precision = "bf16" if half else "32"
    command = f"tbn-bench bench --network {network} --p {all_p} {flags} --precision {precision}"
    if learned_scales:
        command += " --learned-scales"
    made = provenance(command, hardware, threads)  # of the code that is loaded, before it is timed
    with _memory_kept():
        errors, steps, models = {}, {}, {}
        for case in _cases(ps):
            model = _network(NETWORKS[network], case.spec, learned_scales)
            errors[case] = _check(case, model)
            models[case] = _made(model, case).train()
            images = _Batch.random(batch, _FORMATS[case.format])
            steps[case] = _step(models[case], images, half)
        names = {f"{case.spec} [{case.implementation}]": case for case in steps}
        calls = {name: steps[case] for name, case in names.items()}
        load_before = os.getloadavg()[0]
        times = interleave(calls, sample, rounds=ROUNDS).times
    by_case = {case: times[name] for name, case in names.items()}
    kind = "bf16" if half else "f32"
    scales = "-learned_scales" if learned_scales else ""
    name = f"training_step-{network}-{kind}-b{batch}-t{threads}{scales}"
    info = {
        "data": None,
        "model": NETWORKS[network],
        "sweep": None,
        "batch": batch,
        "threads": threads,
        "precision": precision,
        "learned_scales": learned_scales,
        "clock": clock_name,
        "tolerance": TOLERANCE,
        "baseline": "the faster full_precision",
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
    }
    rows = _rows(errors, by_case, models)
    record = LatencyRecord(name, slug(hardware), rows, info, made)
    RunStore(results).write_latency(record)
    show(record)
    return {"cases": [name]}


def _rows(
    errors: dict[_Case, float], times: dict[_Case, list[float]], models: dict[_Case, nn.Module]
) -> list[dict[str, Any]]:
    """Ratios are to full precision in whichever format serves it better."""
    full_precision = [times[_Case(_BASELINE, name)] for name in _FORMATS]
    baseline = min(full_precision, key=statistics.median)
    rows = []
    for case, error in errors.items():
        model = models[case]
        row = {
            "binarizer": case.spec,
            "implementation": case.implementation,
            "run_id": None,
            "weight_bytes": sum(4 * p.numel() for p in model.parameters() if p.requires_grad),
            "unavailable": None,
            "relative_error": error,
        }
        if case.fused:
            row["layers"] = {entry.name: entry.what for entry in describe(model)}
        rows.append(row | statistics_of(times[case], baseline))
    return rows
