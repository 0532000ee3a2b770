"""Model-level cases: the trained runs of a sweep, or one untrained network, beside every peer."""

import contextlib
import copy
import functools
import shlex
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench import native as _native
from tbn_bench.compiler import executor
from tbn_bench.config import RunConfig, make
from tbn_bench.experiment import build
from tbn_bench.latency import memory, peers
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
AGREEMENT = 0.998  # of the test set that a kernel with rounded activations must class as the exact one does; the bar of its error is PRECISIONS'


def variants_of(
    model: nn.Module,
    config: RunConfig,
    x: Tensor,
    run_id: str | None,
    threads: int,
    calibration: Tensor,
    macs: dict[str, Any],
    few: bool = False,
) -> list[Variant]:
    """Every way to run a trained (eval-mode) network on x: peers for full precision, reuse and native kernels for the others."""
    plain = packed.dense(model).eval().to(x.device)
    reference = copy.deepcopy(plain)
    if config.binarizer == "full_precision":
        found = peers.dense_peers(plain, reference, x, calibration, threads, run_id, few)
        return found + _by_plan(config, plain, reference, x, run_id, threads, macs)
    small = copy.deepcopy(model)
    rows = packed.pack_(small)
    small = small.eval().to(x.device)
    native = _by_plan(config, small, reference, x, run_id, threads, macs) + _triton(
        config, small, reference, x, run_id
    )
    if not any(row.how == "tile reuse" for row in rows):
        return native
    for module in small.modules():
        if isinstance(module, packed._Packed):
            module.materialize_()
    read = peers.weights_read(small)
    reuse = [peers.peer(config.binarizer, "tile reuse", lambda: small, reference, read, run_id)]
    if not few:
        make_compiled = functools.partial(peers.compiled, small, x)
        reuse.append(
            peers.peer(
                config.binarizer,
                "tile reuse, torch.compile",
                make_compiled,
                reference,
                read,
                run_id,
            )
        )
    return reuse + native


PRECISIONS = {"f32": 1e-5, "a14": 1e-3}  # of activations -> tolerance; a14 where this CPU has it


def _by_plan(
    config: RunConfig,
    network: nn.Module,
    reference: nn.Module,
    x: Tensor,
    run_id: str | None,
    threads: int,
    macs: dict[str, Any],
) -> list[Variant]:
    """The plan executor in each precision; full precision has signs nowhere and runs in float32 alone."""
    if x.device.type != "cpu":
        return []
    found = []
    for precision, tolerance in PRECISIONS.items():
        if precision != "f32" and config.binarizer == "full_precision":
            continue
        run, why = executor.executor(network, x, threads=threads, precision=precision)
        name = "native" if run is None else native_name(run)
        if run is None:
            found.append(
                Variant(config.binarizer, f"native {precision}", network, reference, 0, run_id, why)
            )
            continue
        extra = {
            "tile_macs": macs["distinct_macs"],
            "level": run.level,
            "precision": precision,
            "in_torch": run.torch_nodes,
        }
        found.append(
            Variant(
                config.binarizer,
                name,
                run,
                reference,
                run.weight_bytes(),
                run_id,
                tolerance=tolerance,
                extra=extra,
            )
        )
    return found


def _triton(
    config: RunConfig, small: nn.Module, reference: nn.Module, x: Tensor, run_id: str | None
) -> list[Variant]:
    """The packed network on a GPU with nothing but its bits, each layer by a Triton kernel; alone, as a CUDA graph, and that in bfloat16."""
    if x.device.type != "cuda":
        return []
    network = copy.deepcopy(small)
    left = packed.implement_(network)
    for module in network.modules():
        if isinstance(module, packed._Packed):
            module.materialize_()  # those left to torch
    read, exact = peers.weights_read(network), peers.EXACT["cuda"]
    found = [
        peers.peer(config.binarizer, "triton", lambda: _called(network, x), reference, read, run_id, exact),
        peers.peer(config.binarizer, "triton, CUDA graph", lambda: peers.graphed(network, x), reference, read, run_id, exact),
        peers.peer(
            config.binarizer, "triton bf16, CUDA graph", lambda: peers.graphed(peers.bf16(network, x, False), x), reference, read,
            run_id, peers.BF16_TOLERANCE,
        ),
    ]  # fmt: skip
    for variant in found:
        variant.extra["in_torch"] = sorted(left)
    return found


def _called(network: nn.Module, x: Tensor) -> nn.Module:
    """The network, once called: what its kernels cannot do becomes its row's reason."""
    with torch.no_grad():
        network(x)
    return network


def native_name(run: executor.Executor) -> str:
    """As rows call it: "native avx512", "native avx512 a14"."""
    return f"native {run.level}" + ("" if run.precision == "f32" else f" {run.precision}")


def _pick(runs: Iterable[RunRecord]) -> dict[tuple[str, str], list[RunRecord]]:
    """(data, model) -> one finished run with a checkpoint per binarizer: that of the lowest seed, full precision first."""
    chosen: dict[tuple[str, str], dict[str, RunRecord]] = {}
    for run in sorted(runs, key=lambda r: r.config["seed"]):
        key = (run.config["data"], run.config["model"])
        chosen.setdefault(key, {}).setdefault(run.config["binarizer"], run)
    order = {"full_precision": 0}
    return {
        k: sorted(
            v.values(), key=lambda r: (order.get(r.config["binarizer"], 1), r.config["binarizer"])
        )
        for k, v in chosen.items()
    }


def usable_runs(name: str, results: Path) -> list[RunRecord]:
    """Finished runs of sweep `name` whose checkpoints are here. Raises ValueError, saying what to run, where there are none."""
    runs = [r for r in RunStore(results).runs([]) if r.sweep == name and r.status == "finished"]
    usable = [r for r in runs if (r.path / "checkpoints" / "best.ckpt").exists()]
    if usable:
        return usable
    known = (
        sorted({p.name for p in (results / "runs").glob("*/")})
        if (results / "runs").exists()
        else []
    )
    why = (
        f"its {len(runs)} finished runs have no checkpoints here (they are not committed)"
        if runs
        else "no finished runs"
    )
    raise ValueError(
        f"suite {name!r}: {why} under {results}; run: tbn-bench sweep sweeps/{name}.yaml --results {results}. "
        f"Sweeps there: {', '.join(known) or 'none'}"
    )


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
    """Times the trained runs of sweep `name`, one case per data set, model and batch; records go under `out` (default: results).

    skip_done: a case that is recorded for these very runs is left as it is. few: without memory and the peers that take long to build.
    Raises ValueError where there are no runs to time.
    """
    prepare(device, threads)
    usable, store, cases = usable_runs(name, results), RunStore(out or results), []
    command = f"tbn-bench latency --suite {name} --results {shlex.quote(str(results))} --device {device} --threads {threads}"
    command += " --few-peers" if few else ""
    for (data_call, model_call), chosen in _pick(usable).items():
        wanted = [
            (
                batch,
                cold,
                f"{slug(model_call)}-{slug(data_call)}-b{batch}-t{threads}{'-cold' if cold else ''}",
            )
            for batch in batches
            for cold in ((False, True) if batch == 1 else (False,))
        ]
        if skip_done:
            done = _recorded(store, {r.run_id for r in chosen}, slug(device_name(device)))
            cases += [case for *_, case in wanted if case in done]
            wanted = [entry for entry in wanted if entry[2] not in done]
        if not wanted:
            continue
        loaded = [(run, *build.trained(run)[:2]) for run in chosen]
        for _, data, _ in loaded:
            data.setup()
        accuracy = _accuracy_check(loaded, device)
        data = loaded[0][1]
        footprint = {}
        if not few:
            one = data.first("test", 1)
            footprint = {
                run.run_id: _footprint(run, model)
                if device == "cpu"
                else _gpu_footprint(run, model, one)
                for run, _, model in loaded
            }
        calibration = data.first("train", CALIBRATION)
        variants, built_for = [], None
        for batch, cold, case in wanted:
            x = data.first("test", batch).to(device)
            if built_for != batch:
                variants, built_for = [], batch
                for run, _, model in loaded:
                    made = variants_of(
                        model,
                        make(run.config),
                        x,
                        run.run_id,
                        threads,
                        calibration,
                        run.summary or {},
                        few,
                    )
                    for v in made:
                        v.extra |= accuracy.get((run.run_id, v.implementation), {})
                        v.extra |= footprint.get(run.run_id, {}).get(v.implementation, {})
                    variants += made
            info = {"data": data_call, "model": model_call, "sweep": name, "tile_macs": True}
            record = time_case(
                case, variants, x, threads, device, info, f"{command} --batch {batch}", cold
            )
            store.write_latency(record)
            show(record)
            cases.append(case)
        _show_footprint(loaded, footprint)
    return {"suite": name, "device": slug(device_name(device)), "cases": cases}


def _footprint(run: RunRecord, model: nn.Module) -> dict[str, dict[str, Any]]:
    """Implementation -> bytes of the file, and what a fresh process grows by when it loads and runs it."""
    network = copy.deepcopy(model)
    full = run.config["binarizer"] == "full_precision"
    if not full:
        packed.pack_(network)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        size = packed.save(network, path, make(run.config).non_defaults)
        engines = {"dense": "dense"} if full else {}
        with contextlib.suppress(_native.NativeUnavailable):
            engines[f"native {_native.level()}"] = "native"
        return {
            name: {
                "file_bytes": size,
                **{f"memory_{k}": v for k, v in (memory.in_fresh_process(path, e) or {}).items()},
            }
            for name, e in engines.items()
        }


def _gpu_footprint(run: RunRecord, model: nn.Module, x: Tensor) -> dict[str, dict[str, Any]]:
    """Implementation -> bytes of GPU memory at rest (weights and what is derived from them) and at the peak of a forward
    pass of x."""
    if run.config["binarizer"] == "full_precision":
        return {"dense": memory.on_gpu(copy.deepcopy(model), x)}
    network = copy.deepcopy(model)
    packed.pack_(network)
    kernel = copy.deepcopy(network)
    packed.implement_(kernel)
    return {"tile reuse": memory.on_gpu(network, x), "triton": memory.on_gpu(kernel, x)}


def _show_footprint(loaded: list[Any], footprint: dict[str, dict[str, dict[str, Any]]]) -> None:
    """File and memory of each network, in bytes."""
    for run, _, _ in loaded:
        for name, sizes in footprint.get(run.run_id, {}).items():
            if "gpu_peak_bytes" in sizes:
                tell(
                    f"{run.config['binarizer']} [{name}]: {sizes['gpu_resting_bytes']:,} B on the GPU at rest, {sizes['gpu_peak_bytes']:,} B at the peak"
                )
                continue
            grown, peak = (
                f"{sizes[k]:,}" if k in sizes else "—" for k in ("memory_grown", "memory_peak")
            )
            tell(
                f"{run.config['binarizer']} [{name}]: file {sizes['file_bytes']:,} B, a fresh process grows by {grown} B (peak {peak} B)"
            )


def _recorded(store: RunStore, run_ids: set[str], device: str) -> set[str]:
    """Cases recorded on this device for exactly these runs."""
    return {
        r.case
        for r in store.latencies([])
        if r.device == device and {row["run_id"] for row in r.rows if row["run_id"]} == run_ids
    }


def _accuracy_check(
    loaded: list[tuple[RunRecord, Any, nn.Module]], device: str
) -> dict[tuple[str, str], dict[str, float]]:
    """The packed network, by each of our kernels, must do on the whole test set as well as the record says, before it is timed; where
    activations are rounded, it must class nearly all of it as torch does (AGREEMENT).

    (run id, implementation) -> {score: recomputed, "agreement": share of samples (or points) classed as by torch}.
    """
    found = {}
    for run, data, model in loaded:
        network = copy.deepcopy(model)
        with contextlib.suppress(ValueError):  # full precision has nothing to pack
            packed.pack_(network)
        network = network.eval().to(device)
        calls = {"dense" if run.config["binarizer"] == "full_precision" else "tile reuse": network}
        if device == "cuda" and "tile reuse" in calls:
            calls["triton"] = copy.deepcopy(network)
            packed.implement_(calls["triton"])
        first = data.first("test", 1)
        for precision in PRECISIONS if device == "cpu" else ():
            native, _ = executor.executor(network, first, precision=precision)
            calls |= {native_name(native): native} if native is not None else {}
        name, expected = score_of(run.summary), None
        for implementation, call in calls.items():
            batches = list(build.outputs(call, data, device))
            value, recorded, allowed = build.score_on_test(run, data, model, batches)
            agreement = None
            if SCORES[name].goal == "max":
                classes = torch.cat([out.argmax(1) for out, _ in batches])
                expected = classes if expected is None else expected
                agreement = float((classes == expected).float().mean())
            rounds = isinstance(call, executor.Executor) and call.precision != "f32"
            if not (
                _agrees(agreement, len(expected))
                if rounds and agreement is not None
                else abs(value - recorded) <= allowed
            ):
                classed = (
                    "" if agreement is None else f" and {agreement:.2%} of it classed as by torch"
                )
                raise ParityError(
                    f"run {run.run_id}, {implementation}: {SCORES[name].label} {SCORES[name].text(value, False)} on the test set, its "
                    f"record says {SCORES[name].text(recorded, False)}{classed}{build.precision_hint(run)}; nothing timed"
                )
            found[run.run_id, implementation] = {name: value} | (
                {} if agreement is None else {"agreement": agreement}
            )
    return found


def _agrees(agreement: float, samples: int) -> bool:
    """Whether rounded activations change few enough classes: one in 500, or one where there are fewer samples."""
    return agreement >= min(AGREEMENT, 1 - 1.5 / samples)


def case(
    config: RunConfig, results: Path, device: str, threads: int, batches: Iterable[int]
) -> dict[str, Any]:
    """Times one untrained network, full precision and `config.binarizer` side by side, on images of config.data's shape."""
    prepare(device, threads)
    store, cases = RunStore(results), []
    configs = [config.model_copy(update={"binarizer": "full_precision"})]
    if config.binarizer != "full_precision":
        configs.append(config)
    built = [build.build(c) for c in configs]
    in_shape = built[0][0].in_shape
    command = f"{config.command.replace('tbn-bench train', 'tbn-bench latency')} --device {device} --threads {threads}"
    for batch in batches:
        if batch < 1:
            raise ValueError(f"--batch must be at least 1, got {batch}")
        x = torch.randn(batch, *in_shape, generator=torch.Generator().manual_seed(0)).to(device)
        variants = [
            v
            for c, (_, model, _, total) in zip(configs, built, strict=True)
            for v in variants_of(model.eval(), c, x, None, threads, x.cpu(), total.summary())
        ]
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
