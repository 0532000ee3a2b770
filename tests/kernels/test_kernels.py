"""Guards the contract of the tiled layers: every implementation equals the float64 reference on the contract's own cases."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from tbn_bench import native
from tbn_bench.format import bits
from tbn_bench.kernels import binary_linear, dense_linear, stored_tile, tiled_conv2d, tiled_linear

try:
    native.load()
    NATIVE = ["cpu"]
except native.NativeUnavailable:
    NATIVE = []
EXACT = ["reference", "torch", *NATIVE]


def stored(total: int, p: int, k: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """(tile_bits, alphas, bias) at random."""
    rng = np.random.default_rng(total + p)
    tile = rng.integers(0, 2, total // p, dtype=np.int8) * 2 - 1
    return torch.from_numpy(bits.pack(tile)), torch.rand(k) + 0.5, torch.randn(rows)


def error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    assert torch.isfinite(got).all()
    return (
        0.0
        if not expected.numel()
        else float((got.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    )


def linear_case(case):
    lead, rows, columns, p, k = case
    tile_bits, alphas, bias = stored(rows * columns, p, k, rows)
    return torch.randn(*lead, columns), tile_bits, alphas, bias, (rows, columns), p


@pytest.mark.parametrize("case", tiled_linear.CASES, ids=str)
@pytest.mark.parametrize("implementation", EXACT)
def test_linear(case, implementation):
    x, tile_bits, alphas, bias, shape, p = linear_case(case)
    for b in (bias, None):
        expected = tiled_linear.tiled_linear(
            x.double(), tile_bits, alphas.double(), b, shape, p, "reference"
        )
        got = tiled_linear.tiled_linear(x, tile_bits, alphas, b, shape, p, implementation)
        assert error(got, expected) <= tiled_linear.TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", tiled_linear.CASES, ids=str)
def test_linear_in_other_types(case, dtype):
    x, tile_bits, alphas, bias, shape, p = linear_case(case)
    x = x.to(dtype)
    expected = tiled_linear.tiled_linear(
        x.double(), tile_bits, alphas.double(), bias, shape, p, "reference"
    )
    got = tiled_linear.tiled_linear(x, tile_bits, alphas, bias, shape, p, "torch")
    assert got.dtype == dtype
    assert error(got, expected) <= tiled_linear.TOLERANCE[dtype]


def test_the_reference_is_the_definition():
    """Tile repeated p times in row-major order, alphas over consecutive runs: written out by hand."""
    tile_bits, alphas = torch.tensor([0b011], dtype=torch.uint8), torch.tensor([2.0, 3.0])  # + + -
    weight = torch.tensor([[2.0, 2.0], [-2.0, 3.0], [3.0, -3.0]])
    assert torch.equal(stored_tile.expand(tile_bits, alphas, (3, 2), 2), weight)
    x = torch.tensor([[1.0, 10.0]])
    for implementation in EXACT:
        assert torch.equal(
            tiled_linear.tiled_linear(x, tile_bits, alphas, None, (3, 2), 2, implementation),
            x @ weight.T,
        )


@pytest.mark.parametrize(
    ("shape", "p", "g", "how"),
    [
        ((10, 512), 4, 256, "segments"),
        ((1000, 768), 16, 384, "segments"),
        ((30, 20), 4, 10, "segments"),
        ((5, 7), 5, 7, "tile reuse"),
        ((4, 6), 3, 2, "expanded"),
        ((9, 8), 9, 8, "tile reuse"),
        ((10, 512), 1, 512, "expanded"),
    ],
)
def test_segments_save_what_the_formula_says(shape, p, g, how):
    """q K / g multiply-adds for rows K: a saving of p g / K, and no segments where that is not above 1."""
    assert stored_tile.segment_length(shape, p) == g
    assert stored_tile.how(shape, p, p) == how
    assert (how != "segments") or p * g > shape[1]


def test_unaligned_tiles_use_fewer_products():
    """10 x 512 at p = 4: half of the dense multiply-adds, as the formula promises."""
    from torch.utils.flop_counter import FlopCounterMode

    x, tile_bits, alphas, bias, shape, p = linear_case(((4,), 10, 512, 4, 4))
    with FlopCounterMode(display=False) as counter:
        tiled_linear.tiled_linear(x, tile_bits, alphas, bias, shape, p, "torch")
    assert counter.get_total_flops() == 2 * 4 * 10 * 512 // 2


@pytest.mark.parametrize("case", binary_linear.CASES, ids=str)
@pytest.mark.parametrize("implementation", EXACT)
def test_binary_linear(case, implementation):
    """Against the sum written out with the signs, not against the tiled reference."""
    lead, rows, columns, k = case
    sign_bits, scales, bias = stored(rows * columns, 1, k, rows)
    x = torch.randn(*lead, columns)
    signs = (
        torch.from_numpy(bits.unpack(sign_bits.numpy(), rows * columns))
        .double()
        .reshape(max(1, k), -1)
    )
    weight = (signs * scales.double()[:, None] if k else signs).reshape(rows, columns)
    for b in (bias, None):
        expected = dense_linear.dense_linear(x.double(), weight, b, "reference")
        got = binary_linear.binary_linear(x, sign_bits, scales, b, rows, implementation)
        assert error(got, expected) <= binary_linear.TOLERANCE[torch.float32]


@pytest.mark.parametrize("case", dense_linear.CASES, ids=str)
@pytest.mark.parametrize(("implementation", "dtype"), [
    *((i, torch.float32) for i in EXACT), *((i, t) for i in EXACT[:2] for t in (torch.float64, torch.bfloat16, torch.float16)),
])  # fmt: skip
def test_dense_linear(case, implementation, dtype):
    lead, rows, columns = case
    x, weight, bias = (
        torch.randn(*lead, columns).to(dtype),
        torch.randn(rows, columns).to(dtype),
        torch.randn(rows),
    )
    for b in (bias, None):
        exact = x.double() @ weight.double().T + (0 if b is None else b.to(dtype).double())
        assert (
            error(dense_linear.dense_linear(x, weight, b, implementation), exact)
            <= dense_linear.TOLERANCE[dtype]
        )


def test_a_changed_dense_weight_is_noticed_and_wrong_ones_are_refused():
    x, weight = torch.randn(3, 8), torch.randn(4, 8)
    for implementation in EXACT[1:]:
        before = dense_linear.dense_linear(x, weight, None, implementation)
        weight += 1
        assert (
            error(
                dense_linear.dense_linear(x, weight, None, implementation),
                x.double() @ weight.double().T,
            )
            < 1e-5
        )
        assert not torch.equal(before, dense_linear.dense_linear(x, weight, None, implementation))
    for arguments, message in [
        ((x[:, :3], weight, None), "expected floating-point x"), ((x, weight.double(), None), "of one type"),
        ((x, weight, torch.zeros(3)), r"expected bias of shape \(4,\)"), ((x, weight, None, "triton"), "must be one of"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            dense_linear.dense_linear(*arguments)
    with pytest.raises(ValueError, match="expected uint8 tile_bits"):
        binary_linear.binary_linear(x, torch.zeros(3, dtype=torch.uint8), torch.ones(0), None, 4)


@pytest.mark.parametrize("case", tiled_conv2d.CASES, ids=str)
@pytest.mark.parametrize("implementation", EXACT)
def test_conv(case, implementation):
    size, shape, p, k, *geometry = case
    tile_bits, alphas, bias = stored(int(np.prod(shape)), p, k, shape[0])
    x = torch.randn(size)
    for memory in (torch.contiguous_format, torch.channels_last):
        for b in (bias, None):
            expected = tiled_conv2d.tiled_conv2d(
                x.double(), tile_bits, alphas.double(), b, shape, p, *geometry, "reference"
            )
            got = tiled_conv2d.tiled_conv2d(
                x.to(memory_format=memory),
                tile_bits,
                alphas,
                b,
                shape,
                p,
                *geometry,
                implementation,
            )
            assert error(got, expected) <= tiled_conv2d.TOLERANCE[torch.float32]


@pytest.mark.parametrize("implementation", EXACT[1:])
def test_one_flipped_bit_is_an_error(implementation):
    x, tile_bits, alphas, bias, shape, p = linear_case(((5,), 16, 16, 4, 4))
    expected = tiled_linear.tiled_linear(
        x.double(), tile_bits, alphas.double(), bias, shape, p, "reference"
    )
    assert (
        error(
            tiled_linear.tiled_linear(x, tile_bits, alphas, bias, shape, p, implementation),
            expected,
        )
        < 1e-5
    )
    tile_bits[3] ^= 16  # in place: what is kept for these bits must notice
    assert (
        error(
            tiled_linear.tiled_linear(x, tile_bits, alphas, bias, shape, p, implementation),
            expected,
        )
        > 1e-3
    )


def test_wrong_tensors_are_refused():
    x, tile_bits, alphas, bias, shape, p = linear_case(((5,), 16, 16, 4, 4))
    call = tiled_linear.tiled_linear
    for arguments, message in [
        ((x[:, :3], tile_bits, alphas, bias, shape, p), "expected floating-point x"),
        ((x, tile_bits[:2], alphas, bias, shape, p), "expected uint8 tile_bits"),
        ((x, tile_bits, alphas[:3], bias, shape, p), "expected alphas"),
        ((x, tile_bits, alphas, bias[:3], shape, p), "expected bias"),
        ((x, tile_bits, alphas, bias, shape, 7), "p must be at least 1 and divide"),
    ]:
        with pytest.raises(ValueError, match=message):
            call(*arguments)
    with pytest.raises(ValueError, match="implementation must be one of"):
        call(x, tile_bits, alphas, bias, shape, p, "cuda")


@pytest.mark.skipif(not NATIVE, reason="no native library")
def test_the_cpu_kernel_takes_float32_only():
    x, tile_bits, alphas, bias, shape, p = linear_case(((5,), 16, 16, 4, 4))
    with pytest.raises(ValueError, match="takes float32 on the CPU"):
        tiled_linear.tiled_linear(x.double(), tile_bits, alphas, bias, shape, p, "cpu")


def test_an_absent_library_is_an_error_and_not_a_fallback(monkeypatch):
    def missing(name=None):
        raise native.NativeUnavailable("not built")

    monkeypatch.setattr(native, "level", missing)
    x, tile_bits, alphas, bias, shape, p = linear_case(((5,), 16, 16, 4, 4))
    with pytest.raises(native.NativeUnavailable):
        tiled_linear.tiled_linear(x, tile_bits, alphas, bias, shape, p, "cpu")


@pytest.mark.skipif(not NATIVE, reason="no native library")
def test_operators_pass_torchs_own_checks():
    x, tile_bits, alphas, bias, shape, p = linear_case(((5,), 16, 16, 4, 4))
    torch.library.opcheck(
        torch.ops.tbn_bench.tiled_linear.default, (x, tile_bits, alphas, bias, shape, p)
    )
    size, shape, p, k, *geometry = tiled_conv2d.CASES[1]
    tile_bits, alphas, bias = stored(int(np.prod(shape)), p, k, shape[0])
    torch.library.opcheck(
        torch.ops.tbn_bench.tiled_conv2d.default,
        (torch.randn(size), tile_bits, alphas, bias, shape, p, *geometry),
    )


@pytest.mark.skipif(not NATIVE, reason="no native library")
def test_operators_stay_whole_under_compile():
    x, tile_bits, alphas, bias, shape, p = linear_case(((5,), 16, 16, 4, 4))

    def network(x):
        return (
            torch.relu(torch.ops.tbn_bench.tiled_linear(x, tile_bits, alphas, bias, shape, p)) + 1
        )

    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), network(x))


class Mixed(torch.nn.Module):
    """Layers that the kernels take, and four that they leave to torch."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (
            torch.nn.Conv2d(3, 16, 3, padding=1, stride=2),
            torch.nn.Conv2d(16, 32, (3, 1), dilation=(1, 2), bias=False),
        )
        self.grouped, self.same = (
            torch.nn.Conv2d(32, 16, 1, groups=2),
            torch.nn.Conv2d(16, 16, 3, padding="same"),
        )
        self.reflected = torch.nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect")
        self.line, self.odd, self.head = (
            torch.nn.Conv1d(16, 16, 1),
            torch.nn.Linear(16, 10),
            torch.nn.Linear(16, 12),
        )

    def forward(self, x):
        y = self.reflected(self.same(self.grouped(torch.relu(self.b(torch.relu(self.a(x)))))))
        z = self.line(y.flatten(2)).mean(2)
        return self.head(z), self.odd(z)


@pytest.mark.skipif(not NATIVE, reason="no native library")
@pytest.mark.parametrize(
    "spec",
    [
        "tbn(p=4, min_layer_size=0)",
        "tbn(p=2, alpha='layer', min_layer_size=0)",
        "bwn",
        "sign",
        "twn",
    ],
)
def test_packed_layers_by_the_kernels(spec):
    """The same outputs from nothing but bits; what the kernels do not take is named with its reason."""
    from tbn_bench import convert
    from tbn_bench.convert.binarize import binarize_
    from tbn_bench.layers import packed

    network = Mixed()
    binarize_(network, spec)
    reference = convert.dense(network).double()
    convert.pack_(network)
    x, before = torch.randn(3, 3, 12, 12), {k: v.clone() for k, v in network.state_dict().items()}
    with torch.no_grad():
        network(x)  # derives float tiles, which implement_ lets go
        left = convert.implement_(network)
        for got, expected in zip(network(x), reference(x.double()), strict=True):
            assert error(got, expected) < 1e-5
    named = {
        "line": "images only",
        "grouped": "groups",
        "same": "groups, or padding",
        "reflected": "groups, or padding",
    }
    if spec == "twn":
        assert set(left) == {
            name for name, m in network.named_modules() if isinstance(m, packed.Packed)
        }
        assert "not p copies" in left["a"]
    else:
        assert set(left) == {*named, *(["odd"] if spec.startswith("tbn(p=4") else [])}
        assert all(why in left[name] for name, why in named.items())
        assert all(
            m.factor is None
            for name, m in network.named_modules()
            if isinstance(m, packed.Packed) and name not in left
        )
        rows = 16 // (network.a.p if network.a.how == "tile reuse" else 1)
        assert network.a.weight_bytes() == 4 * rows * 9 * 1 + 4 * 16
        with torch.no_grad():
            assert torch.equal(network.a(x[0]), network.a(x[:1])[0])  # (C, H, W)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.skipif(not NATIVE, reason="no native library")
def test_columns_layers_by_the_kernels():
    """They sum their input in groups and take the tile as a plain layer: what they read is 1/p of the weights."""
    from tbn_bench import convert
    from tbn_bench.convert.binarize import binarize_

    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(64, 16, 3, padding=1, bias=False),
        torch.nn.Flatten(),
        torch.nn.Linear(400, 8),
    )
    binarize_(network, "tbn(p=4, min_layer_size=0, copies='columns')")
    reference = convert.dense(network).double()
    convert.pack_(network)
    x = torch.randn(3, 64, 5, 5)
    with torch.no_grad():
        assert convert.implement_(network) == {}
        assert error(network(x), reference(x.double())) < 1e-5
        assert torch.equal(network[0](x[0]), network[0](x[:1])[0])  # (C, H, W)
    assert all(layer.factor is None for layer in (network[0], network[2]))
    assert (
        network[0].weight_bytes() == 4 * 16 * 9 * 1 + 4 * 16
    )  # 16 channels: one word per tap and row


@pytest.mark.gpu
def test_a_packed_network_runs_from_its_bits_on_a_gpu():
    """ResNet-8 by Triton: the outputs of its float64 copy, and at rest less memory than by float tiles."""
    from tbn_bench import catalog, convert
    from tbn_bench.convert.binarize import binarize_
    from tbn_bench.latency import memory
    from tbn_bench.layers import packed

    network = catalog.build(
        "models", "resnet_cifar(depth=8, width=64)", num_classes=8, in_shape=(3, 16, 16)
    ).eval()
    binarize_(network, "tbn(p=4, min_layer_size=0)")
    reference = convert.dense(network).double().cuda()
    convert.pack_(network)
    x, image, copied = (
        torch.randn(5, 3, 16, 16, device="cuda"),
        torch.zeros(1, 3, 16, 16),
        copy.deepcopy(network),
    )
    memory.on_gpu(copy.deepcopy(network), image)  # workspaces of libraries, which stay
    tiles = memory.on_gpu(network, image)
    assert convert.implement_(copied) == {}
    bits_only, network = memory.on_gpu(copied, image), copied
    weights = sum(m.numel for m in network.modules() if isinstance(m, packed.Packed))
    assert (
        tiles["gpu_resting_bytes"] - bits_only["gpu_resting_bytes"] > weights // 4 * 3
    )  # float tiles of p = 4, less a second set of bits
    assert bits_only["gpu_peak_bytes"] <= tiles["gpu_peak_bytes"]
    with torch.no_grad():
        assert error(network(x), reference(x.double())) < 1e-5
