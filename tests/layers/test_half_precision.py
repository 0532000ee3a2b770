"""Guards networks in half, bfloat16 and double precision: binarized, trained, packed, loaded, with the numbers of their type."""

import copy

import pytest
import torch
from torch import nn

from tbn_bench import catalog, convert, native, tiling
from tbn_bench.convert.binarize import binarize_

try:
    native.load()
    NATIVE = True
except native.NativeUnavailable:
    NATIVE = False

WITH_OPTIONS = {
    "tbn",
    "tbn_budget",
    "frozen_tile",
    "low_rank",
    "repeated_filters",
    "full_precision",
}
SPECS = [
    *(f"tbn(p=4, min_layer_size=0, copies={c!r})" for c in ("aligned", "rotated", "permuted", "hadamard", "shifted", "columns")),
    "tbn(p=4, min_layer_size=0, alpha='layer', alpha_source='W', gradient='tile')", "frozen_tile(p=4, min_layer_size=0)", "tbn_budget(bits=0.9)",
    "low_rank(rank=2, min_layer_size=0)", "repeated_filters(p=2, min_layer_size=0)",
    *sorted(set(catalog.names("binarizers")) - WITH_OPTIONS),
]  # fmt: skip
TYPES = {torch.float16: 5e-3, torch.bfloat16: 4e-2, torch.float64: 1e-6}


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3),
        nn.Flatten(),
        nn.Linear(32, 6),
    )
    return nn.Sequential(*layers).to(dtype)


def near(got: torch.Tensor, expected: torch.Tensor, factor: float = 1) -> bool:
    assert got.dtype == expected.dtype
    return bool((got - expected).abs().max() <= factor * TYPES[got.dtype] * expected.abs().max())


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_every_binarizer_in_every_type(spec, dtype):
    """A step of training; packed, and by the kernels, the outputs are the trained network's, in its type."""
    net, x = network(dtype), torch.randn(3, 8, 4, 4).to(dtype)
    binarize_(net, spec)
    (net(x) / 64).mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    with torch.no_grad():
        expected = net.eval()(x)
        convert.pack_(net)
        assert near(net(x), expected)
        convert.implement_(net) if NATIVE else None
        assert near(net(x), expected)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_a_packed_network_takes_another_type_and_keeps_what_is_stored(spec, dtype, tmp_path):
    """.half() and its like after packing: new outputs in the new type, the same file."""
    net, x = network(torch.float32), torch.randn(3, 8, 4, 4)
    binarize_(net, spec)
    convert.pack_(net.eval())
    stored = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        expected = net(x).to(dtype)
        small = copy.deepcopy(net).to(dtype)
        assert near(
            small(x.to(dtype)), expected, 4 if spec == "bitnet158" else 1
        )  # it rounds inputs, some the other way
    kept = {
        k: v
        for k, v in small.state_dict().items()
        if "bias" not in k and "input_binarizer" not in k
    }
    assert all(torch.equal(v, stored[k]) and v.dtype == stored[k].dtype for k, v in kept.items())


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_attention_in_every_type(dtype):
    """Its projections are expanded in the type of the module, also where that changed after packing."""
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 3, 8).to(dtype)
    binarize_(attention, "tbn(p=4, min_layer_size=0)")
    before, after = copy.deepcopy(attention).to(dtype), copy.deepcopy(attention)
    with torch.no_grad():
        expected = convert.dense(attention).to(dtype).eval()(x, x, x)[0]
        for net in (nn.ModuleList([before]), nn.ModuleList([after])):
            convert.pack_(net.eval())
            net.to(dtype)
            assert net[0].in_proj_weight.dtype == dtype
            assert near(net[0](x, x, x)[0], expected)


def test_scales_of_a_large_half_precision_layer_are_finite():
    """4096 x 4096 weights at the authors' initialisation: a sum of 295,000 in a type that ends at 65,504, a mean of 0.0176."""
    torch.manual_seed(0)
    weight = nn.init.kaiming_normal_(torch.empty(4096, 4096), mode="fan_in", nonlinearity="relu")
    exact = weight.double().abs().mean()
    for p, kind in ((1, "layer"), (4, "tile")):
        alphas = tiling.alphas(weight.half(), p, kind)
        assert alphas.dtype == torch.float16
        assert torch.allclose(alphas.double(), exact.expand(len(alphas)), rtol=2e-3)
    net = nn.Sequential(nn.Linear(4096, 4096)).half()
    net[0].weight.data = weight.half()
    for spec in (
        "tbn(p=4, alpha='layer', alpha_source='W')",
        "twn",
        "bitnet158(activation_bits=32)",
        "dorefa",
        "bwn",
        "xnor(k=False)",
    ):
        made = copy.deepcopy(net)
        binarize_(made, spec)
        scales = made[0].parametrizations.weight[0].scales(made[0].parametrizations.weight.original)
        assert scales.isfinite().all(), spec


def test_the_type_of_sums():
    """Half types sum in float32, the others in their own."""
    assert [tiling.sum_type(t) for t in (torch.float16, torch.bfloat16, torch.float32, torch.float64)] == [
        torch.float32, torch.float32, torch.float32, torch.float64,
    ]  # fmt: skip


def test_autocast_gives_what_a_plain_layer_gives():
    """A packed layer under autocast answers in bfloat16, and nearly as the dense one does."""
    net, x = network(torch.float32), torch.randn(3, 8, 4, 4)
    binarize_(net, "tbn(p=4, min_layer_size=0)")
    plain = convert.dense(net)
    convert.pack_(net.eval())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert near(net(x), plain(x))
