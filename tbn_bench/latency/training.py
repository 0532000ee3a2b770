"""tbn-bench bench: the training step of single layers against full precision.

Both memory formats are timed.
"""

import copy
import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench.convert.binarize import binarize_
from tbn_bench.latency.gate import ParityError, relative_error
from tbn_bench.latency.sampling import clock_for, interleave
from tbn_bench.latency.show import show
from tbn_bench.latency.timing import device_name, prepare, slug, statistics_of
from tbn_bench.records.provenance import provenance
from tbn_bench.records.store import LatencyRecord, RunStore

GRADIENT_TOLERANCE = 1e-4  # sums over batch and positions: more terms than a forward pass
_RESNET18_CONVS = (  # (channels, height = width) of the 3x3 stages on CIFAR
    (64, 32),
    (128, 16),
    (256, 8),
    (512, 4),
)
_FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


def _step(layer: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], Tensor]:
    """One training step of only this layer: forward, both gradients, SGD."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-6, momentum=0.9, fused=True)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        x.grad = None
        y = layer(x)
        y.backward(grad)
        optimizer.step()
        return y

    return step


def _check_gradients(name: str, layer: nn.Module, x: Tensor, grad: Tensor) -> float:
    """Largest relative error of output, input and parameter gradients.

    The reference is the plain parametrized path in float64.
    """
    exact = copy.deepcopy(layer).double()
    x64 = x.detach().double().requires_grad_()
    x32 = x.detach().clone().requires_grad_()
    y64 = nn.functional.conv2d(x64, exact.weight, exact.bias, exact.stride, exact.padding)
    y64.backward(grad.double())
    y32 = layer(x32)
    y32.backward(grad)
    pairs = [(y32, y64), (x32.grad, x64.grad)]
    for own, reference in zip(layer.parameters(), exact.parameters(), strict=True):
        pairs.append((own.grad, reference.grad))
    errors = [relative_error(own.detach(), reference.detach()) for own, reference in pairs]
    error = max(errors)
    layer.zero_grad(set_to_none=True)
    if not error <= GRADIENT_TOLERANCE:
        raise ParityError(
            f"{name}: output or a gradient is off by {error:.2e} "
            f"(allowed {GRADIENT_TOLERANCE:.0e}); not timed"
        )
    return error


def _conv_layers(channels: int, ps: list[int], device: str) -> dict[str, nn.Module]:
    """Full precision, and tbn at each p with both gradients."""
    layers: dict[str, nn.Module] = {"full_precision": _conv(channels)}
    for p, gradient in itertools.product(ps, ("elementwise", "tile")):
        holder = nn.Sequential(_conv(channels))
        spec = f"tbn(gradient={gradient!r}, min_layer_size=0, p={p})"
        binarize_(holder, spec)
        layers[spec] = holder[0]
    return {spec: layer.to(device) for spec, layer in layers.items()}


def _conv(channels: int) -> nn.Conv2d:
    return nn.Conv2d(
        channels,
        channels,
        kernel_size=3,
        padding=1,
        bias=False,
    )


@dataclass
class _Steps:
    """By (spec, memory format): the training step, and its largest error."""

    calls: dict[tuple[str, str], Callable[[], Tensor]] = field(default_factory=dict)
    errors: dict[tuple[str, str], float] = field(default_factory=dict)


def _steps(layers: dict[str, nn.Module], shape: tuple[int, ...], device: str) -> _Steps:
    """The steps of the layers in both memory formats, checked. shape: of their input."""
    found = _Steps()
    for name, memory_format in _FORMATS.items():
        x = torch.randn(shape, device=device).to(memory_format=memory_format)
        x = x.requires_grad_()
        grad = torch.randn(shape, device=device).to(memory_format=memory_format)
        for spec, layer in layers.items():
            key = (spec, name)
            found.errors[key] = _check_gradients(f"{spec} {name}", layer, x, grad)
            found.calls[key] = _step(copy.deepcopy(layer), x, grad)
    return found


def _rows(steps: _Steps, times: dict[Any, list[float]], weight_bytes: int) -> list[dict[str, Any]]:
    """Ratios are to full precision in whichever format serves it better."""
    full_precision = [times["full_precision", name] for name in _FORMATS]
    baseline = min(full_precision, key=statistics.median)
    rows = []
    for key, error in steps.errors.items():
        spec, format_name = key
        row = {
            "binarizer": spec,
            "implementation": f"training step, {format_name}",
            "run_id": None,
            "weight_bytes": weight_bytes,
            "unavailable": None,
            "relative_error": error,
        }
        rows.append(row | statistics_of(times[key], baseline))
    return rows


def training_steps(
    results: Path, ps: list[int], batch: int, threads: int, device: str
) -> dict[str, Any]:
    """Times one training step of ResNet-18's 3x3 convolutions.

    The rows are full precision, and tbn at each p with both gradients, in both memory formats.
    Ratios are to full precision in whichever format serves it better.
    """
    prepare(device, threads)
    store = RunStore(results)
    cases = []
    clock_name, sample = clock_for(device, threads)
    all_p = " ".join(map(str, ps))
    command = f"tbn-bench bench --p {all_p} --batch {batch} --threads {threads} --device {device}"
    hardware = device_name(device)
    for channels, size in _RESNET18_CONVS:
        layers = _conv_layers(channels, ps, device)
        steps = _steps(layers, (batch, channels, size, size), device)
        times = interleave(steps.calls, sample, rounds=15).times
        rows = _rows(steps, times, 4 * 9 * channels * channels)
        name = f"training_step-conv3x3_{channels}at{size}-b{batch}-t{threads}"
        info = {
            "data": None,
            "model": f"Conv2d({channels}, {channels}, 3) on {size}x{size}",
            "sweep": None,
            "batch": batch,
            "threads": threads,
            "clock": clock_name,
            "tolerance": GRADIENT_TOLERANCE,
            "baseline": "the faster full_precision",
        }
        made = provenance(command, hardware, threads)
        record = LatencyRecord(name, slug(hardware), rows, info, made)
        store.write_latency(record)
        show(record)
        cases.append(name)
    return {"cases": cases}
