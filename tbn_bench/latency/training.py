"""tbn-bench bench: the training step of single layers against full precision, in both memory formats."""

import copy
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench.convert.binarize import binarize_
from tbn_bench.latency.timing import (
    ParityError,
    clock_for,
    device_name,
    interleave,
    prepare,
    relative_error,
    show,
    slug,
    statistics_of,
)
from tbn_bench.records.store import LatencyRecord, RunStore, provenance

GRADIENT_TOLERANCE = 1e-4  # sums over batch and positions: more terms than a forward pass
_RESNET18_CONVS = (
    (64, 32),
    (128, 16),
    (256, 8),
    (512, 4),
)  # (channels, height = width) of the 3x3 stages on CIFAR


def _step(layer: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], Tensor]:
    """One training step of the layer alone: forward, both gradients, SGD."""
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
    """Largest relative error of output, input and parameter gradients against the plain parametrized path in float64."""
    exact = copy.deepcopy(layer).double()
    x64, x32 = x.detach().double().requires_grad_(), x.detach().clone().requires_grad_()
    y64 = torch.nn.functional.conv2d(x64, exact.weight, exact.bias, exact.stride, exact.padding)
    y64.backward(grad.double())
    y32 = layer(x32)
    y32.backward(grad)
    parameters = zip(layer.parameters(), exact.parameters(), strict=True)
    pairs = [(y32, y64), (x32.grad, x64.grad), *((a.grad, b.grad) for a, b in parameters)]
    error = max(relative_error(a.detach(), b.detach()) for a, b in pairs)
    layer.zero_grad(set_to_none=True)
    if not error <= GRADIENT_TOLERANCE:
        raise ParityError(
            f"{name}: output or a gradient is off by {error:.2e} (allowed {GRADIENT_TOLERANCE:.0e}); not timed"
        )
    return error


_FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


def _conv_layers(channels: int, ps: list[int], device: str) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {
        "full_precision": nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    }
    for p in ps:
        for gradient in ("elementwise", "tile"):
            holder = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
            spec = f"tbn(gradient={gradient!r}, min_layer_size=0, p={p})"
            binarize_(holder, spec)
            layers[spec] = holder[0]
    return {k: v.to(device) for k, v in layers.items()}


def training_steps(
    results: Path, ps: list[int], batch: int, threads: int, device: str
) -> dict[str, Any]:
    """Times one training step of ResNet-18's 3x3 convolutions: full precision, and tbn at each p with both gradients.

    Every row runs in both memory formats; ratios are to full precision in whichever format serves it better.
    """
    prepare(device, threads)
    store, cases = RunStore(results), []
    clock_name, sample = clock_for(device, threads)
    command = f"tbn-bench bench --p {' '.join(map(str, ps))} --batch {batch} --threads {threads} --device {device}"
    for channels, size in _RESNET18_CONVS:
        layers = _conv_layers(channels, ps, device)
        steps, errors = {}, {}
        for format_name, memory_format in _FORMATS.items():
            x = (
                torch.randn(batch, channels, size, size, device=device)
                .to(memory_format=memory_format)
                .requires_grad_()
            )
            grad = torch.randn(batch, channels, size, size, device=device).to(
                memory_format=memory_format
            )
            for spec, layer in layers.items():
                errors[spec, format_name] = _check_gradients(
                    f"{spec} {format_name}", layer, x, grad
                )
                steps[spec, format_name] = _step(copy.deepcopy(layer), x, grad)
        samples = interleave(steps, sample, rounds=15).times
        baseline = min((samples["full_precision", f] for f in _FORMATS), key=statistics.median)
        rows = [
            {"binarizer": spec, "implementation": f"training step, {format_name}", "run_id": None,
             "weight_bytes": 4 * 9 * channels * channels, "unavailable": None, "relative_error": errors[spec, format_name],
             **statistics_of(samples[spec, format_name], baseline)}
            for spec, format_name in steps
        ]  # fmt: skip
        name = f"training_step-conv3x3_{channels}at{size}-b{batch}-t{threads}"
        info = {"data": None, "model": f"Conv2d({channels}, {channels}, 3) on {size}x{size}", "sweep": None, "batch": batch,
                "threads": threads, "clock": clock_name, "tolerance": GRADIENT_TOLERANCE,
                "baseline": "the faster full_precision"}  # fmt: skip
        record = LatencyRecord(
            name,
            slug(device_name(device)),
            rows,
            info,
            provenance(command, device_name(device), threads),
        )
        store.write_latency(record)
        show(record)
        cases.append(name)
    return {"cases": cases}
