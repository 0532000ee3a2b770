"""Tile reuse against the plain parametrized path, in float64."""

import copy

import pytest
import torch
from torch import nn

from tbn_bench import reuse
from tbn_bench.convert import binarize_

LAYERS = {
    "linear": (lambda: nn.Linear(5, 8), (3, 5)),
    "linear 3d": (lambda: nn.Linear(5, 8, bias=False), (2, 3, 5)),
    "conv1d": (lambda: nn.Conv1d(3, 8, 3, padding=1), (2, 3, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 8, 3, padding=1), (2, 3, 6, 5)),
    "stride dilation": (lambda: nn.Conv2d(3, 8, 3, stride=2, dilation=2, padding=(1, 2)), (2, 3, 9, 8)),
    "same reflect": (lambda: nn.Conv2d(3, 8, (3, 2), padding="same", padding_mode="reflect"), (2, 3, 6, 5)),
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


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(4, 6, 3), nn.Linear(8, 6)])
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
    x = torch.randn(2, 16, 8, 8, device="cuda", dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    inputs = [x, net[0].parametrizations.weight.original]
    plain = torch.nn.functional.conv2d(x, net[0].weight, net[0].bias, padding=1)
    expected = torch.autograd.grad(plain.square().sum(), inputs)
    got = torch.autograd.grad(net(x).square().sum(), inputs)
    torch.testing.assert_close(got, expected)
