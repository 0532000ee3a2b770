"""Tile reuse against the plain parametrized path, in float64."""

import contextlib
import copy

import pytest
import torch
from torch import nn

from tbn_bench.convert.binarize import binarize_
from tbn_bench.layers import reuse

LAYERS = {
    "linear": (lambda: nn.Linear(5, 8), (3, 5)),
    "linear 3d": (lambda: nn.Linear(5, 8, bias=False), (2, 3, 5)),
    "conv1d": (lambda: nn.Conv1d(3, 8, 3, padding=1), (2, 3, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 8, 3, padding=1), (2, 3, 6, 5)),
    "stride dilation": (
        lambda: nn.Conv2d(3, 8, 3, stride=2, dilation=2, padding=(1, 2)),
        (2, 3, 9, 8),
    ),
    "same reflect": (
        lambda: nn.Conv2d(3, 8, (3, 2), padding="same", padding_mode="reflect"),
        (2, 3, 6, 5),
    ),
    "unbatched": (lambda: nn.Conv2d(3, 8, 1), (3, 4, 4)),
}
SPECS = [
    f"tbn(p={p}, min_layer_size=0, alpha={alpha!r}, alpha_source={source!r}, gradient={gradient!r})"
    for p in (2, 8)
    for alpha in ("layer", "tile")
    for source in ("W", "A")
    for gradient in ("elementwise", "tile")
]


def _step(layer, x):
    x = x.clone().requires_grad_()
    out = layer(x)
    out.backward(torch.cos(torch.arange(out.numel(), dtype=out.dtype)).reshape(out.shape))
    return [out, x.grad, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("case", LAYERS)
def test_same_numbers_as_the_plain_path(case, spec, monkeypatch):
    """Output, input gradient and every parameter gradient equal those of the expanded weight."""
    make, shape = LAYERS[case]
    fast = make().double()
    plain = copy.deepcopy(fast)
    torch.manual_seed(1)
    assert binarize_(fast, spec).rows[0].reuse
    monkeypatch.setattr(reuse, "reusable", lambda module, p: False)
    torch.manual_seed(1)
    assert not binarize_(plain, spec).rows[0].reuse
    x = torch.randn(shape, dtype=torch.float64)
    for a, b in zip(_step(fast, x), _step(plain, x), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_deepcopy_and_state_dict_keep_reuse():
    """A converted layer can be copied and restored."""
    layer = nn.Linear(4, 8)
    binarize_(layer, "tbn(p=4, min_layer_size=0)")
    twin = copy.deepcopy(layer)
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(2, 4)
    assert torch.equal(layer(x), twin(x))


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(4, 6, 3), nn.Linear(8, 6)]
)
def test_not_reused_where_rows_or_groups_forbid(layer):
    """Groups, or a p that does not divide the rows: the plain path, still right."""
    assert not binarize_(layer, "tbn(p=4, min_layer_size=0)").rows[0].reuse


def test_same_tiles_under_sgd_in_both_gradients():
    """SGD with momentum and weight decay: "elementwise" and "tile" give the same column sums for 50 steps."""
    nets = [nn.Linear(6, 8).double() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    x, y = torch.randn(32, 6, dtype=torch.float64), torch.randn(32, 8, dtype=torch.float64)
    flips = 0
    sums = []
    for net, gradient in zip(nets, ("elementwise", "tile"), strict=True):
        torch.manual_seed(2)
        binarize_(net, f"tbn(p=4, min_layer_size=0, gradient={gradient!r})")
        before = net.weight.sign()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-2)
        for _ in range(50):
            optimizer.zero_grad()
            (net(x) - y).square().mean().backward()
            optimizer.step()
        flips += int((before != net.weight.sign()).sum())
        sums.append(net.parametrizations.weight.original.reshape(4, -1).sum(0))
    assert flips > 0
    assert torch.allclose(sums[0], sums[1], rtol=1e-9, atol=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("gradient", ["elementwise", "tile"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_cuda_agrees_with_the_plain_path(gradient, memory_format):
    """On a GPU in float64, output and gradients by reuse are those of the plain parametrized path."""
    net = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1)).cuda().double()
    binarize_(net, f"tbn(p=4, min_layer_size=0, gradient={gradient!r})")
    x = (
        torch.randn(2, 16, 8, 8, device="cuda", dtype=torch.float64)
        .to(memory_format=memory_format)
        .requires_grad_()
    )
    inputs = [x, net[0].parametrizations.weight.original]
    plain = torch.nn.functional.conv2d(x, net[0].weight, net[0].bias, padding=1)
    expected = torch.autograd.grad(plain.square().sum(), inputs)
    got = torch.autograd.grad(net(x).square().sum(), inputs)
    torch.testing.assert_close(got, expected)


def latent_gradient(layer: nn.Module, x: torch.Tensor, autocast: bool) -> torch.Tensor:
    """Of half the squared outputs, whose scales' gradients are sums of terms of one sign."""
    wanted = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
    with wanted:
        y = layer(x)
    y.backward(y.detach().to(torch.bfloat16).to(y.dtype) if autocast else y.detach())
    return torch.cat(
        [
            p.grad.double().flatten()
            for name, p in layer.named_parameters()
            if "original" in name or name.endswith("A")
        ]
    )


HALF_CASES = [
    *[f"tbn(p=4, min_layer_size=0, alpha={a!r}, alpha_source={s!r}, gradient='tile')" for a in ("layer", "tile") for s in "WA"],
    "tbn(p=4, min_layer_size=0, alpha_source='W')", "repeated_filters(p=4, min_layer_size=0)",
    *[f"tbn(p=4, min_layer_size=0, alpha_source='W', copies={c!r})" for c in ("hadamard", "shifted", "columns")],
]  # fmt: skip


@pytest.mark.parametrize("spec", HALF_CASES)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_under_autocast_reuse_is_as_exact_as_the_plain_path(kind, spec, monkeypatch):
    """The latent gradients of reuse in bfloat16 are at most twice as far from float64's as those of the expanded weight."""
    make, shape = {
        "linear": (lambda: nn.Linear(64, 64), (256, 64)), "conv": (lambda: nn.Conv2d(32, 64, 3, padding=1), (8, 32, 12, 12)),
    }[kind]  # fmt: skip
    torch.manual_seed(0)
    found, x = {}, torch.randn(shape)
    for way in ("reuse", "plain", "exact"):
        torch.manual_seed(1)
        layer = make()
        if way != "reuse":
            monkeypatch.setattr(reuse, "reusable", lambda module, method: False)
        binarize_(layer, spec)
        exact = way == "exact"
        found[way] = latent_gradient(
            layer.double() if exact else layer, x.double() if exact else x, not exact
        )
    size = found["exact"].norm()
    by_reuse, plain = ((found[way] - found["exact"]).norm() / size for way in ("reuse", "plain"))
    assert by_reuse < max(2 * plain, 1e-3)
