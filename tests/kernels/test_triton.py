"""Guards the Triton kernels without a GPU: the interpreter against float64, and cubins for sm_80 and sm_90; with one: parity.

TRITON_INTERPRET counts at import, so this file runs itself in processes of its own (`python test_triton.py interpret`), which print JSON.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tbn_bench.format import bits

AWKWARD = (1, 15, 16, 17, 63, 130)
SIZES = [
    sizes
    for sizes in itertools.product(AWKWARD, repeat=3)
    if sum(map(AWKWARD.index, sizes)) % 2 == 0
]  # holds every pair
LINEAR = [(*sizes, (1, 3, 4)[n % 3]) for n, sizes in enumerate(SIZES)]  # M, K, R, p
LINEAR += [
    (8, 130, 17, 3),
    (9, 130, 17, 3),
    (2, 1100, 9, 1),
    (511, 33, 17, 4),
    (512, 33, 17, 4),
    (600, 65, 130, 1),
]
CONV = [  # B, C, H, W, R, p, kernel, stride, padding, dilation
    (2, 3, 9, 7, 4, 4, (3, 3), (1, 1), (1, 1), (1, 1)),
    (1, 33, 8, 9, 17, 3, (3, 3), (2, 2), (1, 1), (1, 1)),
    (2, 33, 9, 9, 16, 1, (3, 3), (1, 1), (2, 2), (2, 2)),
    (1, 3, 12, 11, 15, 4, (3, 3), (2, 2), (0, 2), (2, 2)),
    (3, 33, 5, 5, 17, 3, (1, 1), (1, 1), (0, 0), (1, 1)),
    (2, 3, 6, 5, 63, 1, (1, 1), (2, 2), (0, 0), (1, 1)),
    (1, 130, 6, 4, 5, 4, (5, 1), (1, 2), (2, 0), (1, 1)),
    (1, 1, 3, 3, 1, 1, (3, 3), (1, 1), (0, 0), (1, 1)),
    (1, 64, 7, 7, 130, 3, (3, 3), (1, 1), (1, 1), (1, 1)),
]
# of the largest value: float32 sums; 16 bits round the result once, and from 512 rows on the product before it
TOLERANCE = {
    torch.float32: (1e-6, 1e-6),
    torch.float16: (2**-11 + 1e-5, 2**-10 + 1e-5),
    torch.bfloat16: (2**-8 + 1e-4, 2**-7 + 1e-4),
}
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}  # what one block may have


# ---- what both the interpreter and a GPU run


def nan_empty(*shape, **options):
    """torch.empty for these checks: what a kernel forgets to write is seen."""
    made = torch.zeros(*shape, **{k: v for k, v in options.items() if k != "memory_format"})
    made = made.contiguous(memory_format=options.get("memory_format", torch.contiguous_format))
    return made.fill_(float("nan")) if made.is_floating_point() else made


def relative(got, expected):
    """(error, largest value before ReLU) -> error of the largest value, infinite where got is not finite."""
    exact, largest = expected
    if got.shape != exact.shape or not torch.isfinite(got).all():
        return float("inf")
    return float((got.cpu().double() - exact).abs().max() / largest)


def drawn(n, rows, p, rng):
    """(signs (n,), scales (p rows,), bias (p rows,))"""
    scales, bias = rng.uniform(0.5, 1.5, p * rows), rng.standard_normal(p * rows)
    return (
        rng.integers(0, 2, n) * 2 - 1,
        torch.from_numpy(scales).float(),
        torch.from_numpy(bias).float(),
    )


def spoiled(words, columns, how, strongest):
    """words with one bit flipped (of the strongest column) or with all padding bits set. words: (..., ceil(columns / 32))."""
    words = words.clone()
    if how == "flip":
        words.view(-1, words.shape[-1])[0, strongest // 32] ^= torch.tensor(1 << strongest % 32).to(
            torch.int32
        )
    if how == "padding" and columns % 32:
        words[..., -1] |= torch.tensor(-1 << columns % 32).to(torch.int32)
    return words


def linear_error(case, dtype, device="cpu", how=""):
    """Error of tiled_linear on one case. Bias, ReLU and the number of leading dimensions follow from the case."""
    from tbn_bench.kernels.tiled_linear import triton as kernels

    (m, k, r, p), rng = case, np.random.default_rng(sum(case))
    signs, scales, bias = drawn(r * k, r, p, rng)
    bias, relu = (bias if m % 2 else None), bool(k % 2)
    x = torch.from_numpy(rng.standard_normal((m, k))).to(dtype)
    words = kernels.words(torch.from_numpy(bits.pack(signs)), r, k)
    words = spoiled(words, k, how, int(x[0].abs().argmax()))
    products = x.double() @ torch.from_numpy(signs).double().reshape(r, k).T
    exact = products.repeat(1, p) * scales.double() + (0 if bias is None else bias.double())
    expected = (exact.relu() if relu else exact), exact.abs().max()
    with mock.patch("torch.empty", nan_empty):
        there = [
            None if t is None else t.to(device)
            for t in (x.reshape(1, m, k) if m % 3 else x, words, scales, bias)
        ]
        got = kernels.linear_of_words(*there, p, relu=relu and how != "flip")
    return relative(got.reshape(m, -1), (exact, expected[1]) if how == "flip" else expected)


def conv_error(case, dtype, device="cpu", how=""):
    """Error of tiled_conv2d on one case; x is channels last for every second one."""
    from tbn_bench.kernels.tiled_conv2d import triton as kernels

    (b, c, h, w, r, p, kernel, *moves), rng = case, np.random.default_rng(sum(case[:6]))
    signs, scales, bias = drawn(r * c * kernel[0] * kernel[1], r, p, rng)
    bias, relu = (bias if c % 2 else None), bool(b % 2) and how != "flip"
    x = torch.from_numpy(rng.standard_normal((b, c, h, w))).to(dtype)
    words = kernels.words(torch.from_numpy(bits.pack(signs)), r, c, *kernel)
    middle = words[:, words.shape[1] // 2]  # the tap that is never outside for most pixels
    middle.copy_(spoiled(middle, c, how, int(x[0].abs().sum((1, 2)).argmax())))
    tile = torch.from_numpy(signs).double().reshape(r, c, *kernel)
    exact = (
        F.conv2d(x.double(), tile, None, *moves).repeat(1, p, 1, 1) * scales.double()[:, None, None]
    )
    exact = exact if bias is None else exact + bias.double()[:, None, None]
    with mock.patch("torch.empty", nan_empty):
        x = x.contiguous(memory_format=torch.channels_last) if b % 2 else x
        there = [None if t is None else t.to(device) for t in (x, words, scales, bias)]
        got = kernels.conv_of_words(*there, p, kernel, *moves, relu=relu)
    assert got.is_contiguous(memory_format=torch.channels_last)
    return relative(got, (exact.relu() if relu else exact, exact.abs().max()))


def tolerance(dtype, case):
    """case: of LINEAR or CONV; a 1x1 convolution of few pixels is a linear layer of few rows."""
    return TOLERANCE[dtype][len(case) == 4 and case[0] >= 512]


# ---- the interpreter, in its own process


def by_every_config():
    """{name: error} with each configuration of each kernel, on a shape with ragged edges in all directions."""
    from tbn_bench.kernels.tiled_conv2d import triton as conv
    from tbn_bench.kernels.tiled_linear import triton as linear

    found = {}
    for kernel, configs, error, case in (
        (linear.few_kernel, linear.FEW_CONFIGS, linear_error, (3, 130, 17, 3)),
        (linear.gemm_kernel, linear.GEMM_CONFIGS, linear_error, (131, 130, 135, 3)),
        (conv.conv_kernel, conv.CONFIGS, conv_error, CONV[1]),
    ):
        for n, config in enumerate(configs):
            with mock.patch.object(kernel, "configs", [config]):
                found[f"{error.__name__} {kernel.base_fn.__name__} {n}"] = error(
                    case, torch.float32
                )
    return found


def by_contract():
    """{case: error} of the contract's own cases, in the contract's form; those that need another implementation give its message."""
    from tbn_bench.kernels import tiled_conv2d, tiled_linear

    found, rng = {}, np.random.default_rng(0)
    for case in tiled_linear.CASES:
        lead, rows, columns, p, k = case
        signs, alphas, bias = drawn(rows * columns // p, max(k, rows), 1, rng)
        arguments = (
            torch.from_numpy(bits.pack(signs)),
            alphas[:k],
            bias[:rows],
            (rows, columns),
            p,
        )
        found[str(case)] = contract_error(
            tiled_linear.tiled_linear, torch.randn(*lead, columns), arguments, ()
        )
    for size, shape, p, k, *geometry in tiled_conv2d.CASES:
        signs, alphas, bias = drawn(int(np.prod(shape)) // p, max(k, shape[0]), 1, rng)
        arguments = (torch.from_numpy(bits.pack(signs)), alphas[:k], bias[: shape[0]], shape, p)
        found[str((size, shape, p, k, geometry))] = contract_error(
            tiled_conv2d.tiled_conv2d, torch.randn(size), arguments, geometry
        )
    return found


def contract_error(operation, x, arguments, geometry):
    try:
        got = operation(x, *arguments, *geometry, implementation="triton")
    except ValueError as error:
        return str(error)
    expected = operation(x.double(), *arguments, *geometry, implementation="reference")
    return relative(got, (expected, expected.abs().max())) if x.numel() else 0.0


def messages():
    """What is said about wrong arguments: {argument: message}."""
    from tbn_bench.kernels.tiled_conv2d import triton as conv
    from tbn_bench.kernels.tiled_linear import triton as linear

    x, words, scales = torch.randn(2, 40), torch.zeros(3, 2, dtype=torch.int32), torch.ones(6)
    image, taps = torch.randn(1, 40, 4, 4), torch.zeros(3, 9, 2, dtype=torch.int32)
    calls = {
        "x's type": lambda: linear.linear_of_words(x.double(), words, scales, None, 2),
        "x's width": lambda: linear.linear_of_words(x[:, :20], words, scales, None, 2),
        "words' type": lambda: linear.linear_of_words(x, words.long(), scales, None, 2),
        "scales' length": lambda: linear.linear_of_words(x, words, scales[:3], None, 2),
        "scales' type": lambda: linear.linear_of_words(x, words, scales.half(), None, 2),
        "bias' length": lambda: linear.linear_of_words(x, words, scales, scales[:3], 2),
        "p": lambda: linear.linear_of_words(x, words, scales, None, 0),
        "tile_bits' length": lambda: linear.words(torch.zeros(3, dtype=torch.uint8), 3, 40),
        "device": lambda: linear.linear_of_words(x, words, scales.to("meta"), None, 2),
        "groups": lambda: conv.conv_of_words(image, taps, scales, None, 2, (3, 3), groups=2),
        "kernel": lambda: conv.conv_of_words(image, taps, scales, None, 2, (3, 2)),
        "stride": lambda: conv.conv_of_words(image, taps, scales, None, 2, (3, 3), (0, 1)),
        "image's size": lambda: conv.conv_of_words(image[..., :2], taps, scales, None, 2, (3, 3)),
    }
    return {name: said(call) for name, call in calls.items()}


def said(call):
    try:
        call()
    except ValueError as error:
        return str(error)
    return ""


def word_signs():
    """Signs read back from words, and the padding, for widths that are no multiple of 8: (linear equal, conv equal, padding clear)."""
    from tbn_bench.kernels.tiled_conv2d import triton as conv
    from tbn_bench.kernels.tiled_linear import triton as linear

    signs = np.random.default_rng(0).integers(0, 2, 5 * 3 * 33) * 2 - 1
    packed = torch.from_numpy(bits.pack(signs))
    flat = (linear.words(packed, 5, 99)[:, :, None] >> torch.arange(32)).bitwise_and(1).flatten(1)
    taps = (
        (conv.words(packed, 5, 33, 3, 1)[:, :, :, None] >> torch.arange(32))
        .bitwise_and(1)
        .flatten(2)
    )
    tile = torch.from_numpy(signs > 0).long()
    return [
        torch.equal(flat[:, :99], tile.reshape(5, 99)),
        torch.equal(taps[:, :, :33], tile.reshape(5, 33, 3).transpose(1, 2)),
        not flat[:, 99:].any() and not taps[:, :, 33:].any(),
    ]


def interpret():
    halves = [case for n, case in enumerate(LINEAR) if n % 5 == 0 or case[0] > 500]
    paths = [("few", (2, 130, 17, 3)), ("gemm", (17, 130, 17, 3)), ("many", (520, 70, 17, 3))]
    return {
        "float32 linear": [(c, linear_error(c, torch.float32)) for c in LINEAR],
        "float16 linear": [(c, linear_error(c, torch.float16)) for c in halves],
        "float32 conv": [(c, conv_error(c, torch.float32)) for c in CONV],
        "float16 conv": [(c, conv_error(c, torch.float16)) for c in CONV],
        "flip": {name: linear_error(c, torch.float16, how="flip") for name, c in paths}
        | {"conv": conv_error(CONV[1], torch.float16, how="flip")},
        "padding": {name: linear_error(c, torch.float32, how="padding") for name, c in paths}
        | {"conv": conv_error(CONV[1], torch.float32, how="padding")},
        "configs": by_every_config(),
        "contract": by_contract(),
        "messages": messages(),
        "words": word_signs(),
    }


# ---- the compiler, in its own process


def jobs(dtype, every):
    """(kernel, constants, config) of each compilation in a type; the first configuration of each kernel, or every one."""
    from tbn_bench.kernels.tiled_conv2d import triton as conv
    from tbn_bench.kernels.tiled_linear import triton as linear

    geometry = {"KH": 3, "KW": 3, "SH": 1, "SW": 1, "PH": 1, "PW": 1, "DH": 1, "DW": 1}
    x, some = {"x": torch.zeros(0, dtype=dtype)}, None if every else 1
    for config in linear.suitable(linear.GEMM_CONFIGS, x)[:some]:
        yield linear.gemm_kernel, {"RELU": True}, config
    for config in linear.suitable(conv.CONFIGS, x)[:some]:
        yield conv.conv_kernel, {"RELU": True, **geometry}, config
    for rows in (1, 2, 4, 8) if every else (8,):
        for config in linear.fitting(linear.FEW_CONFIGS, {}, BM=rows)[:some]:
            yield linear.few_kernel, {"RELU": False, "BM": rows}, config
    yield linear.unpack_kernel, {}, linear.config(4, 3, BN=16, BK=256)
    yield linear.copies_kernel, {"RELU": False}, linear.config(4, 3, BM=32, BN=128)


def compiled(kernel, constants, config, capability, dtype):
    """One kernel for one GPU, as a record. Aligned pointers and widths, as Triton sees them in most layers."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    while not isinstance(kernel, triton.JITFunction):
        kernel = kernel.fn
    constants = {**constants, **config.kwargs}
    pointers = {"words": "*i32", "scales": "*fp32", "bias": "*fp32"} | dict.fromkeys(
        ("x", "y", "tile", "products"), f"*{dtype}"
    )
    signature = {
        n: "constexpr" if n in constants else pointers.get(n, "i32") for n in kernel.arg_names
    }
    odd = {"M", "bucket", "p", *constants}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if n not in odd
    }
    options = {
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
        "enable_fp_fusion": True,
    }
    made = triton.compile(
        ASTSource(kernel, signature, constexprs=constants, attrs=aligned),
        GPUTarget("cuda", capability, 32),
        options,
    )
    return {
        "kernel": kernel.__name__, "sm": capability, "dtype": dtype, "blocks": constants, "warps": config.num_warps,
        "cubin": len(made.asm["cubin"]), "shared": made.metadata.shared, "dots": made.asm["ttir"].count("tt.dot"),
        "mma": made.asm["ptx"].count("mma.sync"), "wgmma": made.asm["ptx"].count("wgmma.mma_async"), **usage(made.asm["cubin"]),
    }  # fmt: skip


def usage(cubin):
    """{"registers", "stack"} of a cubin by the tool in Triton's wheel; a stack is what did not fit into registers. Empty without it."""
    import re
    import tempfile

    import triton

    tool = Path(triton.__path__[0]) / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        return {}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", said.stdout + said.stderr)
    return {"registers": int(found[1]), "stack": int(found[2])} if found else {}


def compile_all(every=False):
    from tbn_bench.kernels.tiled_linear import triton as linear

    said_off_gpu = said(
        lambda: linear.linear_of_words(
            torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int32), torch.ones(1), None, 1
        )
    )
    types = {"fp16": torch.float16, "bf16": torch.bfloat16} | (
        {"fp32": torch.float32} if every else {}
    )
    records = [
        compiled(*job, sm, name)
        for name, dtype in types.items()
        for job in jobs(dtype, every)
        for sm in SHARED_BYTES
    ]
    return {"off GPU": said_off_gpu, "records": records}


# ---- the tests


def child(what, folder, interpreted):
    """Runs this file by itself and returns what it prints. Triton's cache is in folder, so that nothing old is tested."""
    pytest.importorskip("triton")
    env = {
        **os.environ,
        "TRITON_INTERPRET": str(int(interpreted)),
        "TRITON_CACHE_DIR": str(folder),
        "PYTHONWARNINGS": "error",
    }
    done = subprocess.run([sys.executable, __file__, what], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    return child("interpret", tmp_path_factory.mktemp("triton"), True)


@pytest.fixture(scope="module")
def cubins(tmp_path_factory):
    return child("compile", tmp_path_factory.mktemp("triton"), False)


@pytest.mark.parametrize("operation", ["linear", "conv"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_interpreted_kernels_equal_float64(interpreted, operation, dtype):
    """On awkward shapes by every path, in outputs that began as NaN. bfloat16 is left to a GPU: Triton 3.9 interprets it wrongly."""
    results = interpreted[f"{str(dtype)[6:]} {operation}"]
    assert len(results) >= 9
    assert not [(case, error) for case, error in results if not error <= tolerance(dtype, case)]


def test_one_flipped_bit_is_seen(interpreted):
    assert all(
        error > 4 * max(TOLERANCE[torch.float16]) for error in interpreted["flip"].values()
    ), interpreted["flip"]


def test_the_contract_is_kept(interpreted):
    """The cases of the contract, in its own form; only grouped convolutions and scales inside a row are declined."""
    results = interpreted["contract"]
    assert all(
        "one group" in e or "inside a row" in e if isinstance(e, str) else e <= 3e-6
        for e in results.values()
    ), results
    assert sum(not isinstance(e, str) for e in results.values()) >= 14


def test_padding_bits_count_for_nothing(interpreted):
    assert all(error <= 1e-6 for error in interpreted["padding"].values()), interpreted["padding"]


def test_every_configuration_computes_the_same(interpreted):
    assert len(interpreted["configs"]) > 20
    assert all(error <= 1e-6 for error in interpreted["configs"].values()), interpreted["configs"]


def test_words_hold_the_signs_at_their_columns(interpreted):
    """Bit s of word j of a row is its column 32 j + s, and padding is clear."""
    assert interpreted["words"] == [True, True, True]


def test_wrong_arguments_are_named(interpreted):
    assert not [name for name, message in interpreted["messages"].items() if not message]


def judge(records):
    """What must be true of every cubin."""
    for r in records:
        assert r["cubin"] > 1000, r
        assert r["shared"] <= SHARED_BYTES[r["sm"]], r
        assert r.get("stack", 0) <= 64, (
            r
        )  # spilled bytes: none with Triton 3.9; another ptxas may differ by a few
        if r["kernel"] in ("gemm_kernel", "conv_kernel"):
            assert r["dots"] == 1, r  # once, and not once a copy
            assert bool(r["mma"] + r["wgmma"]) == (r["dtype"] != "fp32"), r
            if r["sm"] == 90 and r["dtype"] != "fp32" and r["blocks"]["BM"] >= 64:
                assert r["wgmma"], r


def test_every_kernel_compiles_for_sm_80_and_sm_90(cubins):
    """A cubin that fits, in 16 bits, with one tl.dot and on tensor cores."""
    judge(cubins["records"])
    assert len({(r["kernel"], r["sm"], r["dtype"]) for r in cubins["records"]}) == 5 * 2 * 2


def test_without_a_gpu_the_error_says_so(cubins):
    assert "CUDA device" in cubins["off GPU"]


@pytest.mark.slow
def test_every_configuration_compiles(tmp_path):
    """In all three types: float32 without tensor cores, which would round its inputs to TF32."""
    judge(child("compile every", tmp_path, False)["records"])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_kernels_on_a_gpu_equal_float64(dtype):
    """On the interpreter's cases, and on sizes at which every warp has work."""
    assert torch.cuda.is_available(), "the gpu tests need a CUDA device"
    large = [
        (1, 4096, 1024, 4),
        (8, 4096, 512, 4),
        (64, 2048, 768, 2),
        (300, 1000, 999, 3),
        (2048, 1024, 256, 4),
    ]
    for cases, error in (([*LINEAR[::7], *LINEAR[-6:], *large], linear_error), (CONV, conv_error)):
        wrong = [(c, e) for c in cases if not (e := error(c, dtype, "cuda")) <= tolerance(dtype, c)]
        assert not wrong


@pytest.mark.gpu
def test_one_flipped_bit_is_seen_on_a_gpu():
    for case in ((2, 130, 17, 3), (17, 130, 17, 3), (520, 70, 17, 3)):
        assert linear_error(case, torch.float16, "cuda", "flip") > 4 * max(TOLERANCE[torch.float16])
        assert linear_error(case, torch.float16, "cuda", "padding") <= max(TOLERANCE[torch.float16])


@pytest.mark.gpu
def test_a_graph_replays_the_layer():
    """Every path can be captured in a CUDA graph once it is tuned, and follows new input."""
    from tbn_bench.kernels.tiled_linear import triton as kernels

    for m in (1, 64, 1024):
        x, words = (
            torch.randn(m, 256, device="cuda").half(),
            torch.randint(-9999, 9999, (96, 8), device="cuda").int(),
        )
        scales = torch.rand(192, device="cuda")
        expected = kernels.linear_of_words(-x, words, scales, None, 2)
        kernels.linear_of_words(x, words, scales, None, 2)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = kernels.linear_of_words(x, words, scales, None, 2)
        x.neg_()
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(y, expected)


if __name__ == "__main__":
    what = sys.argv[1]
    print(json.dumps(interpret() if what == "interpret" else compile_all(what == "compile every")))
