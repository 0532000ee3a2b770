"""Layouts of a tile's copies: by hand, against the dense weight in float64, packed, counted."""

import numpy as np
import pytest
import torch
from torch import nn

from tbn_bench import convert, tiling
from tbn_bench.compiler.executor import executor
from tbn_bench.config import make
from tbn_bench.convert.binarize import binarize_
from tbn_bench.convert.cost import cost
from tbn_bench.experiment import build as assembly
from tbn_bench.format import packed_file
from tbn_bench.format.form import Form
from tbn_bench.format.layouts import Copies, default_shifts, hadamard
from tbn_bench.layers import packed

KINDS = ["rotated", "permuted", "hadamard", "shifted", "columns"]
LAYERS = {
    "linear": (lambda: nn.Linear(16, 8), (5, 16)),
    "tokens": (lambda: nn.Linear(16, 8, bias=False), (2, 3, 16)),
    "conv": (lambda: nn.Conv2d(8, 8, 3, padding=1), (2, 8, 7, 6)),
    "stride": (lambda: nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False), (2, 8, 7, 9)),
    "dilation": (lambda: nn.Conv2d(4, 8, 3, padding=2, dilation=2), (2, 4, 9, 8)),
    "uneven": (lambda: nn.Conv2d(8, 8, (3, 1), stride=(1, 2), padding=(1, 0)), (2, 8, 5, 8)),
    "pointwise": (lambda: nn.Conv2d(8, 8, 1), (2, 8, 5, 5)),
    "signal": (lambda: nn.Conv1d(8, 8, 5, stride=2, padding=2), (2, 8, 17)),
}


def made(layer, kind, p=4, gradient="tile", alpha="tile"):
    """(network of one layer in float64, its plan, an input)."""
    torch.manual_seed(0)
    build, shape = LAYERS[layer]
    net = nn.Sequential(build())
    plan = binarize_(
        net,
        f"tbn(p={p}, min_layer_size=0, copies={kind!r}, gradient={gradient!r}, alpha={alpha!r})",
    )
    return net.double(), plan, torch.randn(*shape, dtype=torch.float64)


def test_layouts_by_hand():
    """One row of four, two copies: rotated by half, the second half negated, moved one to the right."""
    tile = np.array([1, 2, 3, 4])
    assert Copies((2, 4), 2, "rotated").lay_out(tile).tolist() == [[1, 2, 3, 4], [3, 4, 1, 2]]
    assert Copies((2, 4), 2, "hadamard").lay_out(tile).tolist() == [[1, 2, 3, 4], [1, 2, -3, -4]]
    assert sorted(Copies((2, 4), 2, "permuted").lay_out(tile)[1]) == [1, 2, 3, 4]
    moved = Copies((2, 1, 2), 2, "shifted", ((0,), (1,))).enlarged(np.array([[[1, 2]], [[1, 2]]]))
    assert moved.tolist() == [[[0, 1, 2, 0]], [[0, 0, 1, 2]]]


def test_columns_by_hand():
    """Two rows of four inputs, p = 2: neighbours share the sign of their sum (of 0: -1), and each row has its own."""
    tile = np.array([1, 2, 3, 4])
    assert Copies((2, 4), 2, "columns").lay_out(tile).tolist() == [[1, 1, 2, 2], [3, 3, 4, 4]]
    assert Copies((1, 4, 2), 2, "columns").lay_out(tile).tolist() == [
        [1, 2, 1, 2],
        [3, 4, 3, 4],
    ]  # two taps
    net = nn.Sequential(nn.Linear(4, 2, bias=False))
    net[0].weight.data = torch.tensor([[0.5, -2.0, 3.0, -1.0], [1.0, -1.0, 0.0, 2.0]])
    binarize_(net, "tbn(p=2, min_layer_size=0, copies='columns', alpha_source='W')")
    first, second = 6.5 / 4, 4 / 4
    assert net[0].weight.tolist() == [
        [-first, -first, first, first],
        [-second, -second, second, second],
    ]
    x = torch.tensor([[1.0, 2.0, 3.0, 5.0]])  # the sums of its pairs: 3 and 8
    assert net(x).tolist() == [[first * 5, second * 5]]


def test_the_permutations_never_change():
    """Files store the kind alone: the permutation of a copy must be the same in every version of every library."""
    assert Copies((2, 6), 2, "permuted").lay_out(np.arange(6)).tolist() == [
        [0, 1, 2, 3, 4, 5],
        [2, 1, 4, 0, 3, 5],
    ]


def test_default_shifts():
    """Nothing first, then the straight neighbours, the diagonal ones, then distance 2."""
    assert default_shifts(1, 2) == ((0, 0),)
    assert {*default_shifts(5, 2)} == {(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)}
    assert len({*default_shifts(25, 2)}) == 25
    assert max(abs(v) for s in default_shifts(9, 2) for v in s) == 1
    assert default_shifts(3, 1) == ((0,), (-1,), (1,))


def test_hadamard_rows_are_orthogonal():
    for p in (1, 2, 8, 16):
        assert (hadamard(p).astype(int) @ hadamard(p).T == p * np.eye(p)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gather_is_the_transpose_of_lay_out(kind):
    """<lay_out(t), W> = <t, gather(W)> for every layout, and numpy and torch lay out alike."""
    shape = (8, 8, 3, 3)
    copies = Copies(shape, 4, kind, default_shifts(4, 2) if kind == "shifted" else ())
    tile, weight = (
        torch.randn(copies.q, dtype=torch.float64),
        torch.randn(shape, dtype=torch.float64),
    )
    laid = tiling.lay_out(tile, copies)
    assert torch.allclose(
        (laid.reshape(-1) * weight.reshape(-1)).sum(), (tile * tiling.gather(weight, copies)).sum()
    )
    assert np.array_equal(copies.lay_out(tile.numpy()), laid.numpy())
    assert np.array_equal(copies.enlarged(weight.numpy()), tiling.enlarged(weight, copies).numpy())


@pytest.mark.parametrize("gradient", ["tile", "elementwise"])
@pytest.mark.parametrize("alpha", ["tile", "layer"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", ["aligned", *KINDS])
def test_reuse_equals_the_dense_weight(kind, layer, gradient, alpha):
    """Output and every gradient (input, latent weight, A, bias) are those of the plain layer with .weight, in float64."""
    net, plan, x = made(layer, kind, gradient=gradient, alpha=alpha)
    plain, results = type(LAYERS[layer][0]()), []
    for forward in (
        net[0],
        lambda v: plain.forward(net[0], v),
    ):  # the plain layer's forward reads .weight
        net.zero_grad()
        v = x.clone().requires_grad_()
        y = forward(v)
        (y * torch.cos(torch.arange(y.numel(), dtype=y.dtype)).reshape(y.shape)).sum().backward()
        results.append([y.detach(), v.grad, *(p.grad.clone() for p in net.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert plan.rows[0].reuse == (
        plan.rows[0].copies in ("aligned", "hadamard", "shifted", "columns")
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha_source", ["A"])
def test_sgd_moves_both_gradient_rules_alike(kind, alpha_source):
    """The column sums, so the tiles, are the same step by step under SGD with momentum and weight decay."""
    nets = [made("conv", kind, gradient=g) for g in ("tile", "elementwise")]
    nets[1][0].load_state_dict(nets[0][0].state_dict())
    optimizers = [
        torch.optim.SGD(n.parameters(), 0.1, momentum=0.9, weight_decay=1e-2) for n, _, _ in nets
    ]
    for _ in range(5):
        for (net, _, x), optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
        sums = [tiling.gather(n[0].parametrizations.weight.original.detach(), n[0].parametrizations.weight[0].copies)
                for n, _, _ in nets]  # fmt: skip
        torch.testing.assert_close(*sums, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_packed_layers_and_files(tmp_path, kind, layer):
    """Packed, saved and loaded into a layer that was never converted: the same outputs, bytes as counted, dense weight bit for bit."""
    net, plan, x = made(layer, kind)
    net, x = net.float(), x.float()
    expected, weight = net(x).detach(), net[0].weight.detach().clone()
    total = cost(net, plan, x.shape[1:])
    rows = convert.pack_(net)
    assert rows[0].how == ("tile reuse" if plan.rows[0].reuse else "expanded")
    convert.save(net, tmp_path / "net.safetensors")
    content = packed_file.read(tmp_path / "net.safetensors")
    assert content.payload_bytes == total.stored_bytes
    assert np.array_equal(content.dense()["0.weight"], weight.numpy())
    loaded = convert.load_(nn.Sequential(LAYERS[layer][0]()), tmp_path / "net.safetensors")
    for network in (net, loaded):
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_native_plans_know_every_layout(kind):
    """The executor runs what it can and leaves shifted layers to torch; numbers agree."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 8)
    )
    binarize_(net, f"tbn(p=4, min_layer_size=0, copies={kind!r})")
    convert.pack_(net.eval())
    x = torch.randn(3, 4, 6, 6)
    native, why = executor(net, x)
    assert native is not None or "no native library" in why
    if native is not None:
        torch.testing.assert_close(native(x), net(x).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "factor"),
    [
        ("aligned", 1),
        ("hadamard", 1),
        ("columns", 1),
        ("shifted", (7 + 2) * (9 + 2) / (4 * 5)),
        ("rotated", 4),
    ],
)
def test_distinct_macs(kind, factor):
    """A stride-2 layer: 1/p of the products; shifted computes its tile at every position and a margin; rotated saves nothing."""
    net, plan, x = made("stride", kind)
    total = cost(net.float(), plan, x.shape[1:]).summary()
    assert total["macs"] == 12 * 8 * 9 * 4 * 5
    assert total["distinct_macs"] == round(total["macs"] * factor / 4)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("aligned", 0),
        ("hadamard", 4 * 12 * 4 * 5),
        ("columns", 8 * 7 * 9 * 3 // 4),
        ("shifted", 0),
        ("rotated", 0),
    ],
)
def test_additions(kind, expected):
    """p = 4, maps of 7 x 9 to 4 x 5: four per output of hadamard; columns add each four neighbours of the input once."""
    net, plan, x = made("stride", kind)
    assert cost(net.float(), plan, x.shape[1:]).summary()["additions"] == expected


def test_additions_of_the_digits_network():
    """ResNet-8, p = 16, stem and classifier float: 16 for each of 3,584 outputs, more than its multiply-adds."""
    binarizer = "tbn(p=16, min_layer_size=0, copies='hadamard')"
    config = {
        "data": "digits",
        "model": "resnet_cifar(depth=8)",
        "binarizer": binarizer,
        "keep": ["conv1", "fc"],
    }
    total = assembly.sketch(make(config)).cost.summary()
    assert (total["distinct_macs"], total["additions"]) == (55_936, 57_344)


@pytest.mark.parametrize("gradient", ["tile", "elementwise"])
def test_columns_with_one_alpha_need_no_p_that_divides_the_rows(tmp_path, gradient):
    """Six rows, p = 4: reuse, its gradients, the file and the native plan are those of the dense weight."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(24, 6))
    spec = f"tbn(p=4, min_layer_size=0, copies='columns', alpha='layer', gradient={gradient!r})"
    plan, x = binarize_(net, spec), torch.randn(3, 8, 4, 4)
    assert all(row.reuse and row.copies == "columns" for row in plan.rows)
    expected = convert.dense(net)(x)
    torch.testing.assert_close(net(x), expected, rtol=1e-5, atol=1e-5)
    latent = net[2].parametrizations.weight.original
    (got,) = torch.autograd.grad(net(x).square().sum(), latent)
    (wanted,) = torch.autograd.grad(
        nn.functional.linear(net[:2](x), net[2].weight, net[2].bias).square().sum(), latent
    )
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    convert.pack_(net.eval())
    convert.save(net, tmp_path / "net.safetensors")
    fresh = nn.Sequential(nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(24, 6))
    loaded = convert.load_(fresh, tmp_path / "net.safetensors")
    native, _ = executor(net, x)
    for network in (net, loaded, native or net):
        torch.testing.assert_close(network(x).detach(), expected.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["hadamard", "columns"])
@pytest.mark.parametrize("gradient", ["tile", "elementwise"])
def test_reuse_under_autocast(kind, gradient):
    """bfloat16 out, near the float32 numbers; gradients of the latent weight in float32, in its direction."""
    net, _, x = made("conv", kind, gradient=gradient)
    net, x = net.float(), x.float()
    latent = net[0].parametrizations.weight.original
    exact = net(x)
    (wanted,) = torch.autograd.grad(exact.square().sum(), latent)
    with torch.autocast("cpu", torch.bfloat16):
        got = net(x)
    (grad,) = torch.autograd.grad(got.float().square().sum(), latent)
    assert (got.dtype, grad.dtype) == (torch.bfloat16, torch.float32)
    assert (got - exact).abs().max() < 0.03 * exact.abs().max()
    assert torch.cosine_similarity(grad.flatten(), wanted.flatten(), dim=0) > 0.99


def test_columns_keep_channels_last():
    net, _, x = made("conv", "columns")
    last = net(x.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, net(x), rtol=1e-9, atol=1e-11)


def test_where_columns_do_not_fit():
    """Aligned, with the reason: p beside the inputs, an alpha that would change inside a row, groups."""
    net = nn.Sequential(nn.Linear(15, 8), nn.Linear(8, 6), nn.Conv2d(8, 8, 3, groups=2))
    net[0].weight = nn.Parameter(torch.randn(8, 15))
    rows = binarize_(net, "tbn(p=4, min_layer_size=0, copies='columns')").rows
    assert [r.copies for r in rows] == ["aligned"] * 3
    assert "p must divide the 15 input channels, got p=4" in rows[0].reason
    assert "a p that divides the 6 rows, got p=4; alpha='layer' does not" in rows[1].reason
    assert "single group" in rows[2].reason


def test_a_scale_inside_a_row_is_expanded():
    """No binarizer makes such columns, but a file may hold them: the packed layer multiplies by the dense weight."""
    copies = Copies((6, 8), 4, "columns")
    form = Form((6, 8), 4, 4, copies=copies)
    values, alphas = np.where(np.arange(12) % 3, 1, -1), np.arange(1, 5, dtype=np.float32)
    tensors = {k: torch.from_numpy(v) for k, v in form.encode(values, alphas).items()}
    layer, x = packed.PackedLinear(nn.Linear(8, 6, bias=False), form, tensors), torch.randn(3, 8)
    assert (layer.how, layer.summed) == ("expanded", 1)
    dense = torch.from_numpy(form.dense(layer.tensors()))
    torch.testing.assert_close(layer(x), x @ dense.T)


def test_a_layout_that_does_not_fit_is_aligned_and_says_so():
    net = nn.Sequential(
        nn.Linear(15, 8), nn.Conv2d(8, 8, 3, padding="same"), nn.Conv2d(8, 8, 3, groups=2)
    )
    plan = binarize_(net, "tbn(p=4, min_layer_size=0, copies='shifted')")
    assert [r.copies for r in plan.rows] == ["aligned"] * 3
    assert ["spatial axis" in plan.rows[0].reason, "given as a number" in plan.rows[1].reason] == [
        True,
        True,
    ]
    assert "single group" in plan.rows[2].reason
    other = nn.Sequential(nn.Linear(15, 8))
    assert (
        "input channels"
        in binarize_(other, "tbn(p=4, min_layer_size=0, copies='hadamard')").rows[0].reason
    )


def test_bad_options_are_refused():
    for spec, message in (
        ("tbn(p=2, copies='sideways')", "must be one of"),
        ("tbn(p=2, shifts=[[0, 1]])", "shifts are for"),
        (
            "tbn(p=2, copies='shifted', shifts=[0])",
            r"option shifts must be list\[list\[int\]\] \| None, got \[0\]",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            binarize_(nn.Sequential(nn.Linear(8, 8)), spec)
