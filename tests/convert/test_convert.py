import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from tbn_bench.convert.binarize import binarize_
from tbn_bench.convert.cost import cost
from tbn_bench.records.summary import COSTS


def test_plan_by_hand():
    """64 x 32 at p=4: q = 512 bits and 4 scales; the small layer below min_layer_size is binary with p = 1."""
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    plan = binarize_(model, "tbn(p=4, min_layer_size=1000)")
    first, last = plan.rows
    assert (first.p, first.q, first.stored_bits, first.reuse) == (4, 512, 512 + 4 * 32, True)
    assert (last.p, last.q, last.stored_bits) == (1, 640, 640 + 32)
    assert "below min_layer_size" in last.reason
    assert "64x32" in str(plan)


def test_weight_is_binary_and_original_is_latent():
    """layer.weight takes two magnitudes at most p values; the latent weight is untouched."""
    layer = nn.Linear(8, 4)
    latent = layer.weight.detach().clone()
    binarize_(layer, "tbn(p=2, min_layer_size=0)")
    assert torch.equal(layer.parametrizations.weight.original, latent)
    assert layer.weight.abs().unique().numel() == 2


def test_every_layer_that_cannot_take_p_is_named():
    """Nothing is converted, and the error names each layer and the p that would do."""
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7))
    with pytest.raises(
        ValueError, match=r"(?s)15 weights \(layer 0.weight\).*35 weights \(layer 1.weight\)"
    ):
        binarize_(model, "tbn(p=4, min_layer_size=0)")
    assert type(model[0]) is nn.Linear


def test_attention_projections():
    """in_proj_weight and out_proj of nn.MultiheadAttention are binarized."""
    names = [r.name for r in binarize_(nn.MultiheadAttention(8, 2), "bwn").rows]
    assert names == ["in_proj_weight", "out_proj.weight"]


@pytest.mark.parametrize(
    "spec", ["sign", "bwn", "tbn(p=4, min_layer_size=0)", "tbn(tile_length=50, min_layer_size=0)"]
)
def test_fused_transformer_path_reads_the_binary_weight(spec):
    """nn.TransformerEncoder in eval under no_grad (torch's fused path) equals train mode without dropout."""
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2
    )
    full = copy.deepcopy(encoder)
    binarize_(encoder, spec)
    x = torch.randn(3, 5, 8)
    trained = encoder(x)
    encoder.eval()
    with torch.no_grad():
        assert torch.allclose(encoder(x), trained, atol=1e-5)
    assert not torch.allclose(full(x), trained, atol=1e-2)


def test_shared_module_and_tied_weights_are_converted_once():
    """One row for a weight with two users; both users compute with the same binary weight."""
    model = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)})
    model["b"].weight = model["a"].weight
    plan = binarize_(model, "tbn(p=2, min_layer_size=0)")
    assert [r.names for r in plan.rows] == [("a.weight", "b.weight")]
    assert plan.rows[0].name == plan.rows[0].record()["name"] == "a.weight = b.weight"
    assert torch.equal(model["a"].weight, model["b"].weight)
    assert sum(p.numel() for p in model.parameters()) == 64 + 64 + 16  # W, A, two biases


def test_weight_tied_to_an_embedding_is_kept():
    """An embedding is not binarized, so neither is the decoder that shares its weight."""
    model = nn.ModuleDict({"embed": nn.Embedding(10, 4), "decode": nn.Linear(4, 10, bias=False)})
    model["decode"].weight = model["embed"].weight
    row = binarize_(model, "bwn").rows[0]
    assert not row.binarized
    assert "tied" in row.reason


def test_keep_by_name_pattern():
    """A kept weight stays full precision; a pattern that matches nothing is an error."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(ValueError, match="matches no weight"):
        binarize_(model, "sign", keep=["head*"])
    assert [r.binarized for r in binarize_(model, "sign", keep=["1"]).rows] == [True, False]


def test_per_layer_lists_and_tile_length():
    """per_layer takes one p per weight; tile_length takes the nearest that divides."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 6))
    with pytest.raises(ValueError, match="must list 2 values"):
        binarize_(model, "tbn(per_layer=[1])")
    assert [r.p for r in binarize_(copy.deepcopy(model), "tbn(per_layer=[1, 3])").rows] == [1, 3]
    assert [r.q for r in binarize_(model, "tbn(tile_length=7, min_layer_size=0)").rows] == [8, 8]


@pytest.mark.parametrize(
    "spec", ["tbn()", "tbn(p=0)", "tbn(p=-2)", "tbn(p=2, tile_length=8)", "tbn(p=2, alpha='row')"]
)
def test_bad_options(spec):
    """Each is refused with what was expected and what was got."""
    with pytest.raises(ValueError, match="got"):
        binarize_(nn.Linear(4, 4), spec)


def test_twice_or_without_weights_is_an_error():
    """A converted model and a model without weights are refused."""
    layer = nn.Linear(4, 4)
    binarize_(layer, "sign")
    with pytest.raises(ValueError, match="already parametrized"):
        binarize_(layer, "sign")
    with pytest.raises(ValueError, match="has no Linear"):
        binarize_(nn.ReLU(), "sign")


@pytest.mark.parametrize(
    "spec", ["tbn(p=2, min_layer_size=0, alpha='layer')", "repeated_filters(p=2, min_layer_size=0)"]
)
def test_classifier_with_one_alpha_is_warned_about(spec):
    """Tiled with one alpha, outputs c and c + 5 share a row, so but for the bias two classes have the same logits: the plan says so."""
    layer = nn.Linear(4, 10, bias=False)
    plan = binarize_(layer, spec)
    assert "c + 5" in plan.warnings[0]
    logits = layer(torch.randn(3, 4))
    assert torch.equal(logits[:, :5], logits[:, 5:])


@pytest.mark.parametrize(
    "spec",
    [
        "tbn(p=2, min_layer_size=0)",
        "tbn(p=2, alpha='layer')",
        "tbn(p=2, alpha='layer', min_layer_size=0, copies='rotated')",
        "tbn(p=2, alpha='layer', min_layer_size=0, copies='columns')",
    ],
)
def test_classifiers_that_tell_classes_apart_are_quiet(spec):
    """One alpha per tile, p = 1 below min_layer_size, copies that are not aligned: no two classes share a row."""
    layer = nn.Linear(16, 10, bias=False)
    warnings = binarize_(layer, spec).warnings
    assert not any("cannot be told apart" in warning for warning in warnings)
    assert len(layer.weight.detach().unique(dim=0)) > 5


def blocks(norm=nn.BatchNorm2d):
    return nn.Sequential(
        nn.Conv2d(4, 8, 3),
        norm(8),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        norm(8),
        nn.Flatten(),
        nn.Linear(32, 7),
    )


@pytest.mark.parametrize(
    "spec",
    [
        "tbn(p=2, min_layer_size=0)",
        "tbn(p=4, min_layer_size=0, alpha='layer')",
        "frozen_tile(p=2, min_layer_size=0)",
    ],
)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, lambda c: nn.InstanceNorm2d(c, affine=True)])
def test_aligned_copies_before_a_normalisation_are_warned_about(spec, norm):
    """It cancels the alphas, so that the copies are the same features: one warning names the layers and the layouts that help."""
    warnings = [
        w for w in binarize_(blocks(norm), spec, ["6"]).warnings if "cancels their alphas" in w
    ]
    assert len(warnings) == 1
    assert warnings[0].startswith("0.weight, 2.weight: a normalisation")
    assert "copies='shifted', 'hadamard' or 'columns'" in warnings[0]


@pytest.mark.parametrize(
    ("model", "spec"),
    [
        (blocks(), "tbn(p=2, min_layer_size=0, copies='shifted')"),
        (blocks(), "tbn(p=2, min_layer_size=0, copies='rotated')"),
        (blocks(), "tbn(p=2, min_layer_size=0, copies='columns')"),
        (blocks(), "tbn(p=1, min_layer_size=0)"),
        (blocks(), "tbn(p=2, min_layer_size=10_000)"),
        (blocks(), "bwn"),
        (nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)), "tbn(p=4, min_layer_size=0)"),  # copies begin inside a filter
        (nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)), "tbn(p=2, min_layer_size=0)"),  # one scale for all channels
        (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 8)), "tbn(p=2, min_layer_size=0)"),
        (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8)), "tbn(per_layer=[2, 1])"),
    ],
)  # fmt: skip
def test_where_scales_are_not_cancelled_the_plan_is_quiet(model, spec):
    assert not [w for w in binarize_(model, spec).warnings if "cancels" in w]


def _state(model):
    """What conversion may change: classes, attributes, parameters and whether they learn."""
    parts = [
        (type(m), {k: v for k, v in vars(m).items() if not k.startswith("_")}, list(m._modules))
        for m in model.modules()
    ]
    return parts, [(name, id(p), p.requires_grad) for name, p in model.named_parameters()]


COMPUTED = {
    "weight_norm": nn.utils.weight_norm, "spectral_norm": nn.utils.spectral_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("way", COMPUTED)
def test_a_computed_weight_is_refused_before_anything_changes(way):
    """weight_norm and its like compute a weight from other parameters; the layers before stay what they were."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), COMPUTED[way](nn.Linear(4, 4)))
    before = _state(model)
    for spec in ("sign", "xnor"):
        with pytest.raises(ValueError, match=r"2\.weight of a Linear is computed"):
            binarize_(model, spec)
        assert _state(model) == before


@pytest.mark.parametrize(
    "spec", ["tbn(p=2, min_layer_size=0)", "reactnet", "low_rank(rank=1, min_layer_size=0)"]
)
def test_nothing_is_converted_where_something_fails(spec, monkeypatch):
    """An error at the second layer puts the first back: class, parameters, hooks and outputs."""
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(2, 4)
    before, expected, real = _state(model), model(x), parametrize.register_parametrization

    def fails(module, *args, **options):
        if module is model[1]:
            raise RuntimeError("no")
        return real(module, *args, **options)

    monkeypatch.setattr(parametrize, "register_parametrization", fails)
    with pytest.raises(RuntimeError, match="no"):
        binarize_(model, spec)
    assert _state(model) == before
    assert torch.equal(model(x), expected)
    monkeypatch.undo()
    assert binarize_(model, spec).rows[0].binarized


@pytest.mark.parametrize(
    "spec",
    [
        "tbn(p=2, min_layer_size=0)",
        "low_rank(rank=1, min_layer_size=0)",
        "reactnet",
        "adabin",
        "frozen_tile(p=2, min_layer_size=0)",
    ],
)
def test_what_is_added_to_a_frozen_model_is_frozen(spec):
    """A, factors, thresholds: nothing learns in a frozen model; in a partly frozen one its own layers learn alone."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).requires_grad_(False)
    model[1].requires_grad_(True)
    binarize_(model, spec)
    assert not any(p.requires_grad for p in model[0].parameters())
    assert sum(p.requires_grad for p in model[1].parameters()) > 1
    whole = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).requires_grad_(False)
    binarize_(whole, spec)
    assert not any(p.requires_grad for p in whole.parameters())


def test_what_is_added_is_in_the_mode_of_its_layer():
    """Signs drawn at random in training are constant in a model that was converted in eval mode."""
    model, x = nn.Sequential(nn.Linear(16, 16)).eval(), torch.randn(2, 16)
    binarize_(model, "binary_connect(stochastic=True)")
    assert torch.equal(model(x), model(x))
    assert not any(m.training for m in model.modules())


def test_a_shared_layer_before_a_norm_is_warned_about():
    """Two convolutions share one weight, and a normalisation follows both: the copies are equal."""
    layers = [nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)]
    layers[2].weight = layers[0].weight
    plan = binarize_(nn.Sequential(*layers), "tbn(p=2, min_layer_size=0)")
    assert plan.warnings[0].startswith("0.weight = 2.weight: a normalisation of each channel")


@pytest.mark.parametrize(
    "spec", ["tbn(p=4)", "tbn(p=3)", "frozen_tile(p=4)", "low_rank(bits=0.25)"]
)
def test_a_sub_bit_method_that_leaves_a_binary_network_is_warned_about(spec):
    """The largest weight has 2,048 values, less than the smallest that is tiled."""
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    (warning,) = binarize_(model, spec).warnings
    assert "the largest has 2,048 values), so this is a binary network" in warning


@pytest.mark.parametrize("spec", ["tbn(p=4, min_layer_size=1000)", "bwn", "tbn(p=1)"])
def test_a_network_with_one_tiled_layer_or_a_binary_method_is_no_surprise(spec):
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    warnings = binarize_(model, spec).warnings
    assert not any("binary network" in warning for warning in warnings)


def test_a_summary_names_every_cost():
    """The fields that records/summary.py states are those that the cost of a network has."""
    model = nn.Sequential(nn.Linear(8, 8))
    found = cost(model, binarize_(model, "bwn"), (8,)).summary()
    assert (*found, "file_bytes") == COSTS
