"""Guards what is computed from a network's tensors: it follows them when they change."""

import copy
import pickle

import pytest
import torch
from torch import nn

from tbn_bench import convert, native
from tbn_bench.convert.binarize import binarize_
from tbn_bench.derived import Kept

try:
    native.load()
    NATIVE = True
except native.NativeUnavailable:
    NATIVE = False
SPECS = [
    "tbn(p=4, min_layer_size=0)",
    "tbn(p=4, min_layer_size=0, copies='rotated')",
    "tbn(p=4, min_layer_size=0, copies='permuted')",
    "tbn(p=4, min_layer_size=0, copies='hadamard')",
    "tbn(p=4, min_layer_size=0, copies='shifted')",
    "tbn(p=4, min_layer_size=0, copies='columns')",
    "twn",
    "adabin(activations=False)",
    "irnet",
    "low_rank(rank=2, min_layer_size=0)",
    "bwn",
    "sign",
]


def convolutions(spec: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 6)
    )
    binarize_(net, spec)
    convert.pack_(net.eval())
    return net


class Attentive(nn.Module):
    """x: (B, T, 8); two kinds of projections, one attention with keys of another width."""

    def __init__(self):
        super().__init__()
        self.same = nn.MultiheadAttention(8, 2, batch_first=True)
        self.other = nn.MultiheadAttention(8, 2, kdim=8, vdim=4, batch_first=True)

    def forward(self, x):
        x = self.same(x, x, x, need_weights=False)[0]
        return self.other(x, x, x[..., :4], need_weights=False)[0]


def attentive(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = Attentive()
    binarize_(net, "tbn(p=4, min_layer_size=0)")
    convert.pack_(net.eval())
    return net


@torch.no_grad()
def follows(net: nn.Module, other: nn.Module, x: torch.Tensor, change) -> None:
    """net, used before, computes what `other` does once `change` gave it the other's state."""
    before = net(x)
    change(net, other.state_dict())
    assert not torch.allclose(net(x), before)
    assert torch.allclose(net(x), other(x), rtol=1e-5, atol=1e-5)


def copied(net, state):
    net.load_state_dict(state)


def assigned(net, state):
    net.load_state_dict(state, assign=True)


def written(net, state):
    for name, value in net.state_dict().items():
        value.copy_(state[name])


def pointed(net, state):
    """The same tensor objects, with other memory."""
    for name, value in net.named_buffers():
        value.data = state[name].clone() if name in state else value.data
    for name, value in net.named_parameters():
        value.data = state[name].clone()


CHANGES = [copied, assigned, written, pointed]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("spec", SPECS)
def test_a_used_packed_layer_follows_its_bits(spec, change):
    """The outputs after other bits are loaded are those of a fresh network with these bits."""
    follows(convolutions(spec, 0), convolutions(spec, 1), torch.randn(2, 4, 6, 6), change)


@pytest.mark.skipif(not NATIVE, reason="no native library")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("spec", SPECS)
def test_a_layer_by_the_kernels_follows_its_bits(spec, change):
    """The same after implement_, for the layers that it leaves to torch too."""
    net = convolutions(spec, 0)
    convert.implement_(net)
    follows(net, convolutions(spec, 1), torch.randn(2, 4, 6, 6), change)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("used", [False, True])
def test_packed_attention_follows_its_bits(used, change):
    """Its projections are those of the loaded bits, whether or not it ran before."""
    net, other, x = attentive(0), attentive(1), torch.randn(2, 3, 8)
    if used:
        follows(net, other, x, change)
        return
    with torch.no_grad():
        change(net, other.state_dict())
        assert torch.equal(net(x), other(x))
        assert torch.equal(net.same.in_proj_weight, other.same.in_proj_weight)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_packed_attention_is_copied_with_its_bits(again):
    """A copy has bits of its own, and the weight that they stand for."""
    net, x = attentive(0), torch.randn(2, 3, 8)
    with torch.no_grad():
        twin = again(net)
        assert torch.equal(twin(x), net(x))
        before = net(x)
        twin.load_state_dict(attentive(1).state_dict())
        assert not torch.equal(twin(x), before)
        assert torch.equal(net(x), before)


def test_a_packed_projection_cannot_be_overwritten():
    """The weight is what the bits say: assigning to it is an error, not a second truth."""
    net = attentive(0)
    with pytest.raises((AttributeError, KeyError)):
        net.same.in_proj_weight = nn.Parameter(torch.zeros(24, 8))


def test_tensors_of_inference_mode_are_compared_by_value():
    """They have no count of writes.

    A change is noticed all the same, and the result serves autograd.
    """
    with torch.inference_mode():
        net, other, x = convolutions("bwn", 0), convolutions("bwn", 1), torch.randn(2, 4, 6, 6)
        follows(net, other, x, copied)
    net = convolutions("bwn", 0)
    with torch.inference_mode():
        net(x)
    image = torch.randn(2, 4, 6, 6, requires_grad=True)
    net(image).sum().backward()
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize("spec", SPECS)
def test_a_compiled_graph_follows_the_bits(spec):
    """torch.compile makes what it multiplies by inside its graph."""
    net, other, x = convolutions(spec, 0), convolutions(spec, 1), torch.randn(2, 4, 6, 6)
    torch._dynamo.reset()  # the networks share their code, and it is compiled a few times at most
    call = torch.compile(net, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(call(x), net(x), atol=1e-6)
        net.load_state_dict(other.state_dict())
        assert torch.allclose(call(x), other(x), atol=1e-6)


def test_a_result_is_kept_until_a_tensor_or_the_key_changes():
    """How often it is made, by hand; copies of the keeper are empty."""
    made, kept, x = [], Kept(), torch.zeros(2)

    def make():
        made.append(None)
        return x + 1

    for key, change in (("a", 0), ("a", 0), ("b", 0), ("b", 1), ("b", 0)):
        x.add_(change) if change else None
        kept.get([x], make, key)
    assert len(made) == 3
    assert copy.deepcopy(kept).value is None


@pytest.mark.skipif(not NATIVE, reason="no native library")
def test_scales_at_the_address_of_freed_ones_are_noticed():
    """Memory of freed scales is used again for the new ones, at their first version."""
    from tbn_bench.kernels import tiled_linear

    x, bits, outputs = torch.ones(1, 8), torch.full((8,), 255, dtype=torch.uint8), []
    for value in (1.0, 2.0, 3.0):
        alphas = torch.full((1,), value)
        outputs.append(
            float(tiled_linear.tiled_linear(x, bits, alphas, None, (8, 8), 1, "cpu")[0, 0])
        )
        del alphas
    assert outputs == [8.0, 16.0, 24.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spec", SPECS)
def test_a_packed_layer_has_its_dense_weight_on_demand(spec, dtype):
    """That of the trained layer, in its type; it follows the bits, and is in no state."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 6)
    ).to(dtype)
    binarize_(net, spec)
    plain = convert.dense(net)
    rows = convert.pack_(net.eval())
    for i, row in zip((0, 2, 4), rows, strict=True):
        torch.testing.assert_close(
            net[i].weight, plain[i].weight, rtol=1e-6 if dtype == torch.float32 else 1e-2, atol=1e-7
        )
        assert not net[i].weight.requires_grad
        assert row.dense_bytes == plain[i].weight.numel() * dtype.itemsize
        assert net[i].weight is net[i].weight
    assert not any("weight" in name for name in net.state_dict() if "input_binarizer" not in name)
    before = net[0].weight
    net.load_state_dict(convolutions(spec, 1).state_dict())
    assert not torch.equal(net[0].weight, before)
    assert (net[4].in_features, net[4].out_features, net[2].in_channels, net[0].out_channels) == (
        32,
        6,
        8,
        8,
    )


def test_the_cost_of_a_dense_weight_is_counted_once_it_is_read():
    """Beside a tile of 8 x 4 weights and 8 scales: 64 floats after `.weight`.

    An expanded layer has one already.
    """
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    binarize_(net, "tbn(p=2, min_layer_size=64)", keep=["1.weight"])
    convert.pack_(net)
    before = net[0].weight_bytes()
    assert before == 4 * (32 + 8)
    assert net[0].weight.shape == (8, 8)
    assert net[0].weight_bytes() == before + 4 * 64
    net = nn.Sequential(nn.Linear(8, 8))
    binarize_(net, "twn")
    assert convert.pack_(net)[0].how == "expanded"
    assert net[0].weight.shape == (8, 8)
    assert net[0].weight_bytes() == 4 * 64


def test_a_network_that_asks_its_layers_for_their_weights_runs_packed():
    """edgenext_xx_small reads the device and the type of a convolution's weight."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net, x = timm.create_model("edgenext_xx_small", num_classes=4).eval(), torch.randn(1, 3, 64, 64)
    binarize_(net, "tbn(p=2, min_layer_size=5000)")
    with torch.no_grad():
        expected = net(x)
        convert.pack_(net)
        torch.testing.assert_close(
            net(x), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())
        )
        reader = next(
            m for m in net.modules() if type(m).__name__ == "PositionalEncodingFourier"
        ).token_projection
        assert reader.kept_weight.value is not None or reader.how == "expanded"
