"""Model-level cases: the trained runs of a sweep, or one untrained network, with every peer."""

import contextlib
import copy
import functools
import shlex
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench import convert
from tbn_bench import native as _native
from tbn_bench.compiler import executor
from tbn_bench.config import RunConfig, make
from tbn_bench.experiment import build, scoring, weights
from tbn_bench.latency import memory, peers
from tbn_bench.latency.peers import Maker, Setting
from tbn_bench.latency.timing import (
    ParityError,
    Variant,
    device_name,
    prepare,
    show,
    slug,
    time_case,
)
from tbn_bench.layers import packed
from tbn_bench.records.store import RunRecord, RunStore, tell
from tbn_bench.scores import SCORES, score_of

CALIBRATION = 64  # training images that lossy peers are calibrated on
# Share of the test set that a kernel with rounded activations must class as the exact one does. The
# bar of its error is in PRECISIONS.
AGREEMENT = 0.998
PRECISIONS = {"f32": 1e-5, "a14": 1e-3}  # of activations -> tolerance; a14 where this CPU has it

Sizes = dict[str, dict[str, Any]]  # implementation -> bytes by name


def variants_of(model: nn.Module, setting: Setting) -> list[Variant]:
    """Every way to run a trained (eval-mode) network on the setting's x.

    Peers for full precision, reuse and native kernels for the others.
    """
    device = setting.x.device
    plain = convert.dense(model).eval().to(device)
    reference = copy.deepcopy(plain)
    if setting.config.binarizer == "full_precision":
        found = peers.dense_peers(plain, reference, setting)
        return found + _by_plan(plain, reference, setting)
    small = copy.deepcopy(model)
    rows = convert.pack_(small)
    small = small.eval().to(device)
    kernels = _by_plan(small, reference, setting) + _triton(small, reference, setting)
    if not any(row.how == "tile reuse" for row in rows):
        return kernels
    return _by_reuse(small, reference, setting) + kernels


def _by_reuse(small: nn.Module, reference: nn.Module, setting: Setting) -> list[Variant]:
    """The packed network by torch; it is materialised in place."""
    _materialize(small)
    read = peers.weights_read(small)
    makers = [Maker("tile reuse", lambda: small, read)]
    if not setting.few:
        fused = functools.partial(peers.compiled, small, setting.x)
        makers.append(Maker("tile reuse, torch.compile", fused, read))
    found = []
    for maker in makers:
        variant = peers.peer(setting.config.binarizer, maker, reference, setting.run_id)
        found.append(variant)
    return found


def _materialize(network: nn.Module) -> None:
    """Expands the layers that are still packed, for torch."""
    for module in network.modules():
        if isinstance(module, packed.Packed):
            module.materialize_()


def _by_plan(network: nn.Module, reference: nn.Module, setting: Setting) -> list[Variant]:
    """The plan executor in each precision.

    Full precision has signs nowhere and runs in float32 alone.
    """
    if setting.x.device.type != "cpu":
        return []
    is_full = setting.config.binarizer == "full_precision"
    found = []
    for precision in PRECISIONS:
        if is_full and precision != "f32":
            continue
        variant = _native_variant(network, reference, setting, precision)
        found.append(variant)
    return found


def _native_variant(
    network: nn.Module,
    reference: nn.Module,
    setting: Setting,
    precision: str,
) -> Variant:
    """By the plan executor, or the row that says why not."""
    binarizer = setting.config.binarizer
    run, why = executor.executor(network, setting.x, threads=setting.threads, precision=precision)
    if run is None:
        name = f"native {precision}"
        return Variant(binarizer, name, network, reference, 0, setting.run_id, why)
    extra = {
        "tile_macs": setting.macs["distinct_macs"],
        "level": run.level,
        "precision": precision,
        "in_torch": run.torch_nodes,
        "in_torch_reasons": run.reasons,
    }
    return Variant(
        binarizer,
        native_name(run),
        run,
        reference,
        run.weight_bytes(),
        setting.run_id,
        tolerance=PRECISIONS[precision],
        extra=extra,
    )


def _triton(small: nn.Module, reference: nn.Module, setting: Setting) -> list[Variant]:
    """The packed network on a GPU with nothing but its bits, each layer by a Triton kernel.

    Alone, as a CUDA graph, and as a CUDA graph in bfloat16.
    """
    x = setting.x
    if x.device.type != "cuda":
        return []
    network = copy.deepcopy(small)
    left = convert.implement_(network)
    _materialize(network)  # the layers that are left to torch
    read = peers.weights_read(network)
    exact = peers.EXACT["cuda"]

    def half() -> peers.Call:
        return peers.graphed(peers.bf16(network, x, False), x)

    makers = [
        Maker("triton", functools.partial(_called, network, x), read, exact),
        Maker("triton, CUDA graph", functools.partial(peers.graphed, network, x), read, exact),
        Maker("triton bf16, CUDA graph", half, read, peers.BF16_TOLERANCE),
    ]
    found = []
    for maker in makers:
        variant = peers.peer(setting.config.binarizer, maker, reference, setting.run_id)
        variant.extra["in_torch"] = sorted(left)
        found.append(variant)
    return found


def _called(network: nn.Module, x: Tensor) -> nn.Module:
    """The network, once called: an error of its kernels becomes its row's reason."""
    with torch.no_grad():
        network(x)
    return network


def native_name(run: executor.Executor) -> str:
    """As rows call it: "native avx512", "native avx512 a14"."""
    suffix = "" if run.precision == "f32" else f" {run.precision}"
    return f"native {run.level}{suffix}"


def _pick(runs: Iterable[RunRecord]) -> dict[tuple[str, str], list[RunRecord]]:
    """(data, model) -> one finished run with a checkpoint per binarizer.

    It is the run of the lowest seed. Full precision comes first.
    """
    chosen: dict[tuple[str, str], dict[str, RunRecord]] = {}
    for run in sorted(runs, key=lambda r: r.config["seed"]):
        config = run.config
        network = (config["data"], config["model"])
        by_binarizer = chosen.setdefault(network, {})
        by_binarizer.setdefault(config["binarizer"], run)
    picked = {}
    for network, found in chosen.items():
        picked[network] = sorted(found.values(), key=_order)
    return picked


def _order(run: RunRecord) -> tuple[bool, str]:
    """Full precision first, then by binarizer."""
    binarizer = run.config["binarizer"]
    return binarizer != "full_precision", binarizer


def usable_runs(name: str, results: Path) -> list[RunRecord]:
    """Finished runs of sweep `name` whose checkpoints are here.

    Raises ValueError with the command to run where there are none.
    """
    every = RunStore(results).runs([])
    runs = [run for run in every if run.sweep == name and run.status == "finished"]
    usable = [run for run in runs if (run.path / "checkpoints" / "best.ckpt").exists()]
    if usable:
        return usable
    why = "no finished runs"
    if runs:
        why = f"its {len(runs)} finished runs have no checkpoints here (they are not committed)"
    known = sorted({folder.name for folder in (results / "runs").glob("*/")})
    raise ValueError(
        f"suite {name!r}: {why} under {results}; "
        f"run: tbn-bench sweep sweeps/{name}.yaml --results {results}. "
        f"Sweeps there: {', '.join(known) or 'none'}"
    )


@dataclass(frozen=True)
class _Case:
    """A record's name, the batch, and whether caches are flushed before each call."""

    name: str
    batch: int
    cold: bool


def _cases(network: str, batches: Iterable[int], threads: int) -> list[_Case]:
    """Hot ones; batch 1 also with cold caches."""
    found = []
    for batch in batches:
        name = f"{network}-b{batch}-t{threads}"
        found.append(_Case(name, batch, cold=False))
        if batch == 1:
            found.append(_Case(f"{name}-cold", batch, cold=True))
    return found


@dataclass(frozen=True)
class _Trained:
    """A finished run with its data and its network in eval mode."""

    run: RunRecord
    data: Any
    model: nn.Module

    @property
    def is_full_precision(self) -> bool:
        return self.run.config["binarizer"] == "full_precision"


def _load(runs: list[RunRecord]) -> list[_Trained]:
    loaded = []
    for run in runs:
        found = weights.trained(run)
        loaded.append(_Trained(run, found.data, found.model))
    for trained in loaded:
        trained.data.setup()
    return loaded


def suite(
    name: str,
    results: Path,
    device: str = "cpu",
    threads: int = 1,
    batches: Iterable[int] = (1, 64),
    out: Path | None = None,
    skip_done: bool = False,
    few: bool = False,
) -> dict[str, Any]:
    """Times the trained runs of sweep `name`, one case per data set, model and batch.

    out: the folder of the records (default: results). skip_done: a case that is recorded for these
    very runs is left as it is. few: without memory and the peers that take long to build. Raises
    ValueError where there are no runs to time.
    """
    prepare(device, threads)
    usable = usable_runs(name, results)
    store = RunStore(out or results)
    command = (
        f"tbn-bench latency --suite {name} --results {shlex.quote(str(results))} "
        f"--device {device} --threads {threads}"
    )
    if few:
        command += " --few-peers"
    hardware = slug(device_name(device))
    cases: list[str] = []
    for (data_call, model_call), chosen in _pick(usable).items():
        wanted = _cases(f"{slug(model_call)}-{slug(data_call)}", batches, threads)
        if skip_done:
            done = _recorded(store, {run.run_id for run in chosen}, hardware)
            cases += [case.name for case in wanted if case.name in done]
            wanted = [case for case in wanted if case.name not in done]
        if not wanted:
            continue
        loaded = _load(chosen)
        data = loaded[0].data
        accuracy = _accuracy_check(loaded, device)
        footprint = {} if few else _footprints(loaded, device)
        calibration = data.first("train", CALIBRATION)
        variants: list[Variant] = []
        built_for = None
        for case in wanted:
            x = data.first("test", case.batch).to(device)
            if built_for != case.batch:
                built_for = case.batch
                variants = []
                for trained in loaded:
                    run = trained.run
                    config = make(run.config)
                    macs = run.summary or {}
                    setting = Setting(config, x, threads, calibration, macs, run.run_id, few)
                    for variant in variants_of(trained.model, setting):
                        own = variant.implementation
                        variant.extra |= accuracy.get((run.run_id, own), {})
                        variant.extra |= footprint.get(run.run_id, {}).get(own, {})
                        variants.append(variant)
            info = {"data": data_call, "model": model_call, "sweep": name, "tile_macs": True}
            said = f"{command} --batch {case.batch}"
            record = time_case(case.name, variants, x, threads, device, info, said, case.cold)
            store.write_latency(record)
            show(record)
            cases.append(case.name)
        _show_footprint(loaded, footprint)
    return {"suite": name, "device": hardware, "cases": cases}


def _footprints(loaded: list[_Trained], device: str) -> dict[str, Sizes]:
    """Run id -> bytes of file and memory."""
    on_cpu = device == "cpu"
    one = loaded[0].data.first("test", 1)
    found = {}
    for trained in loaded:
        run_id = trained.run.run_id
        found[run_id] = _footprint(trained) if on_cpu else _gpu_footprint(trained, one)
    return found


def _footprint(trained: _Trained) -> Sizes:
    """Implementation -> bytes of the file, and by how much a fresh process grows to run it."""
    network = copy.deepcopy(trained.model)
    engines = {"dense": "dense"}
    if not trained.is_full_precision:
        convert.pack_(network)
        engines = {}
    with contextlib.suppress(_native.NativeUnavailable):
        engines[f"native {_native.level()}"] = "native"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        size = convert.save(network, path, make(trained.run.config).non_defaults)
        found = {}
        for name, engine in engines.items():
            added = memory.in_fresh_process(path, engine) or {}
            grown = {f"memory_{key}": value for key, value in added.items()}
            found[name] = {"file_bytes": size, **grown}
    return found


def _gpu_footprint(trained: _Trained, x: Tensor) -> Sizes:
    """Implementation -> bytes of GPU memory at rest and at the peak of a forward pass of x.

    At rest: weights and whatever is derived from them.
    """
    network = copy.deepcopy(trained.model)
    if trained.is_full_precision:
        return {"dense": memory.on_gpu(network, x)}
    convert.pack_(network)
    kernel = copy.deepcopy(network)
    convert.implement_(kernel)
    return {
        "tile reuse": memory.on_gpu(network, x),
        "triton": memory.on_gpu(kernel, x),
    }


def _show_footprint(loaded: list[_Trained], footprint: dict[str, Sizes]) -> None:
    """File and memory of each network, in bytes."""
    for trained in loaded:
        run = trained.run
        binarizer = run.config["binarizer"]
        own = footprint.get(run.run_id, {})
        for name, sizes in own.items():
            tell(f"{binarizer} [{name}]: {_said(sizes)}")


def _said(sizes: dict[str, Any]) -> str:
    if "gpu_peak_bytes" in sizes:
        resting = sizes["gpu_resting_bytes"]
        peak = sizes["gpu_peak_bytes"]
        return f"{resting:,} B on the GPU at rest, {peak:,} B at the peak"
    grown = _bytes_or_dash(sizes, "memory_grown")
    most = _bytes_or_dash(sizes, "memory_peak")
    return f"file {sizes['file_bytes']:,} B, a fresh process grows by {grown} B (peak {most} B)"


def _bytes_or_dash(sizes: dict[str, Any], key: str) -> str:
    return f"{sizes[key]:,}" if key in sizes else "—"


def _recorded(store: RunStore, run_ids: set[str], device: str) -> set[str]:
    """Cases recorded on this device for exactly these runs."""
    found = set()
    for record in store.latencies([]):
        timed = {row["run_id"] for row in record.rows if row["run_id"]}
        if record.device == device and timed == run_ids:
            found.add(record.case)
    return found


def _accuracy_check(loaded: list[_Trained], device: str) -> dict[tuple[str, str], dict[str, float]]:
    """Checks each of our kernels on the whole test set before it is timed.

    (run id, implementation) -> {score: recomputed, "agreement": share of samples (or points)
    classed as by torch}.

    The packed network must do as well as the record says. Where activations are rounded, it must
    class nearly all samples as torch does (AGREEMENT). Raises ParityError otherwise.
    """
    found = {}
    for trained in loaded:
        run = trained.run
        name = score_of(run.summary)
        expected = None
        for implementation, call in _kernels(trained, device).items():
            batches = list(scoring.outputs(call, trained.data, device))
            score = scoring.score_on_test(run, trained.data, trained.model, batches)
            own = {name: score.found}
            is_right = score.agrees
            if SCORES[name].goal == "max":
                classes = torch.cat([out.argmax(1) for out, _ in batches])
                expected = classes if expected is None else expected
                own["agreement"] = float((classes == expected).float().mean())
                if isinstance(call, executor.Executor) and call.precision != "f32":
                    is_right = _agrees(own["agreement"], len(expected))
            if not is_right:
                raise ParityError(_difference(run, implementation, own, score.recorded))
            found[run.run_id, implementation] = own
    return found


def _kernels(trained: _Trained, device: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """Implementation -> the packed network by it; torch comes first."""
    network = copy.deepcopy(trained.model)
    with contextlib.suppress(ValueError):  # full precision has nothing to pack
        convert.pack_(network)
    network = network.eval().to(device)
    by_torch = "dense" if trained.is_full_precision else "tile reuse"
    calls: dict[str, Callable[[Tensor], Tensor]] = {by_torch: network}
    if device == "cuda" and not trained.is_full_precision:
        kernel = copy.deepcopy(network)
        convert.implement_(kernel)
        calls["triton"] = kernel
    if device == "cpu":
        first = trained.data.first("test", 1)
        for precision in PRECISIONS:
            native, _ = executor.executor(network, first, precision=precision)
            if native is not None:
                calls[native_name(native)] = native
    return calls


def _difference(
    run: RunRecord, implementation: str, found: dict[str, float], recorded: float
) -> str:
    """found: the score and, of classes, the agreement."""
    name = score_of(run.summary)
    score = SCORES[name]
    classed = ""
    if "agreement" in found:
        classed = f" and {found['agreement']:.2%} of it classed as by torch"
    return (
        f"run {run.run_id}, {implementation}: "
        f"{score.label} {score.text(found[name], False)} on the test set, "
        f"its record says {score.text(recorded, False)}{classed}{scoring.precision_hint(run)}; "
        "nothing timed"
    )


def _agrees(agreement: float, samples: int) -> bool:
    """Whether rounded activations change few enough classes.

    That is one in 500, or one where there are fewer samples.
    """
    return agreement >= min(AGREEMENT, 1 - 1.5 / samples)


def case(
    config: RunConfig,
    results: Path,
    device: str,
    threads: int,
    batches: Iterable[int],
) -> dict[str, Any]:
    """Times one untrained network on random images of config.data's shape.

    Full precision and `config.binarizer` are timed side by side.
    """
    prepare(device, threads)
    store = RunStore(results)
    configs = [config.model_copy(update={"binarizer": "full_precision"})]
    if config.binarizer != "full_precision":
        configs.append(config)
    built = [build.build(own) for own in configs]
    in_shape = built[0].data.in_shape
    timed = config.command.replace("tbn-bench train", "tbn-bench latency")
    command = f"{timed} --device {device} --threads {threads}"
    cases = []
    for batch in batches:
        if batch < 1:
            raise ValueError(f"--batch must be at least 1, got {batch}")
        x = torch.randn(batch, *in_shape, generator=torch.Generator().manual_seed(0)).to(device)
        variants = []
        for experiment in built:
            setting = Setting(experiment.config, x, threads, x.cpu(), experiment.cost.summary())
            variants += variants_of(experiment.model.eval(), setting)
        name = f"{slug(config.model)}-{slug(config.binarizer)}-untrained-b{batch}-t{threads}"
        info = {
            "data": config.data,
            "model": config.model,
            "sweep": None,
            "untrained": True,
            "tile_macs": True,
        }
        record = time_case(name, variants, x, threads, device, info, f"{command} --batch {batch}")
        store.write_latency(record)
        show(record)
        cases.append(name)
    return {"cases": cases}
