"""Op-level cases: single linear layers and convolutions at the shapes of the networks people run, p = 1, 4 and 8."""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench.config import make
from tbn_bench.convert.binarize import binarize_
from tbn_bench.convert.cost import cost
from tbn_bench.format import bits
from tbn_bench.kernels import _tile
from tbn_bench.kernels.tiled_linear import tiled_linear
from tbn_bench.latency.networks import variants_of
from tbn_bench.latency.peers import BF16_TOLERANCE, INT8_TOLERANCE, compiled, graphed, peer
from tbn_bench.latency.timing import Variant, prepare, show, time_case
from tbn_bench.layers import packed
from tbn_bench.records.store import RunStore

SPECS = ("full_precision", "bwn", "tbn(p=4, min_layer_size=0)", "tbn(p=8, min_layer_size=0)")


def _linear(k: int, n: int) -> tuple[Callable[[], nn.Module], tuple[int, ...]]:
    return lambda: nn.Linear(k, n), (k,)


def _conv(
    c: int, o: int, kernel: int, size: int, stride: int = 1
) -> tuple[Callable[[], nn.Module], tuple[int, ...]]:
    return lambda: nn.Conv2d(c, o, kernel, stride, kernel // 2, bias=False), (c, size, size)


# suite -> case -> (layer, shape of one input)
CASES: dict[str, dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]] = {
    "linear": {
        f"linear_{k}x{n}": _linear(k, n) for k, n in ((768, 3072), (3072, 768), (4096, 4096))
    },
    "conv": {
        **{
            f"conv3x3_{c}at{s}": _conv(c, c, 3, s)
            for c, s in ((64, 32), (128, 16), (256, 8), (512, 4))
        },
        "conv3x3_stride2_64to128at32": _conv(64, 128, 3, 32, 2),
        "conv1x1_1024to256at14": _conv(1024, 256, 1, 14),
        "conv1x1_128to1024at32": _conv(128, 1024, 1, 32),
    },
}


def _kept_output(variant: Variant) -> Variant:
    """The same native call writing into one buffer that is kept, as an engine with its own memory would."""
    call = copy.copy(variant.call)
    call.keep_output = True
    return dataclasses.replace(
        variant, implementation=f"{variant.implementation}, kept output", call=call
    )


def _in_channels_last(variants: list[Variant], x: Tensor) -> list[Variant]:
    """Convolutions as they stand inside a network of that layout: input and output channels last, nothing converted."""
    last = x.to(memory_format=torch.channels_last)
    chosen = [
        v
        for v in variants
        if v.unavailable is None and v.implementation.startswith(("native", "dense, channels last"))
    ]
    return [
        dataclasses.replace(
            v,
            implementation=f"{v.implementation.removesuffix(', channels last')}, channels last throughout",
            call=lambda _, v=v: v.call(last),
        )
        for v in chosen
    ]


def _addmm(layer: nn.Linear, reference: nn.Module, x: Tensor) -> Variant:
    out, weight = torch.empty(len(x), layer.out_features), layer.weight.detach().T
    bias = layer.bias.detach()
    size = layer.weight.numel() * 4
    return Variant(
        "full_precision",
        "dense, kept output",
        lambda batch: torch.addmm(bias, batch, weight, out=out),
        reference,
        size,
    )


def _gemlite(layer: packed.PackedLinear) -> Callable[[Tensor], Tensor]:
    """GemLite's 1-bit weights, one scale per row: (bit - 1/2) (2 alpha). Raises ImportError where it is not installed."""
    from gemlite.helper import A16W1_HQQ_INT

    signs = torch.from_numpy(bits.unpack(layer.tile_bits.cpu().numpy(), layer.numel)).reshape(
        layer.shape
    )
    scales = 2 * _tile.row_scales(layer.alphas.cpu(), layer.shape[0])[:, None]
    made = A16W1_HQQ_INT(device="cuda", dtype=torch.bfloat16).from_weights(
        (signs > 0).to(torch.uint8),
        scales.bfloat16(),
        torch.full_like(scales, 0.5).bfloat16(),
        layer.bias,
    )
    return lambda x: made(x)


def _torchao_weights(plain: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """torchao's 8-bit weights with bfloat16 activations, compiled."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    small = nn.Sequential(copy.deepcopy(plain))
    quantize_(small, Int8WeightOnlyConfig())
    return compiled(small, x)


def _cuda_variants(layer: nn.Linear, x: Tensor) -> list[Variant]:
    """bfloat16 on a GPU: cuBLAS, tile reuse on it, and the Triton kernels, each also as a CUDA graph. x: (M, K) bfloat16."""
    plain = copy.deepcopy(layer).bfloat16().cuda()
    size = 2 * layer.weight.numel()
    exact = nn.Sequential(copy.deepcopy(plain))
    calls = [("full_precision", "dense", plain, exact, size)]
    foreign = [
        (
            "full_precision",
            "torchao int8 weights",
            functools.partial(_torchao_weights, plain, x),
            exact,
            size // 2,
        )
    ]
    for spec in SPECS[1:]:
        network = nn.Sequential(copy.deepcopy(layer))
        binarize_(network, spec)
        reference = packed.dense(network).cuda()
        packed.pack_(network)
        stored = network.cuda()[0]
        read = stored.tile_bits.numel() + 4 * stored.alphas.numel()
        calls += [
            (
                spec,
                "tile reuse",
                copy.deepcopy(network).bfloat16()[0],
                reference,
                2 * layer.weight.numel() // stored.p,
            ),
            (spec, "triton", functools.partial(_by_triton, stored), reference, read),
        ]
        if stored.p == 1:
            foreign.append((spec, "GemLite", functools.partial(_gemlite, stored), reference, read))
    found = []
    for spec, name, call, reference, read in calls:
        found.append(
            peer(spec, name, lambda call=call: call, reference, read, None, BF16_TOLERANCE)
        )
        found.append(
            peer(
                spec,
                f"{name}, CUDA graph",
                lambda call=call: graphed(call, x),
                reference,
                read,
                None,
                BF16_TOLERANCE,
            )
        )
    for spec, name, build, reference, read in foreign:
        found.append(peer(spec, name, build, reference, read, None, INT8_TOLERANCE, True))
        as_graph = functools.partial(lambda build: graphed(build(), x), build)
        found.append(
            peer(spec, f"{name}, CUDA graph", as_graph, reference, read, None, INT8_TOLERANCE, True)
        )
    return found


def _by_triton(layer: packed.PackedLinear, x: Tensor) -> Tensor:
    return tiled_linear(
        x, layer.tile_bits, layer.alphas, layer.bias, layer.shape, layer.p, "triton"
    )


def _cuda_suite(results: Path, batches: Iterable[int]) -> dict[str, Any]:
    prepare("cuda", 1)
    store, done = RunStore(results), []
    for size in (4096, 8192):
        torch.manual_seed(0)
        layer = nn.Linear(size, size)
        for batch in batches:
            x = torch.randn(batch, size, device="cuda", dtype=torch.bfloat16)
            with torch.no_grad():
                variants = _cuda_variants(layer, x)
            info = {
                "data": None,
                "model": f"linear_{size}x{size}",
                "sweep": None,
                "dtype": "bfloat16",
            }
            command = f"tbn-bench latency --suite linear --device cuda --batch {batch}"
            for cold in (False, True) if batch == 1 else (False,):
                case = f"op-linear_{size}x{size}-bf16-b{batch}{'-cold' if cold else ''}"
                record = time_case(case, variants, x, 1, "cuda", info, command, cold)
                store.write_latency(record)
                show(record)
                done.append(record.case)
    return {"suite": "linear", "cases": done}


def suite(
    name: str, results: Path, threads: int, batches: Iterable[int], device: str = "cpu"
) -> dict[str, Any]:
    """Times every case of an op-level suite ("linear", "conv") with all its peers, on random weights and inputs.

    On CUDA: square linear layers in bfloat16. Raises ValueError for a suite that does not exist there.
    """
    if device == "cuda":
        if name != "linear":
            raise ValueError(f"--device cuda has the suite linear, not {name!r}")
        return _cuda_suite(results, batches)
    prepare("cpu", threads)
    store, done = RunStore(results), []
    batches = list(batches)
    for case, (layer, in_shape) in CASES[name].items():
        torch.manual_seed(0)
        trained = layer()
        for batch in batches:
            x = torch.randn(batch, *in_shape, generator=torch.Generator().manual_seed(0))
            variants: list[Variant] = []
            for spec in SPECS:
                network = nn.Sequential(copy.deepcopy(trained))
                macs = cost(network, binarize_(network, spec), in_shape).summary()
                made = variants_of(
                    network.eval(), make({"binarizer": spec}), x, None, threads, x[:64], macs
                )
                native = [
                    v for v in made if v.implementation.startswith("native") and not v.unavailable
                ]
                variants += made
                variants += (
                    _in_channels_last(made, x)
                    if x.dim() == 4
                    else [_kept_output(v) for v in native]
                )
            if isinstance(trained, nn.Linear):
                variants.insert(1, _addmm(trained, variants[0].reference, x))
            for cold in (False, True) if batch == 1 else (False,):
                full = f"op-{case}-b{batch}-t{threads}{'-cold' if cold else ''}"
                info = {
                    "data": None,
                    "model": case,
                    "sweep": None,
                    "tile_macs": True,
                    "input": math.prod(in_shape),
                }
                command = f"tbn-bench latency --suite {name} --threads {threads} --batch {batch}"
                record = time_case(full, variants, x, threads, "cpu", info, command, cold)
                store.write_latency(record)
                show(record)
                done.append(full)
    return {"suite": name, "cases": done}
