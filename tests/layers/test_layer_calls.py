"""Guards how layers are called: whatever torch's layers accept, converted and packed ones accept."""

import pytest
import torch
from torch import nn

from tbn_bench import convert, native
from tbn_bench.convert.binarize import binarize_
from tbn_bench.convert.cost import cost

try:
    native.load()
    STAGES = ["trained", "packed", "by kernels"]
except native.NativeUnavailable:
    STAGES = ["trained", "packed"]

LAYERS = {
    "linear": (lambda: nn.Linear(8, 8), [(8,), (3, 8), (0, 8), (2, 0, 8), (2, 3, 8)]),
    "unaligned": (lambda: nn.Linear(32, 6), [(32,), (3, 32), (0, 32)]),
    "conv1d": (lambda: nn.Conv1d(8, 8, 3, padding=1), [(8, 5), (2, 8, 5), (0, 8, 5)]),
    "conv2d": (lambda: nn.Conv2d(8, 8, 3, padding=1), [(8, 5, 5), (2, 8, 5, 5), (0, 8, 5, 5)]),
}
SPECS = [
    *(f"tbn(p=4, min_layer_size=0, gradient={g!r})" for g in ("tile", "elementwise")),
    *(f"tbn(p=4, min_layer_size=0, copies={c!r})" for c in ("rotated", "hadamard", "shifted", "columns")),
    "bwn", "twn", "xnor(k=False)", "adabin", "reactnet", "low_rank(rank=2, min_layer_size=0)",
]  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("kind", LAYERS)
def test_shapes_and_keywords_of_torch(kind, spec, stage):
    """One sample, none, and many, by position and by keyword: shapes as torch's, the same numbers both ways, and gradients."""
    make, shapes = LAYERS[kind]
    net = nn.Sequential(make())
    expected = [net[0](torch.zeros(shape)).shape for shape in shapes]
    binarize_(net, spec)
    if stage != "trained":
        convert.pack_(net.eval())
    if stage == "by kernels":
        convert.implement_(net)
    for shape, wanted in zip(shapes, expected, strict=True):
        x = torch.randn(shape, requires_grad=stage == "trained")
        y = net[0](input=x)
        assert y.shape == wanted
        assert torch.equal(y, net[0](x))
        if stage == "trained":
            y.sum().backward()
            assert x.grad.shape == shape


class Attentive(nn.Module):
    """x: (B, T, 8), given to attention by name."""

    def __init__(self, **options):
        super().__init__()
        self.mix, self.norm = (
            nn.MultiheadAttention(8, 2, batch_first=True, **options),
            nn.LayerNorm(8),
        )
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        narrow = {} if self.mix.vdim == 8 else {"value": x[..., : self.mix.vdim]}
        mixed, _ = self.mix(**{"need_weights": False, "value": x, "key": x, "query": x, **narrow})
        return self.out(input=self.norm(mixed))


@pytest.mark.parametrize(("options", "macs"), [({}, 4 * 64), ({"vdim": 4}, 3 * 64 + 32)])
def test_attention_by_keyword(options, macs):
    """Its multiply-adds are counted, per token; packed, it computes the same."""
    net, x = Attentive(**options).eval(), torch.randn(2, 5, 8)
    plan = binarize_(net, "tbn(p=2, min_layer_size=0)")
    assert cost(net, plan, (5, 8)).summary()["macs"] == 5 * (macs + 32)
    with torch.no_grad():
        expected = net(x)
        convert.pack_(net)
        torch.testing.assert_close(net(x), expected)


def test_convolutions_by_keyword_are_counted():
    """Shifted copies look at the input's size, which may be given by name."""

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            return self.conv(input=x)

    net = Named()
    plan = binarize_(net, "tbn(p=4, min_layer_size=0, copies='shifted')")
    assert cost(net, plan, (8, 6, 6)).summary()["macs"] == 8 * 72 * 36
