"""Contract over the catalogue: every model x every binarizer."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from tbn_bench import catalog
from tbn_bench.config import make
from tbn_bench.convert.binarize import binarize_
from tbn_bench.convert.cost import cost
from tbn_bench.experiment import build
from tbn_bench.models import swin

MODELS = {
    "mlp": "mlp(hidden=[16])",
    "resnet_cifar": "resnet_cifar(depth=8, width=4)",
    "resnet": "resnet(width=4)",
    "vgg_small": "vgg_small(width=4)",
    "micro_cnn": "micro_cnn(channels=[4, 8])",
    "vit": "vit(dim=16, depth=1, heads=2, head_dim=8, mlp_dim=16, dropout=0.0)",
    "swin": "swin(hidden=8, layers=[2, 2], heads=[1, 2], head_dim=8, downscale=[2, 2])",
    "mlp_mixer": "mlp_mixer(dim=16, depth=1, token_dim=8, channel_dim=8)",
    "conv_mixer": "conv_mixer(dim=8, depth=1, kernel=4, patch=2)",
    "from_timm": "from_timm(name='resnet10t')",
    "airbench": "airbench(widths=[8, 8, 8])",
    "pointnet_cls": "pointnet_cls(dropout=0.0)",
    "pointnet_part_seg": "pointnet_part_seg(coordinates=4)",
    "pointnet_sem_seg": "pointnet_sem_seg(coordinates=4)",
    "ts_transformer": "ts_transformer(dim=8, mlp_dim=16, dropout=0.0, targets=4)",
    "gpt": "gpt(dim=16, depth=1, heads=2)",
}
BINARIZERS = [
    "full_precision",
    "sign",
    "bwn",
    "tbn(p=2, min_layer_size=0)",
    "tbn(tile_length=64, min_layer_size=100, gradient='tile')",
    "binary_connect",
    "bwn(grad='paper')",
    "dorefa",
    "irnet",
    "repeated_filters(p=2, min_layer_size=0)",
    "frozen_tile(p=2, min_layer_size=0)",
    "tbn(p=2, min_layer_size=0, copies='shifted')",
    "tbn(p=2, min_layer_size=0, copies='hadamard', gradient='tile')",
    "tbn(p=2, min_layer_size=0, copies='columns', gradient='tile')",
    "xnor",
    "bireal",
    "reactnet",
    "adabin",
    "snn(tau=4)",
    "sparks(tau=4, noise=0.0)",
    "twn",
    "bitnet158",
    "irnet(activations=True)",
    "dorefa(activations=True)",
    "low_rank(rank=2, min_layer_size=0)",
    "tbn_budget(bits=1.5, alpha='layer')",
]
# four coordinates: the transform of three has nine rows, which p = 2 does not divide
SHAPES = {
    "pointnet_cls": (4, 32),
    "pointnet_part_seg": (8, 32),
    "pointnet_sem_seg": (6, 32),
    "ts_transformer": (11, 4),
    "gpt": (12,),
}
TOKENS = ("gpt",)  # models whose inputs are whole numbers below num_classes
IMAGE = (3, 32, 32)


def test_every_entry_is_covered():
    """A new model or binarizer enters these tests, or this fails."""
    assert set(MODELS) == set(catalog.names("models"))
    assert {catalog.parse(b)[0] for b in BINARIZERS} == set(catalog.names("binarizers"))


def _samples(name, n):
    shape = SHAPES.get(name, IMAGE)
    if name in TOKENS:
        return torch.randint(10, (n, *shape)).float()
    return torch.randn(n, *shape)


def _model(name, binarizer):
    torch.manual_seed(0)
    model = catalog.build("models", MODELS[name], num_classes=10, in_shape=SHAPES.get(name, IMAGE))
    return model, binarize_(model, binarizer)


@pytest.mark.parametrize("binarizer", BINARIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_contract(name, binarizer):
    """Finite output, a gradient for every parameter that learns, weights as stored, and eval under
    no_grad equals train mode.
    """
    model, plan = _model(name, binarizer)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = (
                None  # cumulative average: after one batch eval uses nearly that batch's statistics
            )
            module.eval()
    x = _samples(name, 4)
    out = model(x)
    out.square().mean().backward()
    assert out.isfinite().all()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model(x), out, rtol=1e-4, atol=1e-4)
    assert any(r.binarized for r in plan.rows) == (binarizer != "full_precision")


@pytest.mark.parametrize("binarizer", BINARIZERS[1:])
@pytest.mark.parametrize("name", MODELS)
def test_weight_is_its_stored_form(name, binarizer):
    """Every binarized weight is, bit for bit, what its stored tensors decode to, and they are as
    large as was counted.
    """
    model, plan = _model(name, binarizer)
    modules = dict(model.named_modules())
    for row in plan.rows:
        if not row.binarized:
            assert "tied" in row.reason  # to an embedding
            continue
        module = modules[row.name.rpartition(".")[0]]
        chain = module.parametrizations.weight
        form, stored = chain[0].form(chain.original), chain[0].stored(chain.original)
        assert form.nbytes == sum(v.nbytes for v in stored.values())
        assert sum(form.sizes.values()) == row.stored_bits
        assert np.array_equal(form.dense(stored), module.weight.detach().numpy())


def _cost(model, binarizer, shape=IMAGE, num_classes=10):
    with torch.device("meta"):
        net = catalog.build("models", model, num_classes=num_classes, in_shape=shape)
        return cost(net, binarize_(net, binarizer), shape).summary()


def test_resnet18_sizes_of_the_paper():
    """The sizes of arXiv 2407.12075, table of ResNet-18: 11,164,352 weights.

    The p=4 list stores 2.885 Mbit of tiles, 0.258 bits per weight; 0.547 GMAC in 3x3 convs.
    """
    listed = "tbn(per_layer=[1,1,1,1, 4,4,4,1, 4,4,4,4, 4,4,4,4, 4,4,4,4, 1])"
    total = _cost("resnet_cifar(depth=18, classifier='conv1x1')", listed)
    assert total["weights"] == 11_164_352
    assert round(total["tile_bits"] / 1e6, 3) == 2.885
    assert round(total["tile_bits"] / total["weights"], 3) == 0.258


@pytest.mark.parametrize(
    ("model", "p", "weights", "mbit"),
    [
        ("resnet_cifar(depth=18, classifier='conv1x1')", 4, 11_164_352, 2.938),
        ("resnet_cifar(depth=18, classifier='conv1x1')", 16, 11_164_352, 0.881),
        ("resnet_cifar(depth=50, classifier='conv1x1')", 4, 23_467_712, 6.068),
        ("resnet_cifar(depth=50, classifier='conv1x1')", 8, 23_467_712, 3.168),
        ("resnet_cifar(depth=50, classifier='conv1x1')", 16, 23_467_712, 1.718),
        ("vit", 4, 9_466_880, 2.389),
        ("vit", 8, 9_466_880, 1.209),
        ("vit", 16, 9_466_880, 0.620),
        ("swin", 4, 26_550_912, 6.866),
        ("swin", 8, 26_550_912, 3.585),
        ("swin", 16, 26_550_912, 1.944),
        ("mlp_mixer", 4, 1_799_168, 0.620),
        ("mlp_mixer", 8, 1_799_168, 0.423),
        ("mlp_mixer", 16, 1_799_168, 0.325),
        ("conv_mixer", 4, 1_314_048, 0.528),
        ("conv_mixer", 8, 1_314_048, 0.397),
        ("conv_mixer", 16, 1_314_048, 0.331),
    ],
)
def test_sizes_with_min_layer_size_64000(model, p, weights, mbit):
    """Weights and tile bits derived from the architectures of arXiv 2407.12075, rule lambda =
    64,000.
    """
    total = _cost(model, f"tbn(p={p})")
    assert total["weights"] == weights
    assert round(total["tile_bits"] / 1e6, 3) == mbit


@pytest.mark.parametrize(
    ("p", "min_layer_size", "mbit"),
    [(2, 64_000, 1.746), (4, 64_000, 0.894), (8, 64_000, 0.468), (4, 138_000, 1.483)],
)
def test_sizes_of_pointnet(p, min_layer_size, mbit):
    """3,449,472 weights in Conv1d and Linear layers, T-nets included, and the tile bits that the
    authors' rules give them.
    """
    total = _cost("pointnet_cls", f"tbn(p={p}, min_layer_size={min_layer_size})", (3, 1024), 40)
    assert total["weights"] == 3_449_472
    assert round(total["tile_bits"] / 1e6, 3) == mbit


@pytest.mark.parametrize(("p", "mbit"), [(4, 1.339), (8, 0.786), (16, 0.509)])
def test_sizes_of_vgg_small(p, mbit):
    """4,656,512 weights, and the tile bits of the authors' list: the first two convolutions and the
    classifier are not tiled.
    """
    total = _cost("vgg_small", f"tbn(per_layer=[1, 1, {p}, {p}, {p}, {p}, 1])")
    assert total["weights"] == 4_656_512
    assert round(total["tile_bits"] / 1e6, 3) == mbit


@pytest.mark.parametrize(("p", "mbit"), [(2, 11.644), (4, 6.576)])
def test_sizes_of_resnet34_on_imagenet(p, mbit):
    """The authors' form, a 1x1 convolution at the end, with lambda = 150,000: 21,779,648
    weights.
    """
    total = _cost(
        "resnet(depth=34, classifier='conv1x1')",
        f"tbn(p={p}, min_layer_size=150_000)",
        (3, 224, 224),
        1000,
    )
    assert total["weights"] == 21_779_648
    assert round(total["tile_bits"] / 1e6, 3) == mbit


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("swin(window=7, downscale=[4, 2, 2, 2])", "swin_tiny_patch4_window7_224"),
        ("resnet(depth=34)", "resnet34"),
        ("resnet(depth=50)", "resnet50"),
    ],
)
def test_imagenet_forms_are_as_large_as_those_of_timm(ours, theirs):
    """The same weights and multiply-adds, counted by the same code on 3 x 224 x 224."""
    totals = [
        _cost(call, "sign", (3, 224, 224), 1000) for call in (ours, f"from_timm(name={theirs!r})")
    ]
    assert len({(total["weights"], total["macs"]) for total in totals}) == 1


@pytest.mark.parametrize("name", ["resnet", "vgg_small", "swin", "mlp_mixer", "conv_mixer"])
def test_models_learn(name):
    """Thirty steps of Adam on 64 random images lower the loss."""
    torch.manual_seed(0)
    model = catalog.build("models", MODELS[name], num_classes=10, in_shape=IMAGE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, y, losses = torch.randn(64, *IMAGE), torch.arange(64) % 10, []
    for _ in range(30):
        losses.append(nn.functional.cross_entropy(model(x), y))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", ["resnet", "vgg_small", "vit", "swin", "mlp_mixer", "conv_mixer"])
def test_models_can_be_traced(name):
    """torch.fx follows them: no step depends on values."""
    torch.manual_seed(0)
    model = catalog.build("models", MODELS[name], num_classes=10, in_shape=IMAGE).eval()
    x = torch.randn(2, *IMAGE)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


@pytest.mark.parametrize(
    ("place", "seen"),
    [
        ((0, 0), (slice(2), slice(2))),
        ((3, 1), (slice(2, 6), slice(2))),
        ((7, 4), (slice(6, 8), slice(2, 6))),
    ],
)
def test_shifted_windows_of_swin(place, seen):
    """On 8 x 8 with windows of 4 shifted by 2, the windows' edges are at 2 and 6, and none reaches
    around the border.
    """
    block = swin.WindowAttention(8, 2, 4, (8, 8), window=4, shifted=True)
    x = torch.randn(1, 8, 8, 8, requires_grad=True)
    block(x)[0, place[0], place[1]].sum().backward()
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[seen] = True
    assert torch.equal(x.grad[0].abs().sum(2) > 0, expected)


def test_position_bias_of_swin_by_hand():
    """In a 2 x 2 window the nine places of the table are row distance and column distance, each
    from -1 to 1, row by row.
    """
    expected = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    assert swin._offsets((2, 2)).tolist() == expected


def test_a_window_as_large_as_the_map_is_not_shifted():
    """The third and fourth stage of the CIFAR form have maps of 4 x 4.

    Along a longer axis windows still shift.
    """
    assert swin.WindowAttention(8, 1, 8, (4, 4), window=4, shifted=True).shift == (0, 0)
    block = swin.WindowAttention(8, 1, 8, (2, 8), window=4, shifted=True)
    assert (block.window, block.shift) == ((2, 4), (0, 2))
    assert block(torch.randn(3, 2, 8, 8)).shape == (3, 2, 8, 8)


def test_cost_by_hand():
    """An MLP 4-8-2 with biases at p=2: 32 + 16 weights, 16 + 8 tile bits, 2 + 2 scales, 10 biases,
    half the MACs distinct.
    """
    total = _cost("mlp(hidden=[8])", "tbn(p=2, min_layer_size=0)", (1, 2, 2))
    assert total["weights"] == 32 + 80
    assert total["tile_bits"] == 16 + 40
    assert total["alpha_bits"] == 4 * 32
    assert total["bias_bits"] == 18 * 32
    assert total["stored_bytes"] == 2 + 5 + 4 * 4 + 18 * 4
    assert (total["macs"], total["distinct_macs"]) == (112, 56)


def test_products_of_activations_are_counted_apart_from_weights():
    """Two heads of 8 over 65 tokens: both products of attention; the copies do not change them."""
    vit = MODELS["vit"]
    plain = _cost(vit, "full_precision", (3, 32, 32))
    tiled = _cost(vit, "tbn(p=2, min_layer_size=0, copies='hadamard')", (3, 32, 32))
    assert plain["activation_macs"] == tiled["activation_macs"] == 2 * 65 * 65 * 16
    assert plain["macs"] == tiled["macs"]
    assert _cost("mlp(hidden=[8])", "tbn(p=2, min_layer_size=0)", (4,))["activation_macs"] == 0


@pytest.mark.parametrize("need_weights", [True, False])
def test_torchs_own_attention_counts_its_products_of_activations(need_weights):
    """nn.MultiheadAttention, 5 tokens of 8, binarized: 2 x 5 x 5 x 8, its projections apart."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=need_weights)[0]

    net = Net()
    total = cost(net, binarize_(net, "tbn(p=2, min_layer_size=0)"), (5, 8)).summary()
    assert (total["activation_macs"], total["macs"]) == (2 * 5 * 5 * 8, 4 * 5 * 8 * 8)


def test_bad_models_are_refused_by_name():
    """A depth that does not exist and a timm name that does not exist are one-line errors."""
    with pytest.raises(ValueError, match="6n"):
        catalog.build("models", "resnet_cifar(depth=19)")
    with pytest.raises(ValueError, match="did you mean"):
        catalog.build("models", "from_timm(name='resnet81')")


class Opened:
    """Unpickled, it leaves a file behind."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return open, (str(self.witness), "w")


@pytest.mark.parametrize(
    "key",
    ["checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"],
)
def test_a_model_call_loads_no_file(tmp_path, key):
    """A pickle that would run code is not opened, neither to build nor to plan.

    The error names the argument.
    """
    (tmp_path / "weights.pth").write_bytes(pickle.dumps(Opened(tmp_path / "ran")))
    call = f"from_timm(name='resnet18', kwargs={{'{key}': {str(tmp_path / 'weights.pth')!r}}})"
    with pytest.raises(ValueError, match=f"must not name {key}: a model call loads no files"):
        catalog.build("models", call)
    with pytest.raises(ValueError, match=f"must not name {key}"):
        build.sketch(make({"model": call}))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["local-dir:/tmp/x", "hf-hub:timm/resnet18.a1_in1k"])
def test_a_model_of_timm_is_named_in_its_list(name):
    with pytest.raises(ValueError, match="timm has no model"):
        catalog.build("models", f"from_timm(name={name!r})")


def test_the_name_of_a_model_of_timm_is_text():
    with pytest.raises(ValueError, match="from_timm: option name must be str, got 5"):
        catalog.build("models", "from_timm(name=5)")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("resnet(depth=20)", "depth must be 18, 34 or 50, got 20"),
        ("resnet(classifier='conv')", "classifier must be one of 'linear', 'conv1x1', got 'conv'"),
        ("vgg_small(activation='tanh')", "activation must be one of 'relu'"),
        ("mlp_mixer(patch=5)", "patch must divide the image, got patch=5 for 32 x 32"),
        ("conv_mixer(patch=3)", "patch must divide the image, got patch=3 for 32 x 32"),
        ("swin(window=5)", "window must divide the map of stage 1 or cover it, got 5 for 16 x 16"),
        (
            "swin(downscale=[2, 2, 2, 3])",
            "downscale must divide the map of stage 4, got 3 for 4 x 4",
        ),
        ("swin(layers=[2])", "one value per stage, got 1, 4, 4"),
    ],
)
def test_forms_that_do_not_fit_are_refused(call, said):
    with pytest.raises(ValueError, match=said):
        catalog.build("models", call, in_shape=IMAGE)


def test_vgg_small_needs_8_pixels():
    with pytest.raises(ValueError, match="8 x 8 pixels or more, got 4 x 32"):
        catalog.build("models", "vgg_small", in_shape=(3, 4, 32))
