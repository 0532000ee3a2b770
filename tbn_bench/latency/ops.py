"""Op-level cases: single linear layers and convolutions at the shapes of networks that people run.

p = 1, 4 and 8.
"""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench import convert
from tbn_bench.config import make
from tbn_bench.convert.binarize import binarize_
from tbn_bench.convert.cost import cost
from tbn_bench.format import bits
from tbn_bench.kernels import stored_tile
from tbn_bench.kernels.tiled_linear import tiled_linear
from tbn_bench.latency import litespark
from tbn_bench.latency.gate import Variant
from tbn_bench.latency.peers import (
    BF16_TOLERANCE,
    INT8_TOLERANCE,
    Call,
    Maker,
    Setting,
    compiled,
    graphed,
    peer,
)
from tbn_bench.latency.show import show
from tbn_bench.latency.timing import prepare, time_case
from tbn_bench.latency.variants import variants_of
from tbn_bench.layers import packed
from tbn_bench.records.store import RunStore

SPECS = ("full_precision", "bwn", "tbn(p=4, min_layer_size=0)", "tbn(p=8, min_layer_size=0)")

Case = tuple[Callable[[], nn.Module], tuple[int, ...]]  # layer, shape of one input


def _linear(k: int, n: int) -> Case:
    def layer() -> nn.Module:
        return nn.Linear(k, n)

    return layer, (k,)


def _conv(c: int, o: int, kernel: int, size: int, stride: int = 1) -> Case:
    def layer() -> nn.Module:
        padding = kernel // 2
        return nn.Conv2d(c, o, kernel, stride, padding, bias=False)

    return layer, (c, size, size)


# suite -> case -> (layer, shape of one input)
CASES: dict[str, dict[str, Case]] = {
    "linear": {
        "linear_768x3072": _linear(768, 3072),
        "linear_3072x768": _linear(3072, 768),
        "linear_4096x4096": _linear(4096, 4096),
    },
    "conv": {
        "conv3x3_64at32": _conv(64, 64, 3, 32),
        "conv3x3_128at16": _conv(128, 128, 3, 16),
        "conv3x3_256at8": _conv(256, 256, 3, 8),
        "conv3x3_512at4": _conv(512, 512, 3, 4),
        "conv3x3_stride2_64to128at32": _conv(64, 128, 3, 32, 2),
        "conv1x1_1024to256at14": _conv(1024, 256, 1, 14),
        "conv1x1_128to1024at32": _conv(128, 1024, 1, 32),
    },
}


def _kept_output(variant: Variant) -> Variant:
    """The same native call, which writes into one buffer that is kept.

    An engine with its own memory would do so.
    """
    call = copy.copy(variant.call)
    call.keep_output = True
    name = f"{variant.implementation}, kept output"
    return dataclasses.replace(variant, implementation=name, call=call)


def _in_channels_last(variants: list[Variant], x: Tensor) -> list[Variant]:
    """Convolutions inside a network of that layout.

    Input and output are channels last, and nothing is converted.
    """
    last = x.to(memory_format=torch.channels_last)
    kinds = ("native", "dense, channels last")
    found = []
    for variant in variants:
        if variant.unavailable is not None or not variant.implementation.startswith(kinds):
            continue

        own = variant.implementation.removesuffix(", channels last")
        found.append(
            dataclasses.replace(
                variant,
                implementation=f"{own}, channels last throughout",
                call=functools.partial(_on, variant.call, last),
            )
        )
    return found


def _on(call: Call, x: Tensor, _: Tensor) -> Tensor:
    """call on x instead of the case's own input."""
    return call(x)


def _addmm(layer: nn.Linear, reference: nn.Module, x: Tensor) -> Variant:
    out = torch.empty(len(x), layer.out_features)
    weight = layer.weight.detach().T
    bias = layer.bias.detach()
    size = layer.weight.numel() * 4

    def call(batch: Tensor) -> Tensor:
        return torch.addmm(bias, batch, weight, out=out)

    return Variant("full_precision", "dense, kept output", call, reference, size)


def _gemlite(layer: packed.PackedLinear) -> Call:
    """GemLite's 1-bit weights, one scale per row: (bit - 1/2) (2 alpha).

    Raises ImportError where it is not installed.
    """
    from gemlite.helper import A16W1_HQQ_INT

    tile_bits = layer.tile_bits.cpu().numpy()
    signs = torch.from_numpy(bits.unpack(tile_bits, layer.numel)).reshape(layer.shape)
    alphas = stored_tile.row_scales(layer.alphas.cpu(), layer.shape[0])
    scales = 2 * alphas[:, None]
    halves = torch.full_like(scales, 0.5)
    helper = A16W1_HQQ_INT(device="cuda", dtype=torch.bfloat16)
    made = helper.from_weights(
        (signs > 0).to(torch.uint8),
        scales.bfloat16(),
        halves.bfloat16(),
        layer.bias,
    )
    return lambda x: made(x)


def _torchao_weights(plain: nn.Module, x: Tensor) -> Call:
    """torchao's 8-bit weights with bfloat16 activations, compiled."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    small = nn.Sequential(copy.deepcopy(plain))
    quantize_(small, Int8WeightOnlyConfig())
    return compiled(small, x)


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """An implementation of one layer on a GPU, and what it must compute."""

    binarizer: str
    reference: nn.Module
    maker: Maker

    def variants(self, x: Tensor) -> list[Variant]:
        """By itself, and as a CUDA graph."""

        def as_graph() -> Call:
            return graphed(self.maker.build(), x)

        name = f"{self.maker.implementation}, CUDA graph"
        in_graph = dataclasses.replace(self.maker, implementation=name, build=as_graph)
        return [
            peer(self.binarizer, self.maker, self.reference),
            peer(self.binarizer, in_graph, self.reference),
        ]


def _ours(name: str, call: Call, read: int) -> Maker:
    return Maker(name, lambda: call, read, BF16_TOLERANCE)


def _foreign(name: str, build: Callable[[], Call], read: int) -> Maker:
    return Maker(name, build, read, INT8_TOLERANCE, foreign=True)


def _cuda_variants(layer: nn.Linear, x: Tensor) -> list[Variant]:
    """bfloat16 on a GPU, each by itself and as a CUDA graph. x: (M, K) bfloat16.

    cuBLAS, tile reuse on it, and the Triton kernels.
    """
    plain = copy.deepcopy(layer).bfloat16().cuda()
    size = 2 * layer.weight.numel()
    exact = nn.Sequential(copy.deepcopy(plain))
    by_torchao = functools.partial(_torchao_weights, plain, x)
    torchao = _foreign("torchao int8 weights", by_torchao, size // 2)
    own = [_Candidate("full_precision", exact, _ours("dense", plain, size))]
    foreign = [_Candidate("full_precision", exact, torchao)]
    for spec in SPECS[1:]:
        network = nn.Sequential(copy.deepcopy(layer))
        binarize_(network, spec)
        reference = convert.dense(network).cuda()
        convert.pack_(network)
        stored = network.cuda()[0]
        half = copy.deepcopy(network).bfloat16()[0]
        read = stored.tile_bits.numel() + 4 * stored.alphas.numel()
        triton = functools.partial(_by_triton, stored)
        own.append(_Candidate(spec, reference, _ours("tile reuse", half, size // stored.p)))
        own.append(_Candidate(spec, reference, _ours("triton", triton, read)))
        if stored.p == 1:
            gemlite = _foreign("GemLite", functools.partial(_gemlite, stored), read)
            foreign.append(_Candidate(spec, reference, gemlite))
    found = []
    for candidate in own + foreign:
        found += candidate.variants(x)
    return found


def _by_triton(layer: packed.PackedLinear, x: Tensor) -> Tensor:
    return tiled_linear(
        x, layer.tile_bits, layer.alphas, layer.bias, layer.shape, layer.p, "triton"
    )


def _temperatures(batch: int) -> tuple[bool, ...]:
    """Whether caches are cold: batch 1 is timed hot and cold."""
    return (False, True) if batch == 1 else (False,)


def _cuda_suite(results: Path, batches: Iterable[int]) -> dict[str, Any]:
    prepare("cuda", 1)
    store = RunStore(results)
    done = []
    batches = list(batches)
    for size in (4096, 8192):
        torch.manual_seed(0)
        layer = nn.Linear(size, size)
        network = f"linear_{size}x{size}"
        for batch in batches:
            x = torch.randn(batch, size, device="cuda", dtype=torch.bfloat16)
            with torch.no_grad():
                variants = _cuda_variants(layer, x)
            info = {
                "data": None,
                "model": network,
                "sweep": None,
                "dtype": "bfloat16",
            }
            command = f"tbn-bench latency --suite linear --device cuda --batch {batch}"
            for cold in _temperatures(batch):
                case = f"op-{network}-bf16-b{batch}{'-cold' if cold else ''}"
                record = time_case(case, variants, x, 1, "cuda", info, command, cold)
                store.write_latency(record)
                show(record)
                done.append(record.case)
    return {"suite": "linear", "cases": done}


def suite(
    name: str, results: Path, threads: int, batches: Iterable[int], device: str = "cpu"
) -> dict[str, Any]:
    """Times every case of an op-level suite ("linear", "conv") with all its peers.

    Weights and inputs are random. On CUDA: square linear layers in bfloat16. Raises ValueError for
    a suite that does not exist there.
    """
    if device == "cuda":
        if name != "linear":
            raise ValueError(f"--device cuda has the suite linear, not {name!r}")
        return _cuda_suite(results, batches)

    prepare("cpu", threads)
    store = RunStore(results)
    done = []
    batches = list(batches)
    for case, (layer, in_shape) in CASES[name].items():
        torch.manual_seed(0)
        trained = layer()
        for batch in batches:
            x = torch.randn(batch, *in_shape, generator=torch.Generator().manual_seed(0))
            variants = _variants(trained, x, threads)
            command = f"tbn-bench latency --suite {name} --threads {threads} --batch {batch}"
            info = {
                "data": None,
                "model": case,
                "sweep": None,
                "tile_macs": True,
                "input": math.prod(in_shape),
            }
            for cold in _temperatures(batch):
                full = f"op-{case}-b{batch}-t{threads}{'-cold' if cold else ''}"
                record = time_case(full, variants, x, threads, "cpu", info, command, cold)
                store.write_latency(record)
                show(record)
                done.append(full)
    return {"suite": name, "cases": done}


def _variants(layer: nn.Module, x: Tensor, threads: int) -> list[Variant]:
    """The layer by every spec and implementation. x: (B, ...)."""
    in_shape = tuple(x.shape[1:])
    found: list[Variant] = []
    for spec in SPECS:
        network = nn.Sequential(copy.deepcopy(layer))
        macs = cost(network, binarize_(network, spec), in_shape).summary()
        setting = Setting(make({"binarizer": spec}), x, threads, x[:64], macs)
        made = variants_of(network.eval(), setting)
        found += made
        if x.dim() == 4:
            found += _in_channels_last(made, x)
        else:
            found += [_kept_output(variant) for variant in made if _is_native(variant)]
            if spec != SPECS[0]:
                found.append(_by_litespark(network, setting))
    if isinstance(layer, nn.Linear):
        found.insert(1, _addmm(layer, found[0].reference, x))
    return found


def _by_litespark(network: nn.Sequential, setting: Setting) -> Variant:
    """network: a binarized layer."""
    reference = convert.dense(network).eval()
    stored = copy.deepcopy(network)
    convert.pack_(stored)
    return litespark.variant(stored, reference, setting)


def _is_native(variant: Variant) -> bool:
    is_native = variant.implementation.startswith("native")
    return is_native and not variant.unavailable
