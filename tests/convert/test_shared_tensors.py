"""Guards the accounting of networks whose parts share tensors: what it predicts is what the packed file weighs."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tbn_bench import convert
from tbn_bench.convert.binarize import binarize_
from tbn_bench.convert.cost import cost
from tbn_bench.format import packed_file


class Raw(nn.Module):
    """Parameters and buffers of no layer: what is persistent is stored."""

    def __init__(self):
        super().__init__()
        self.table, self.row = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8))
        self.register_buffer("seen", torch.randn(8))
        self.register_buffer("scratch", torch.randn(8), persistent=False)


class Standardised(nn.Conv2d):
    """Reads its weight itself, as timm's convolutions do."""

    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


KINDS = {
    "linear": lambda: nn.Linear(8, 8), "wide": lambda: nn.Linear(8, 24), "bare": lambda: nn.Linear(8, 8, bias=False),
    "conv1d": lambda: nn.Conv1d(8, 8, 1), "conv2d": lambda: nn.Conv2d(8, 8, 3), "grouped": lambda: nn.Conv2d(16, 8, 3, groups=2),
    "standardised": lambda: Standardised(8, 8, 3), "transposed": lambda: nn.ConvTranspose2d(8, 8, 3),
    "attention": lambda: nn.MultiheadAttention(8, 2), "other attention": lambda: nn.MultiheadAttention(8, 2, kdim=8, vdim=4, add_bias_kv=True),
    "embedding": lambda: nn.Embedding(8, 8), "bag": lambda: nn.EmbeddingBag(24, 8), "bilinear": lambda: nn.Bilinear(8, 8, 1),
    "norm": lambda: nn.LayerNorm(8), "batch norm": lambda: nn.BatchNorm1d(8), "group norm": lambda: nn.GroupNorm(2, 8),
    "prelu": lambda: nn.PReLU(8), "gru": lambda: nn.GRU(8, 8), "raw": Raw,
}  # fmt: skip
SPECS = [
    "tbn(p=2, min_layer_size=0)", "tbn(p=4, min_layer_size=100, alpha='layer')", "tbn(p=2, min_layer_size=0, copies='hadamard')",
    "tbn(p=2, min_layer_size=0, copies='shifted')", "bwn", "sign", "twn", "irnet", "adabin(activations=False)",
    "low_rank(rank=1, min_layer_size=100)", "full_precision",
]  # fmt: skip


class Parts(nn.Module):
    """x -> x: what it is made of is counted and stored, used or not."""

    def __init__(self, kinds):
        super().__init__()
        self.parts = nn.ModuleList(KINDS[kind]() for kind in kinds)

    def forward(self, x):
        return x


def slots(net: nn.Module) -> list[tuple[nn.Module, str, torch.Tensor]]:
    return [
        (m, name, p) for m in net.modules() for name, p in m._parameters.items() if p is not None
    ]


def tie(net: nn.Module, first: int, second: int, by_memory: bool) -> None:
    """The parameter of one slot also becomes that of another of its shape: the same object, or another over its memory."""
    found = slots(net)
    _, _, source = found[first % len(found)]
    same = [(m, name) for m, name, p in found if p.shape == source.shape]
    module, name = same[second % len(same)]
    setattr(module, name, nn.Parameter(source.data) if by_memory else source)


def shared(kinds, ties, twice) -> nn.Module:
    net = Parts(kinds)
    for first, second, by_memory in ties:
        tie(net, first, second, by_memory)
    if twice:
        net.again = net.parts[twice % len(net.parts)]
    return net.eval()


def check(net: nn.Module, spec: str, path) -> packed_file.Artifact:
    """The file of the packed network weighs what was predicted, and gives the network back."""
    blank = copy.deepcopy(net)
    plan = binarize_(net, spec)
    predicted = cost(net, plan, (8,))
    if any(row.binarized for row in plan.rows):
        convert.pack_(net)
    convert.save(net, path)
    content = packed_file.read(path)
    assert content.payload_bytes == predicted.stored_bytes
    loaded = convert.load_(blank, path).state_dict()
    assert all(
        torch.equal(loaded[k], v)
        for k, v in net.state_dict().items()
        if not k.endswith("num_batches_tracked")
    )
    return content


ties = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.booleans()), max_size=6)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=5),
    ties,
    st.integers(0, 5),
    st.sampled_from(SPECS),
)
def test_every_pattern_of_sharing_weighs_what_is_predicted(
    tmp_path_factory, kinds, ties, twice, spec
):
    """Any kinds of modules, any parameters of equal shape shared, one module used under two names."""
    net = shared(["linear", *kinds], ties, twice)
    check(net, spec, tmp_path_factory.getbasetemp() / "shared.safetensors")


class Tied(nn.Module):
    """Token indices: (T,) -> (T, 16), the decoder being the embedding's table."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.decode = (
            nn.Embedding(16, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 16, bias=False),
        )
        self.decode.weight = self.embed.weight

    def forward(self, x):
        return self.decode(self.mix(self.embed(x.long())))


def test_a_decoder_tied_to_its_embedding_counts_once(tmp_path):
    """16 x 8 floats once, 64 signs, 8 scales and 8 biases: 512 + 8 + 32 + 32 bytes."""
    net = Tied()
    assert check(net, "bwn", tmp_path / "net").payload_bytes == 584
    assert (
        cost(Tied(), binarize_(tied := Tied(), "bwn"), (3,)).weights
        == 128 + 64
        == sum(p.numel() for p in tied.parameters()) - 8
    )


def test_a_bias_that_two_layers_share_counts_once(tmp_path):
    """Two weights of 64 signs, one bias: 2 x 8 + 32 bytes; after packing it is still one parameter."""
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    net[1].bias = net[0].bias
    assert check(net, "sign", tmp_path / "net").payload_bytes == 48
    assert net[0].bias is net[1].bias
    assert not net[0].bias.requires_grad


def test_counters_of_a_norm_used_twice_are_not_stored(tmp_path):
    """8 signs in each of 8 rows, a bias and four vectors of 8: 8 + 5 x 32 bytes."""
    norm = nn.BatchNorm1d(8)
    assert (
        check(
            nn.Sequential(nn.Linear(8, 8), norm, norm).eval(), "sign", tmp_path / "net"
        ).payload_bytes
        == 168
    )


def test_parameters_over_one_memory_are_one(tmp_path):
    """Two objects for the same values are converted, counted and stored once; another layout of them is another weight."""
    net = nn.Sequential(
        nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
    )
    net[1].weight = nn.Parameter(net[0].weight.data)
    net[2].weight = nn.Parameter(net[0].weight.data.t())
    plan = binarize_(net, "sign")
    assert [row.name for row in plan.rows] == ["0.weight = 1.weight", "2.weight"]
    predicted = cost(net, plan, (8,))
    convert.pack_(net)
    convert.save(net, tmp_path / "net")
    assert packed_file.read(tmp_path / "net").payload_bytes == predicted.stored_bytes == 16


class Unused(nn.Module):
    """x -> x."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x


def test_a_foreign_parametrization_is_counted_as_it_is_stored(tmp_path):
    """Magnitudes (8, 1) and directions (8, 8) of a normalised embedding: 288 bytes beside 64 signs and a bias of 8 floats."""
    net = nn.Sequential(
        nn.Linear(8, 8), Unused(nn.utils.parametrizations.weight_norm(nn.Embedding(8, 8)))
    )
    plan = binarize_(net, "sign")
    predicted = cost(net, plan, (8,))
    convert.pack_(net)
    convert.save(net, tmp_path / "net")
    assert (
        packed_file.read(tmp_path / "net").payload_bytes == predicted.stored_bytes == 8 + 32 + 288
    )


def test_a_layer_with_a_parametrization_of_another_kind_is_not_packed():
    """In one line, before anything is replaced."""
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    nn.utils.parametrize.register_parametrization(net[1], "bias", nn.Softplus())
    binarize_(net, "sign")
    with pytest.raises(ValueError, match=r"1\.bias is parametrized by something else"):
        convert.pack_(net)
    assert isinstance(net[0], nn.Linear), "nothing was replaced"


@pytest.mark.parametrize("copies", ["hadamard", "shifted", "columns"])
@pytest.mark.parametrize("grouped_first", [False, True])
def test_a_layout_must_fit_every_layer_that_shares_a_weight(copies, grouped_first):
    """A grouped convolution takes none of these layouts, so neither does what shares its weight; packed, both compute the same."""
    torch.manual_seed(0)
    whole, grouped = nn.Conv2d(8, 8, 3), nn.Conv2d(16, 8, 3, groups=2)
    grouped.weight = whole.weight
    net = nn.ModuleList([grouped, whole] if grouped_first else [whole, grouped])
    (row,) = binarize_(net, f"tbn(p=2, min_layer_size=0, copies={copies!r})").rows
    assert row.copies == "aligned"
    x, y = torch.randn(2, 8, 5, 5), torch.randn(2, 16, 5, 5)
    with torch.no_grad():
        expected = [whole(x), grouped(y)]
        convert.pack_(net)
        whole, grouped = list(net)[::-1] if grouped_first else net
        for got, wanted in zip([whole(x), grouped(y)], expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_multiply_adds_of_a_shared_shifted_weight_are_those_of_each_user():
    """One at stride 2, one at stride 1: each computes its tile at as many positions as alone."""
    spec, shape = "tbn(p=2, min_layer_size=0, copies='shifted')", (8, 9, 9)

    def net():
        return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1))

    apart, shared_net = net(), net()
    shared_net[1].weight = shared_net[0].weight
    alone = cost(apart, binarize_(apart, spec), shape).summary()["distinct_macs"]
    (layer,) = cost(shared_net, binarize_(shared_net, spec), shape).layers
    assert abs(layer.distinct_macs - alone) <= 1
    assert layer.macs == 8 * 8 * 9 * (81 + 25)


def test_a_kept_half_precision_weight_counts_half_the_bits(tmp_path):
    """64 values of 16 bits and a bias of 8."""
    content = check(nn.Sequential(nn.Linear(8, 8)).half(), "full_precision", tmp_path / "net")
    assert content.payload_bytes == 128 + 16
