"""Every way to run a network: by torch, by tile reuse, by native kernels, by each peer."""

import copy
import functools

import torch
from torch import Tensor, nn

from tbn_bench import convert
from tbn_bench.compiler import executor
from tbn_bench.latency import peers
from tbn_bench.latency.gate import Variant
from tbn_bench.latency.peers import Maker, Setting
from tbn_bench.layers import packed

# Of activations -> tolerance. a14 is timed where this CPU has it.
PRECISIONS = {"f32": 1e-5, "a14": 1e-3}


def variants_of(
    model: nn.Module, setting: Setting, dense: nn.Module | None = None
) -> list[Variant]:
    """Every way to run a trained (eval-mode) network on the setting's x.

    Peers for full precision, reuse and native kernels for the others. dense: of a network that is
    packed already, the same with dense weights.
    """
    device = setting.x.device
    plain = convert.dense(model) if dense is None else copy.deepcopy(dense)
    plain = plain.eval().to(device)
    reference = copy.deepcopy(plain)
    if setting.config.binarizer == "full_precision":
        found = peers.dense_peers(plain, reference, setting)
        return found + _by_executor(plain, reference, setting)

    small = copy.deepcopy(model)
    if dense is None:
        convert.pack_(small)
    small = small.eval().to(device)
    kernels = _by_executor(small, reference, setting) + _triton(small, reference, setting)
    if device.type == "cpu" and not setting.few:
        kernels += peers.coded_peers(small, reference, setting)
    layers = [module for module in small.modules() if isinstance(module, packed.Packed)]
    if not any(layer.how == "tile reuse" for layer in layers):
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


def _by_executor(network: nn.Module, reference: nn.Module, setting: Setting) -> list[Variant]:
    """The executor in each precision.

    A full-precision network has no signs, so it runs in float32 only.
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
    """The executor, or a row that says why it cannot run the network."""
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
        call = peers.bf16(network, x, False)
        return peers.graphed(call, x)

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
    name = f"native {run.level}"
    if run.precision == "f32":
        return name
    return f"{name} {run.precision}"
