"""low_rank: two sign factors by hand, against the dense product, within the budget, packed, native,
restarted.
"""

import copy
from fractions import Fraction
from math import prod

import numpy as np
import pytest
import torch
from torch import nn

from tbn_bench import catalog, convert
from tbn_bench.binarizers import low_rank
from tbn_bench.binarizers._base import Target
from tbn_bench.binarizers._ranks import Sizes, ranks_within
from tbn_bench.binarizers.low_rank import LowRankWeight
from tbn_bench.compiler.executor import executor
from tbn_bench.convert.binarize import binarize_
from tbn_bench.convert.cost import cost
from tbn_bench.experiment.weights import start_from
from tbn_bench.format import bits, packed_file
from tbn_bench.format.form import Form

LAYERS = {
    "linear": (lambda: nn.Linear(16, 9), (5, 16)),
    "tokens": (lambda: nn.Linear(16, 8, bias=False), (2, 3, 16)),
    "conv": (lambda: nn.Conv2d(5, 8, 3, padding=1), (2, 5, 7, 6)),
    "stride": (lambda: nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False), (2, 8, 7, 9)),
    "dilation": (lambda: nn.Conv2d(4, 8, 3, padding=2, dilation=2), (2, 4, 9, 8)),
    "uneven": (lambda: nn.Conv2d(8, 6, (3, 1), stride=(1, 2), padding=(1, 0)), (2, 8, 5, 8)),
    "pointwise": (lambda: nn.Conv2d(8, 8, 1), (2, 8, 5, 5)),
    "same": (lambda: nn.Conv2d(4, 8, 3, padding="same", padding_mode="reflect"), (2, 4, 6, 6)),
    "unbatched": (lambda: nn.Conv2d(4, 8, 3, padding=1), (4, 6, 6)),
    "signal": (lambda: nn.Conv1d(8, 8, 5, stride=2, padding=2), (2, 8, 17)),
}
BATCHED = [name for name in LAYERS if name != "unbatched"]


def made(layer, spec="low_rank(rank=3, min_layer_size=0)"):
    """(network of one layer in float64, its plan, an input)."""
    torch.manual_seed(0)
    build, shape = LAYERS[layer]
    net = nn.Sequential(build())
    plan = binarize_(net, spec)
    return net.double(), plan, torch.randn(*shape, dtype=torch.float64)


def factorised(*shape, rank=3, **options):
    torch.manual_seed(0)
    return LowRankWeight(torch.randn(shape), rank, **options)


def filled(method, **values):
    for name, value in values.items():
        getattr(method, name).data.copy_(torch.tensor(value))
    return method


def test_forward_by_hand():
    """Two rows of two channels with two taps, rank 2; a zero is +1.

    Row 0: sign(U) m = (2, -3), so taps are 2 V_0 - 3 V_1 = (-1, 5, 5, -5), times u = 10 and v = (1,
    0.5).
    """
    method = filled(
        LowRankWeight(torch.randn(2, 2, 2), 2),
        U=[[0.0, -0.1], [-2.0, -0.5]],
        V=[[[0.1, 0.2], [0.0, -1.0]], [[0.3, -0.1], [-0.2, 0.4]]],
        u=[10.0, 1.0],
        m=[2.0, 3.0],
        v=[1.0, 0.5],
    )
    expected = [[[-10.0, 50.0], [25.0, -25.0]], [[-5.0, 1.0], [0.5, -0.5]]]
    assert method(torch.zeros(2, 2, 2)).tolist() == expected
    assert method.signs(torch.zeros(2, 2, 2)).tolist() == [1, -1, -1, -1, 1, 1, 1, -1, 1, -1, -1, 1]
    assert method.scales(torch.zeros(2, 2, 2)).tolist() == [10, 1, 2, 3, 1, 0.5]


@pytest.mark.parametrize(
    ("surrogate", "slope"),
    [
        ("clip", lambda x: float(abs(x) <= 1)),
        ("identity", lambda x: 1.0),
        ("tanh", lambda x: 100 * (1 - np.tanh(100 * x) ** 2)),
    ],
)
def test_gradients_are_the_formula(surrogate, slope):
    """W_ij is the sum over r of u_i m_r U_ir V_rj v_j: each factor gets the rest of the product.

    U and V get it times the surrogate's slope.
    """
    method = factorised(3, 4, rank=2, surrogate=surrogate).double()
    filled(method, U=[[0.0, 1.0], [-1.0, 1.5], [0.004, -0.01]])
    g = torch.randn(3, 4, dtype=torch.float64)
    method(torch.zeros(3, 4, dtype=torch.float64)).backward(g)
    signs = [
        torch.where(x >= 0, 1.0, -1.0).double() for x in (method.U.detach(), method.V.detach())
    ]
    (left, right), (u, m, v) = signs, (x.detach() for x in (method.u, method.m, method.v))
    slopes = [x.detach().clone().apply_(slope) for x in (method.U, method.V)]
    terms = {
        "U": torch.einsum("ij,i,r,rj,j->ir", g, u, m, right, v) * slopes[0],
        "V": torch.einsum("ij,i,r,ir,j->rj", g, u, m, left, v) * slopes[1],
        "u": torch.einsum("ij,r,ir,rj,j->i", g, m, left, right, v),
        "m": torch.einsum("ij,i,ir,rj,j->r", g, u, left, right, v),
        "v": torch.einsum("ij,i,r,ir,rj->j", g, u, m, left, right),
    }
    for name, expected in terms.items():
        torch.testing.assert_close(getattr(method, name).grad, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("layer", LAYERS)
def test_two_steps_equal_the_dense_weight(layer):
    """Output and every gradient are those of the plain layer with .weight, in float64.

    The latent weight gets none.
    """
    net, plan, x = made(layer)
    plain, results = type(LAYERS[layer][0]()), []
    learned = {n: p for n, p in net.named_parameters() if p.requires_grad}
    for forward in (net[0], lambda v: plain.forward(net[0], v)):  # the plain layer's reads .weight
        net.zero_grad()
        v = x.clone().requires_grad_()
        y = forward(v)
        (y * torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape)).sum().backward()
        results.append([y.detach(), v.grad, *(p.grad.clone() for p in learned.values())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert plan.rows[0].reuse
    assert not net[0].parametrizations.weight.original.requires_grad


@pytest.mark.parametrize("layer", ["linear", "conv", "signal"])
def test_bfloat16_and_channels_last(layer):
    """Autocast gives bfloat16 near the float32 result, forward and backward.

    Channels last gives the same numbers.
    """
    net, _, x = made(layer)
    net, x = net.float(), x.float()
    expected = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
        assert net[0].weight.dtype == torch.float32
    y.float().square().mean().backward()
    assert y.dtype == torch.bfloat16
    assert (y - expected).abs().max() < 0.05 * expected.abs().max()
    assert net[0].parametrizations.weight[0].U.grad.isfinite().all()
    if x.dim() == 4:
        last = copy.deepcopy(net).to(memory_format=torch.channels_last)
        torch.testing.assert_close(last(x.to(memory_format=torch.channels_last)), expected)


def test_attention_takes_the_dense_product():
    """nn.MultiheadAttention reads its projections itself: no two steps, but the same weight, and it
    learns.
    """
    net = nn.MultiheadAttention(8, 2, batch_first=True)
    plan = binarize_(net, "low_rank(rank=2, min_layer_size=0)")
    assert [(row.rank, row.reuse) for row in plan.rows] == [(2, False), (2, False)]
    x = torch.randn(2, 5, 8)
    net(x, x, x)[0].sum().backward()
    assert net.parametrizations.in_proj_weight[0].V.grad.abs().sum() > 0
    assert torch.linalg.matrix_rank(net.in_proj_weight) == 2


# -- the start


def test_a_weight_that_is_such_a_product_starts_as_itself():
    """Rank 1: |W| is u v^T, the signs a product of two vectors; nothing is lost."""
    signs = torch.outer(torch.tensor([1.0, -1, -1]), torch.tensor([1.0, 1, -1, 1]))
    weight = signs * torch.outer(torch.tensor([1.0, 2, 3]), torch.tensor([0.5, 1, 2, 4]))
    for rotate in (True, False):
        torch.testing.assert_close(LowRankWeight(weight, 1, rotate=rotate)(weight), weight)


def test_itq_is_a_rotation_that_brings_points_to_signs():
    """Orthogonal, and nearer to the corners of a cube than the points were.

    No global random state.
    """
    points = torch.randn(200, 6) @ torch.randn(6, 6)
    state = torch.get_rng_state()
    rotation = low_rank.itq(points)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(6), rtol=0, atol=1e-5)
    before, after = points.abs().sum(), (points @ rotation).abs().sum()  # <sign(Z), Z>
    assert after > before


def test_rotation_starts_nearer_to_the_weight():
    """On random weights of a convolution; both are nearer than nothing (an error of 1)."""
    weight = torch.randn(32, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        starts = [LowRankWeight(weight, 8, rotate=rotate)(weight) for rotate in (True, False)]
    errors = [(start - weight).norm() / weight.norm() for start in starts]
    assert errors[0] < errors[1] < 1


def test_a_weight_of_zeros_starts_finite():
    method = LowRankWeight(torch.zeros(4, 6), 2)
    assert all(p.isfinite().all() for p in method.parameters())
    assert method(torch.zeros(4, 6)).abs().max() == 0


# -- the budget


def sizes(*shapes):
    return [
        Sizes(Target(f"layer {i}", torch.empty(shape, device="meta")))
        for i, shape in enumerate(shapes)
    ]


def test_stored_bits_by_hand():
    """64 to 64, 3 x 3, rank 7: 7 (64 + 576) signs and 32 (64 + 7 + 64) of scales.

    Rank 8 is over 1/4 bit.
    """
    (layer,) = sizes((64, 64, 3, 3))
    assert layer.stored(7) == 7 * 640 + 32 * 135 == 8800
    assert layer.stored(7) <= 36_864 / 4 < layer.stored(8)
    assert ranks_within([layer], Fraction("0.25")) == [7]
    assert layer.useful == 51  # (36,864 - 32 * 64) // 672
    assert sizes((512, 512))[0].useful == (512 * 512 - 32 * 512) // 1056
    assert sizes((16, 10))[0].useful == 1  # its scales alone cost more than its bits


SHAPES = [
    (64, 64, 3, 3),
    (128, 64, 3, 3),
    (128, 64, 1, 1),
    (512, 256, 3, 3),
    (300, 700),
    (96, 32, 5),
]


@pytest.mark.parametrize("wanted", ["0.25", "0.125", "0.3", "0.61", "0.93", "1"])
def test_the_budget_is_met_and_used(wanted):
    """Never over; the next larger common b' would be, or every layer is at its cap."""
    layers, bits_wanted = sizes(*SHAPES), Fraction(wanted)
    budget = bits_wanted * sum(map(prod, SHAPES))
    ranks = ranks_within(layers, bits_wanted)
    assert sum(layer.stored(rank) for layer, rank in zip(layers, ranks, strict=True)) <= budget
    grown = [
        Fraction(layer.stored(rank + 1), layer.numel)
        for layer, rank in zip(layers, ranks, strict=True)
        if rank < layer.useful
    ]
    if grown:
        after = [layer.rank(min(grown)) for layer in layers]
        assert sum(layer.stored(rank) for layer, rank in zip(layers, after, strict=True)) > budget


@pytest.mark.parametrize("shape", [s for s in SHAPES if prod(s) > 10_000])
def test_one_layer_takes_the_largest_rank_within_its_bits(shape):
    (layer,) = sizes(shape)
    (rank,) = ranks_within([layer], Fraction("0.5"))
    allowed = [r for r in range(1, layer.useful + 1) if layer.stored(r) <= layer.numel / 2]
    assert rank == max(allowed)


def test_a_plan_keeps_the_budget_over_its_factorised_layers():
    """Bits of the rows with a rank, together; small and grouped layers are binary, and say why."""
    net = nn.Sequential(
        nn.Conv2d(64, 128, 3),
        nn.Conv2d(128, 128, 1),
        nn.Conv2d(128, 128, 3, groups=2),
        nn.Linear(128, 10),
    )
    rows = binarize_(net, "low_rank(bits=0.25, min_layer_size=10_000)").rows
    factored = [row for row in rows if row.rank]
    assert [row.name for row in factored] == ["0.weight", "1.weight"]
    used = sum(row.stored_bits for row in factored) / sum(row.numel for row in factored)
    assert 0.24 < used <= 0.25
    assert "grouped convolution: binary, one scale per output channel" in rows[2].reason
    assert "below min_layer_size 10,000: binary" in rows[3].reason
    assert [row.stored_bits - row.numel for row in rows[2:]] == [32 * 128, 32 * 10]
    assert rows[0].reason.startswith(f"rank {rows[0].rank}, ")


def test_what_is_not_factorised_is_bwn():
    nets = [nn.Sequential(nn.Linear(6, 4)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    binarize_(nets[0], "low_rank(bits=0.25)")
    binarize_(nets[1], "bwn(grad='clip_ste')")
    assert torch.equal(nets[0][0].weight, nets[1][0].weight)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "low_rank",
            r"needs exactly one of bits, rank, got none of them; write e.g. low_rank\(bits=0.25\)",
        ),
        ("low_rank(bits=0.25, rank=3)", "exactly one of bits, rank, got bits and rank"),
        ("low_rank(bits=0)", "bits per weight must be above 0 and at most 1, got 0"),
        ("low_rank(bits=1.5)", "at most 1, got 1.5"),
        ("low_rank(bits=True)", "at most 1, got True"),
        ("low_rank(bits='a')", r"option bits must be float \| None, got 'a'"),
        ("low_rank(rank=0)", "rank is that of both factors, an integer >= 1, got 0"),
        ("low_rank(rank=2.0)", "an integer >= 1, got 2.0"),
        (
            "low_rank(rank=2, min_layer_size=-1)",
            "min_layer_size counts weights, an integer >= 0, got -1",
        ),
        (
            "low_rank(rank=2, surrogate='sigmoid')",
            "surrogate must be one of 'clip', 'identity', 'tanh', got 'sigmoid'",
        ),
        ("low_rank(rank=2, rotate='itq')", "option rotate must be bool, got 'itq'"),
        (
            "low_rank(rank=7, min_layer_size=0)",
            r"(?s)from 1 to 6 for a \(6 x 8\), got 7; lower it.*from 1 to 5 for b \(10 x 5\)",
        ),
        (
            "low_rank(bits=0.1, min_layer_size=0)",
            r"bits=0.1 cannot be met: a, b take 10.4184 bits per weight at rank 1; raise min_layer_size",
        ),
    ],
)
def test_what_cannot_be_is_refused(spec, message):
    """Before anything is changed, with the layer and what would do."""
    targets = [Target("a", torch.randn(6, 8)), Target("b", torch.randn(10, 5))]
    with pytest.raises(ValueError, match=message):
        catalog.build("binarizers", spec).decide(targets)


def test_the_smallest_bits_named_are_enough():
    layers = sizes((64, 64, 3, 3), (128, 64, 1, 1))  # the second is mostly scales
    with pytest.raises(ValueError, match="cannot be met") as caught:
        ranks_within(layers, Fraction("0.01"))
    named = str(caught.value).partition("use bits=")[2].split()[0]
    assert ranks_within(layers, Fraction(named)) == [1, 1]


# -- stored, packed, native


def test_the_stored_form_by_hand():
    """(3, 2) of rank 1: U = (+, -, +) is bits 0 to 2, V = (-, +) bits 3 and 4.

    Alphas are u, m, v.
    """
    form = Form((3, 2), scales=6, code="low_rank", rank=1)
    alphas = np.array([1, 2, 3, 0.5, 4, 8], np.float32)
    tensors = form.encode(np.array([1, -1, 1, -1, 1]), alphas)
    assert tensors["tile"].tolist() == [0b10101]
    assert form.dense(tensors).tolist() == [[-2, 4], [4, -8], [-6, 12]]
    assert form.sizes == {"tile": 5, "alphas": 192}
    assert form.nbytes == 1 + 24
    assert not form.plain


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"rank": 0}, "a rank from 1 on belongs to code low_rank"),
        ({"rank": -1}, "a rank from 1 on belongs"),
        ({"code": "sign"}, "belongs to code low_rank"),
        ({"shape": (12,)}, "two axes or more"),
        ({"p": 2}, "needs p = 1, float scales"),
        ({"exponents": True}, "needs p = 1, float scales"),
        ({"offsets": True}, "no offsets"),
        ({"scales": 8}, r"rank 2 of \(4, 3\) has 9 scales, got 8"),
    ],
)
def test_forms_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        Form(**{"shape": (4, 3), "scales": 9, "code": "low_rank", "rank": 2} | parts)


@pytest.mark.parametrize("layer", BATCHED)
def test_packed_layers_and_files(tmp_path, layer):
    """Packed, saved, and loaded into a layer that was never converted.

    The same outputs, bytes as counted, the dense weight bit for bit.
    """
    net, plan, x = made(layer)
    net, x = net.float(), x.float()
    expected, weight = net(x).detach(), net[0].weight.detach().clone()
    total = cost(net, plan, x.shape[1:])
    assert convert.pack_(net)[0].how == "two factors"
    assert torch.equal(net[0].expanded(), weight)
    path = tmp_path / "net.safetensors"
    convert.save(net, path)
    content = packed_file.read(path)
    assert content.payload_bytes == total.stored_bytes
    assert np.array_equal(content.dense()["0.weight"], weight.numpy())
    loaded = convert.load_(nn.Sequential(LAYERS[layer][0]()), path)
    for network in (net, loaded):
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


def test_packed_bytes_that_a_forward_reads():
    """Both factors in float32 with their scales inside."""
    net, _, _ = made("conv")
    convert.pack_(net.float())
    assert net[0].weight_bytes() == 4 * 3 * (5 * 9 + 8)


def test_multiply_adds_of_both_steps():
    """Stride 2, 7 x 9 to 4 x 5: 3 channels of 8 * 9 products, then 12 of 3, at each of 20
    positions.
    """
    net, plan, x = made("stride")
    total = cost(net.float(), plan, x.shape[1:]).summary()
    assert total["macs"] == 12 * 8 * 9 * 20
    assert total["distinct_macs"] == 3 * (8 * 9 + 12) * 20
    assert total["tile_bits"] == 3 * (8 * 9 + 12)
    assert total["alpha_bits"] == 32 * (12 + 3 + 8)


@pytest.mark.parametrize("layer", BATCHED)
def test_native_plans_run_both_steps(layer):
    """One scale per input channel and two layers of signs.

    Normalisation and ReLU go into the second.
    """
    net, _, x = made(layer)
    net = nn.Sequential(nn.Tanh(), net.float(), nn.ReLU()).eval()
    convert.pack_(net)
    native, why = executor(net, x.float())
    if native is None:
        assert "native" in why or "no layer" in why
        return
    kinds = [op.kind for step in native._steps if hasattr(step, "ops") for op in step.ops]
    assert kinds.count("conv") == 2
    torch.testing.assert_close(native(x.float()), net(x.float()).detach(), rtol=1e-4, atol=1e-4)


def test_a_graph_holds_the_bits():
    """unpack_in_forward_: what is exported derives both factors itself."""
    net, _, x = made("conv")
    convert.pack_(net.float().eval())
    expected = net(x.float())
    net[0].unpack_in_forward_()
    program = torch.export.export(net, (x.float(),))
    assert net[0].factor is None
    held = {tuple(t.shape) for t in program.state_dict.values()}
    assert held == {(bits.packed_bytes(3 * (8 + 45)),), (8 + 3 + 5,), (8,)}
    torch.testing.assert_close(program.module()(x.float()), expected)


# -- from another run


def network(spec):
    net = catalog.build("models", "mlp(hidden=[24, 16])", num_classes=8, in_shape=(1, 5, 5))
    binarize_(net, spec)
    return net


def lows(net):
    return [m for m in net.modules() if isinstance(m, LowRankWeight)]


@pytest.mark.parametrize("first", ["full_precision", "bwn"])
def test_start_from_another_run_factorises_its_weights(first):
    """--init: the factors are those of the loaded weight, not of the one that was drawn."""
    source, net = network(first), network("low_rank(rank=3, min_layer_size=0)")
    start_from(net, source)
    for module in net.modules():
        if hasattr(module, "parametrizations"):
            chain = module.parametrizations.weight
            fresh = LowRankWeight(chain.original.detach(), 3)
            assert torch.equal(chain[0].U, fresh.U)
            assert torch.equal(chain[0].m, fresh.m)


def test_start_from_the_same_method_takes_its_factors():
    source, net = (network("low_rank(rank=3, min_layer_size=0)") for _ in range(2))
    for method in lows(source):
        method.m.data += 1
    start_from(net, source)
    x = torch.randn(4, 1, 5, 5)
    assert torch.equal(net(x), source(x))


@pytest.mark.parametrize("then", ["full_precision", "low_rank(rank=6, min_layer_size=0)"])
def test_start_from_low_rank_takes_the_weight_it_computes_with(then):
    """Its latent weight is where training began.

    Another method, or another rank, goes on from the product.
    """
    source, net = network("low_rank(rank=2, min_layer_size=0)"), network(then)
    for method in lows(source):
        method.m.data += 1
    start_from(net, source)
    weights = [m.weight for m in source.modules() if isinstance(m, nn.Linear)]
    own = [
        m.parametrizations.weight.original if "low_rank" in then else m.weight
        for m in net.modules()
        if isinstance(m, nn.Linear)
    ]
    assert all(torch.equal(a, b) for a, b in zip(own, weights, strict=True))
