"""gate -> warm up -> time -> LatencyRecord.

Every variant of a case runs in one process: each must first match its own float64 reference on the case's input, then all are
timed round by round, interleaved, in an order that rotates. A ratio is the median over rounds of (baseline / variant) within the
round. One CPU thread is timed by its own CPU clock, which other processes do not disturb; several threads and CUDA by the wall clock.
"""

import contextlib
import copy
import logging
import math
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench import assembly, packed
from tbn_bench.config import RunConfig, make
from tbn_bench.convert import binarize_
from tbn_bench.records import LatencyRecord, RunRecord, RunStore, provenance

ROUNDS = 31
MIN_SAMPLE_MS = 1.0  # calls are repeated inside a sample until it lasts about this long
TOLERANCE = 1e-5  # max |y - ref| / max |ref|, float32 against float64 through a whole network
GRADIENT_TOLERANCE = 1e-4  # sums over batch and positions: more terms than a forward pass
BASELINE = "dense"


class ParityError(RuntimeError):
    """An implementation does not compute what its reference does; nothing was timed."""


@dataclass
class Variant:
    """One implementation of one trained (or untrained) network."""

    binarizer: str
    implementation: str
    call: Callable[[Tensor], Tensor]
    reference: nn.Module
    weight_bytes: int
    run_id: str | None = None
    unavailable: str | None = None

    @property
    def name(self) -> str:
        return f"{self.binarizer} [{self.implementation}]"


def relative_error(got: Tensor, reference: Tensor) -> float:
    """max |got - reference| / max |reference|, in float64; infinite for a wrong shape or a value that is not finite."""
    if got.shape != reference.shape or not torch.isfinite(got).all():
        return math.inf
    scale = reference.double().abs().max().item() or 1.0
    return (got.double() - reference.double()).abs().max().item() / scale


def gate(variants: Iterable[Variant], x: Tensor, tolerance: float = TOLERANCE) -> dict[str, float]:
    """Relative error of each variant on x: (B, ...). Raises ParityError naming the first beyond the tolerance."""
    errors = {}
    for variant in variants:
        with torch.no_grad():
            expected = variant.reference.double()(x.double())
            error = relative_error(variant.call(x), expected)
        if not error <= tolerance:
            raise ParityError(
                f"{variant.name} differs from its float64 reference by {error:.2e} (allowed {tolerance:.0e}); not timed"
            )
        errors[variant.name] = error
    return errors


def _clock(device: str, threads: int) -> tuple[str, Callable[[], float]]:
    if device == "cuda":

        def synchronised() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        return "wall clock, CUDA synchronised", synchronised
    return ("thread CPU time", time.thread_time) if threads == 1 else ("wall clock", time.perf_counter)


def interleave(calls: dict[str, Callable[[], Any]], clock: Callable[[], float], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Milliseconds per call, one value per round and name. Every round times every name once, starting one further each time."""
    repeats = {}
    for name, call in calls.items():
        call(), call()  # warm up
        start = clock()
        call()
        repeats[name] = max(1, math.ceil(MIN_SAMPLE_MS / max(1e-3, 1e3 * (clock() - start))))
    names, samples = list(calls), {name: [] for name in calls}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            call, n = calls[name], repeats[name]
            start = clock()
            for _ in range(n):
                call()
            samples[name].append(1e3 * (clock() - start) / n)
    return samples


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
    return row | {"ratio": statistics.median(ratios), "ratio_p20": quantile(ratios, 0.2), "ratio_p80": quantile(ratios, 0.8)}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return provenance("")["hardware"]["cpu"]


def _prepare(device: str, threads: int) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here; use --device cpu")
    if threads < 1:
        raise ValueError(f"--threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "no CUDA runtime" is no news on a CPU


def _weights_read(model: nn.Module) -> int:
    """Bytes of weights one forward of a dense or packed network reads (biases and normalisation not counted)."""
    total = 0
    for module in model.modules():
        if isinstance(module, packed._Packed):
            total += module.weight_bytes()
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            total += module.weight.numel() * module.weight.element_size()
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            total += module.in_proj_weight.numel() * module.in_proj_weight.element_size()
    return total


def _compiled(model: nn.Module, x: Tensor) -> tuple[Callable[[Tensor], Tensor], str | None]:
    """torch.compile with frozen weights, already compiled for x; or why it is not to be had here."""
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    call = torch.compile(model, dynamic=False)
    try:
        with torch.no_grad(), inductor.patch(freezing=True):
            call(x)
    except Exception as error:  # noqa: BLE001 (no compiler, unsupported Python, ...: the row says which)
        return model, f"torch.compile failed: {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    return call, None


def variants_of(model: nn.Module, config: RunConfig, x: Tensor, run_id: str | None) -> list[Variant]:
    """Every way this suite can run a trained (eval-mode) network on x."""
    plain = packed.dense(model).eval().to(x.device)
    reference = copy.deepcopy(plain)

    def variant(implementation: str, network: nn.Module, compiled: bool = False) -> Variant:
        call, why = _compiled(network, x) if compiled else (network, None)
        return Variant(config.binarizer, implementation, call, reference, _weights_read(network), run_id, why)

    found = [variant("dense", plain)]
    if config.binarizer == "full_precision":
        return [*found, variant("dense, torch.compile", plain, compiled=True)]
    small = copy.deepcopy(model)
    rows = packed.pack_(small)
    if any(row.how == "tile reuse" for row in rows):
        small = small.eval().to(x.device)
        found += [variant("tile reuse", small), variant("tile reuse, torch.compile", small, compiled=True)]
    return found


def time_case(
    case: str, variants: list[Variant], x: Tensor, threads: int, device: str, info: dict[str, Any], command: str
) -> LatencyRecord:
    """Gates and times the variants on x: (B, C, H, W); ratios are to full precision run densely in the same rounds."""
    usable = [v for v in variants if v.unavailable is None]
    errors = gate(usable, x)
    clock_name, clock = _clock(device, threads)
    with torch.no_grad():
        samples = interleave({v.name: lambda v=v: v.call(x) for v in usable}, clock)
    baseline = samples.get(f"full_precision [{BASELINE}]")
    rows = []
    for v in variants:
        row = {"binarizer": v.binarizer, "implementation": v.implementation, "run_id": v.run_id, "weight_bytes": v.weight_bytes}
        if v.unavailable is None:
            row |= {"unavailable": None, "relative_error": errors[v.name], **statistics_of(samples[v.name], baseline)}
        else:
            row |= {"unavailable": v.unavailable}
        rows.append(row)
    info |= {"batch": x.shape[0], "threads": threads, "clock": clock_name, "tolerance": TOLERANCE, "baseline": BASELINE}
    return LatencyRecord(case, _slug(_device_name(device)), rows, info, provenance(command, _device_name(device), threads))


def _show(record: LatencyRecord) -> None:
    print(f"\n{record.case}  ({record.case_info['clock']}, {record.case_info['threads']} thread(s))")
    print(f"{'method [implementation]':<64}{'p50 ms':>9}{'p20':>9}{'p80':>9}{'n':>4}{'x dense':>9}{'weights':>12}{'error':>9}")
    for row in record.rows:
        name = f"{row['binarizer']} [{row['implementation']}]"
        if row["unavailable"]:
            print(f"{name:<64}  {row['unavailable']}")
            continue
        ratio = "—" if row["ratio"] is None else f"{row['ratio']:.2f}"
        print(
            f"{name:<64}{row['time_ms_p50']:>9.3f}{row['time_ms_p20']:>9.3f}{row['time_ms_p80']:>9.3f}{row['n']:>4}{ratio:>9}"
            f"{row['weight_bytes']:>10,} B{row['relative_error']:>9.1e}"
        )
    sys.stdout.flush()


def _pick(runs: Iterable[RunRecord]) -> dict[tuple[str, str], list[RunRecord]]:
    """(data, model) -> one finished run with a checkpoint per binarizer: that of the lowest seed."""
    chosen: dict[tuple[str, str], dict[str, RunRecord]] = {}
    for run in sorted(runs, key=lambda r: r.config["seed"]):
        key = (run.config["data"], run.config["model"])
        chosen.setdefault(key, {}).setdefault(run.config["binarizer"], run)
    order = {"full_precision": 0}
    return {
        k: sorted(v.values(), key=lambda r: (order.get(r.config["binarizer"], 1), r.config["binarizer"]))
        for k, v in chosen.items()
    }


def suite(name: str, results: Path, device: str = "cpu", threads: int = 1, batches: Iterable[int] = (1, 64)) -> dict[str, Any]:
    """Times the trained runs of sweep `name`, one case per data set, model and batch. Raises ValueError where there are none."""
    _prepare(device, threads)
    store = RunStore(results)
    runs = [r for r in store.runs([]) if r.sweep == name and r.status == "finished"]
    usable = [r for r in runs if (r.path / "checkpoints" / "best.ckpt").exists()]
    if not usable:
        known = sorted({p.name for p in (results / "runs").glob("*/")}) if (results / "runs").exists() else []
        why = f"its {len(runs)} finished runs have no checkpoints here (they are not committed)" if runs else "no finished runs"
        raise ValueError(
            f"suite {name!r}: {why} under {results}; run: tbn-bench sweep sweeps/{name}.yaml. Sweeps there: {', '.join(known) or 'none'}"
        )
    command = f"tbn-bench latency --suite {name} --results {shlex.quote(str(results))} --device {device} --threads {threads}"
    cases = []
    for (data_call, model_call), chosen in _pick(usable).items():
        loaded = [(run, *assembly.trained(run)[:2]) for run in chosen]
        for _, data, _ in loaded:
            data.setup()
        _accuracy_check(loaded, device)
        for batch in batches:
            raw = loaded[0][1].splits["test"][0]
            x = loaded[0][1].prepare(raw[torch.arange(batch) % len(raw)]).to(device)
            variants = [v for run, _, model in loaded for v in variants_of(model, make(run.config), x, run.run_id)]
            case = f"{_slug(model_call)}-{_slug(data_call)}-b{batch}-t{threads}"
            info = {"data": data_call, "model": model_call, "sweep": name}
            record = time_case(case, variants, x, threads, device, info, command)
            store.write_latency(record)
            _show(record)
            cases.append(case)
    return {"suite": name, "cases": cases}


def _accuracy_check(loaded: list[tuple[RunRecord, Any, nn.Module]], device: str) -> None:
    """The packed network must classify the whole test set as well as the record says, before its speed means anything."""
    for run, data, model in loaded:
        network = copy.deepcopy(model)
        with contextlib.suppress(ValueError):  # full precision has nothing to pack
            packed.pack_(network)
        network = network.eval().to(device)
        x, y = data.splits["test"]
        with torch.no_grad():
            hits = sum(
                int((network(data.prepare(a.to(device))).argmax(1).cpu() == b).sum())
                for a, b in zip(x.split(256), y.split(256), strict=True)
            )
        recorded = run.summary["test/top1"] * len(y)
        if abs(hits - recorded) > max(1.5, 0.0005 * len(y)):
            raise ParityError(
                f"run {run.run_id}: {hits} of {len(y)} test samples right, its record says {recorded:.0f}; nothing timed"
            )


def case(config: RunConfig, results: Path, device: str, threads: int, batches: Iterable[int]) -> dict[str, Any]:
    """Times one untrained network, full precision and `config.binarizer` side by side, on images of config.data's shape."""
    _prepare(device, threads)
    store, cases = RunStore(results), []
    configs = [config.model_copy(update={"binarizer": "full_precision"})]
    if config.binarizer != "full_precision":
        configs.append(config)
    networks = [(c, assembly.build(c)[1].eval()) for c in configs]
    in_shape = assembly.build(configs[0])[0].in_shape
    command = f"{config.command.replace('tbn-bench train', 'tbn-bench latency')} --device {device} --threads {threads}"
    for batch in batches:
        if batch < 1:
            raise ValueError(f"--batch must be at least 1, got {batch}")
        x = torch.randn(batch, *in_shape, generator=torch.Generator().manual_seed(0)).to(device)
        variants = [v for c, model in networks for v in variants_of(model, c, x, None)]
        name = f"{_slug(config.model)}-{_slug(config.binarizer)}-untrained-b{batch}-t{threads}"
        info = {"data": config.data, "model": config.model, "sweep": None, "untrained": True}
        record = time_case(name, variants, x, threads, device, info, f"{command} --batch {batch}")
        store.write_latency(record)
        _show(record)
        cases.append(name)
    return {"cases": cases}


_RESNET18_CONVS = ((64, 32), (128, 16), (256, 8), (512, 4))  # (channels, height = width) of the 3x3 stages on CIFAR


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
        raise ParityError(f"{name}: output or a gradient is off by {error:.2e} (allowed {GRADIENT_TOLERANCE:.0e}); not timed")
    return error


_FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


def _conv_layers(channels: int, ps: list[int], device: str) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {"full_precision": nn.Conv2d(channels, channels, 3, padding=1, bias=False)}
    for p in ps:
        for gradient in ("elementwise", "tile"):
            holder = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
            spec = f"tbn(gradient={gradient!r}, min_layer_size=0, p={p})"
            binarize_(holder, spec)
            layers[spec] = holder[0]
    return {k: v.to(device) for k, v in layers.items()}


def training_steps(results: Path, ps: list[int], batch: int, threads: int, device: str) -> dict[str, Any]:
    """Times one training step of ResNet-18's 3x3 convolutions: full precision, and tbn at each p with both gradients.

    Every row runs in both memory formats; ratios are to full precision in whichever format serves it better.
    """
    _prepare(device, threads)
    store, cases = RunStore(results), []
    clock_name, clock = _clock(device, threads)
    command = f"tbn-bench bench --p {' '.join(map(str, ps))} --batch {batch} --threads {threads} --device {device}"
    for channels, size in _RESNET18_CONVS:
        layers = _conv_layers(channels, ps, device)
        steps, errors = {}, {}
        for format_name, memory_format in _FORMATS.items():
            x = torch.randn(batch, channels, size, size, device=device).to(memory_format=memory_format).requires_grad_()
            grad = torch.randn(batch, channels, size, size, device=device).to(memory_format=memory_format)
            for spec, layer in layers.items():
                errors[spec, format_name] = _check_gradients(f"{spec} {format_name}", layer, x, grad)
                steps[spec, format_name] = _step(copy.deepcopy(layer), x, grad)
        samples = interleave(steps, clock, rounds=15)
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
        record = LatencyRecord(name, _slug(_device_name(device)), rows, info, provenance(command, _device_name(device), threads))
        store.write_latency(record)
        _show(record)
        cases.append(name)
    return {"cases": cases}
