"""Contract over the catalogue: every model x every binarizer."""

import numpy as np
import pytest
import torch
from torch import nn

from tbn_bench import catalog
from tbn_bench.convert import binarize_
from tbn_bench.cost import cost

MODELS = {
    "mlp": "mlp(hidden=[16])",
    "resnet_cifar": "resnet_cifar(depth=8, width=4)",
    "vit": "vit(dim=16, depth=1, heads=2, head_dim=8, mlp_dim=16, dropout=0.0)",
    "from_timm": "from_timm(name='resnet10t')",
    "pointnet_cls": "pointnet_cls(dropout=0.0)",
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
]
SHAPES = {"pointnet_cls": (4, 32)}  # four coordinates: the transform of three has nine rows, which p = 2 does not divide
IMAGE = (3, 32, 32)


def test_every_entry_is_covered():
    """A new model or binarizer enters these tests, or this fails."""
    assert set(MODELS) == set(catalog.names("models"))
    assert {catalog.parse(b)[0] for b in BINARIZERS} == set(catalog.names("binarizers"))


def _model(name, binarizer):
    torch.manual_seed(0)
    model = catalog.build("models", MODELS[name], num_classes=10, in_shape=SHAPES.get(name, IMAGE))
    return model, binarize_(model, binarizer)


@pytest.mark.parametrize("binarizer", BINARIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_contract(name, binarizer):
    """Finite output, a gradient for every parameter, weights as stored, and eval under no_grad equals train mode."""
    model, plan = _model(name, binarizer)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # cumulative average: after one batch eval uses nearly that batch's statistics
            module.eval()
    x = torch.randn(4, *SHAPES.get(name, IMAGE))
    out = model(x)
    out.square().mean().backward()
    assert out.isfinite().all()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model(x), out, rtol=1e-4, atol=1e-4)
    assert any(r.binarized for r in plan.rows) == (binarizer != "full_precision")


@pytest.mark.parametrize("binarizer", BINARIZERS[1:])
@pytest.mark.parametrize("name", MODELS)
def test_weight_is_its_stored_form(name, binarizer):
    """Every binarized weight is, bit for bit, what its stored tensors decode to, and they are as large as was counted."""
    model, plan = _model(name, binarizer)
    modules = dict(model.named_modules())
    for row in plan.rows:
        module = modules[row.name.rpartition(".")[0]]
        chain = module.parametrizations.weight
        form, stored = chain[0].form(chain.original), chain[0].stored(chain.original)
        assert form.nbytes == sum(v.nbytes for v in stored.values())
        assert sum(form.sizes.values()) == row.stored_bits
        assert np.array_equal(form.dense(stored), module.weight.detach().numpy())


def _cost(model, binarizer, shape=IMAGE, num_classes=10):
    net = catalog.build("models", model, num_classes=num_classes, in_shape=shape)
    return cost(net, binarize_(net, binarizer), shape).summary()


def test_resnet18_sizes_of_the_paper():
    """The sizes of arXiv 2407.12075, table of ResNet-18: 11,164,352 weights; the p=4 list stores 2.885 Mbit of tiles, 0.258 bits per weight; 0.547 GMAC in 3x3 convs."""
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
        ("resnet_cifar(depth=50, classifier='conv1x1')", 8, 23_467_712, 3.168),
        ("vit", 4, 9_466_880, 2.389),
    ],
)
def test_sizes_with_min_layer_size_64000(model, p, weights, mbit):
    """Weights and tile bits derived from the architectures of arXiv 2407.12075, rule lambda = 64,000."""
    total = _cost(model, f"tbn(p={p})")
    assert total["weights"] == weights
    assert round(total["tile_bits"] / 1e6, 3) == mbit


@pytest.mark.parametrize(
    ("p", "min_layer_size", "mbit"), [(2, 64_000, 1.746), (4, 64_000, 0.894), (8, 64_000, 0.468), (4, 138_000, 1.483)]
)
def test_sizes_of_pointnet(p, min_layer_size, mbit):
    """3,449,472 weights in Conv1d and Linear layers, T-nets included, and the tile bits that the authors' rules give them."""
    total = _cost("pointnet_cls", f"tbn(p={p}, min_layer_size={min_layer_size})", (3, 1024), 40)
    assert total["weights"] == 3_449_472
    assert round(total["tile_bits"] / 1e6, 3) == mbit


def test_cost_by_hand():
    """An MLP 4-8-2 with biases at p=2: 32 + 16 weights, 16 + 8 tile bits, 2 + 2 scales, 10 biases, half the MACs distinct."""
    total = _cost("mlp(hidden=[8])", "tbn(p=2, min_layer_size=0)", (1, 2, 2))
    assert total["weights"] == 32 + 80
    assert total["tile_bits"] == 16 + 40
    assert total["alpha_bits"] == 4 * 32
    assert total["bias_bits"] == 18 * 32
    assert total["stored_bytes"] == 2 + 5 + 4 * 4 + 18 * 4
    assert (total["macs"], total["distinct_macs"]) == (112, 56)


def test_bad_models_are_refused_by_name():
    """A depth that does not exist and a timm name that does not exist are one-line errors."""
    with pytest.raises(ValueError, match="6n"):
        catalog.build("models", "resnet_cifar(depth=19)")
    with pytest.raises(ValueError, match="did you mean"):
        catalog.build("models", "from_timm(name='resnet81')")
