"""Models of timm by their own forms: each is planned without weights, or refused with a reason; layers with a forward of their own."""

import copy
import re

import pytest
import timm
import torch
from timm.layers import CondConv2d, Conv2dSame, ScaledStdConv2d, StdConv2d
from torch import nn

from tbn_bench import convert
from tbn_bench.config import make
from tbn_bench.convert import dense
from tbn_bench.convert.binarize import binarize_
from tbn_bench.experiment import build

# timm's module -> a small model of it
FAMILIES = {
    "beit": "beit_base_patch16_224", "byoanet": "halonet_h1", "byobnet": "test_byobnet", "coat": "coat_tiny",
    "convit": "convit_tiny", "convmixer": "convmixer_768_32", "convnext": "test_convnext", "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240", "cspnet": "cs3darknet_focus_s", "cspnext": "cspnext_tiny", "davit": "davit_tiny",
    "deit": "deit_tiny_patch16_224", "densenet": "densenet121", "dla": "dla46x_c", "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small", "efficientformer": "efficientformer_l1", "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet", "efficientvim": "efficientvim_m1", "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0", "eva": "vit_tiny_patch16_dinov3_qkvb", "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8", "focalnet": "focalnet_tiny_srf", "gcvit": "gcvit_xxtiny", "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b", "hgnet": "hgnetv2_b0", "hiera": "hiera_tiny_224", "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small", "iformer": "iformer_t", "inception_next": "inception_next_atto", "inception_v3": "inception_v3",
    "lcnetv2": "lcnetv2_small", "levit": "levit_128s", "lowformer": "lowformer_b0", "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet", "metaformer": "poolformerv2_s12", "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050", "mobilevit": "mobilevit_xxs", "nest": "nest_tiny",
    "nfnet": "test_nfnet", "pit": "pit_ti_224", "pvt_v2": "pvt_v2_b0",
    "resnest": "resnest14d", "resnet": "test_resnet",
    "resnetv2": "resnetv2_18", "rexnet": "rexnet_100", "selecsls": "selecsls42", "senet": "legacy_seresnet18",
    "sknet": "skresnet18", "starnet": "starnet_s050",
    "swin_transformer": "swin_tiny_patch4_window7_224", "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224", "tiny_vit": "tiny_vit_5m_224",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit", "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos", "vision_transformer_sam": "samvit_base_patch16_224",
    "vovnet": "ese_vovnet19b_slim_dw", "xception": "legacy_xception", "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}  # fmt: skip
REFUSED = {
    "rexnet": "p must divide the number of weights, got p=4 for"
}  # its widths are multiples of 0.1, not of 2


def sketch(model, binarizer="tbn(p=4)", **values):
    return build.sketch(make({"model": model, "binarizer": binarizer, **values}))


def test_the_list_is_broad():
    """71 of timm's modules, each by a model of its own, and all but one convert."""
    assert all(name in timm.list_models(module=module) for module, name in FAMILIES.items())
    assert len(FAMILIES) == 71
    assert len(FAMILIES.keys() - REFUSED.keys()) == 70


@pytest.mark.parametrize("module", [module for module in FAMILIES if module not in REFUSED])
def test_families(module):
    """A plan of all Linear and Conv weights, tiled ones among them, and their multiply-adds; no weight is allocated."""
    found = sketch(f"from_timm(name={FAMILIES[module]!r})")
    model = found.model
    plan = found.plan
    total = found.cost
    assert all(p.is_meta for p in model.parameters())
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    assert (
        plan.weights
        == total.weights
        == sum(m.parametrizations.weight.original.numel() for m in layers)
    )
    assert all(r.binarized for r in plan.rows)
    assert any(r.p == 4 for r in plan.rows)
    assert total.summary()["macs"] > 0


@pytest.mark.parametrize("module", REFUSED)
def test_families_that_p_does_not_divide_are_refused(module):
    """One line per layer, with the values of p that would do."""
    with pytest.raises(ValueError, match="got p=4") as caught:
        sketch(f"from_timm(name={FAMILIES[module]!r})")
    for line in str(caught.value).splitlines():
        assert re.fullmatch(
            rf"{REFUSED[module]} \d+ weights \(layer \S+\); use one of [\d, ]+", line
        )


@pytest.mark.parametrize(
    "name",
    [
        "test_" + n
        for n in (
            "byobnet",
            "coatnet",
            "convnext",
            "efficientnet",
            "mambaout",
            "nfnet",
            "resnet",
            "vit",
            "vit_relpos",
        )
    ],
)
def test_forward_uses_the_binary_weights(name):
    """The output is that of the same network holding the binary weights as plain ones."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval()
    x = torch.randn(1, 3, 160, 160)
    full = model(x)
    binarize_(model, "tbn(p=2, min_layer_size=5000)")
    out, expected = model(x), dense(model)(x)
    assert (out - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (out - full).abs().max() > 0.1 * full.abs().max()
    convert.pack_(model)
    with torch.no_grad():
        assert (model(x) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("kind", [StdConv2d, ScaledStdConv2d, Conv2dSame])
@pytest.mark.parametrize(
    "spec",
    ["tbn(p=2, min_layer_size=0)", "bwn"]
    + [f"tbn(p=2, min_layer_size=0, copies={kind!r})" for kind in ("hadamard", "columns")],
)
def test_convolutions_with_a_forward_of_their_own(kind, spec):
    """Weight standardisation and padding by hand act on the binary weight, and other signs give other outputs."""
    torch.manual_seed(0)
    layer = kind(8, 16, 3)
    plain, x = copy.deepcopy(layer), torch.randn(2, 8, 9, 9)
    binarize_(layer, spec)
    plain.weight.data = layer.weight.data
    first = layer(x)
    assert torch.allclose(first, plain(x), atol=1e-5)
    layer.parametrizations.weight.original.data.neg_()
    assert not torch.allclose(layer(x), first, atol=1e-2)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 16, 3, groups=4),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv1d(8, 16, 3),
        nn.Linear(8, 16),
        nn.Conv2d(8, 6, 3),
    ],
    ids=["grouped", "depthwise", "conv1d", "linear", "p begins inside a filter"],
)
def test_layers_multiply_by_their_binary_weight(layer):
    """Whether or not tiles are reused."""
    x = torch.randn(2, 8, *[9] * (layer.weight.dim() - 2))
    plain = copy.deepcopy(layer)
    binarize_(layer, "tbn(p=4, min_layer_size=0)")
    plain.weight.data = layer.weight.data
    assert torch.allclose(layer(x), plain(x), atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "values"),
    [
        (nn.ConvTranspose2d(4, 8, 3), 288),
        (nn.Conv3d(4, 8, 3), 864),
        (nn.Embedding(100, 8), 800),
        (nn.LSTM(8, 8), 512),
        (CondConv2d(4, 8, 3, num_experts=2), 576),
        (nn.Bilinear(4, 4, 4), 64),
        (nn.LayerNorm(64), 0),
        (nn.Linear(8, 8), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_weights_that_no_binarizer_reaches_are_said(layer, values):
    """Where they are over 1 % of all, in one line with their number; nothing is said of a network that stays as it is."""
    model, large = (
        nn.ModuleList([nn.Linear(64, 64), layer]),
        nn.ModuleList([nn.Linear(640, 640), copy.deepcopy(layer)]),
    )
    assert binarize_(copy.deepcopy(model), "full_precision").warnings == []
    said = binarize_(model, "sign").warnings
    assert [w.split()[0] for w in said] == ([str(values)] if values else [])
    assert binarize_(large, "sign").warnings == []


def test_a_weight_read_by_other_code_is_said():
    """BEiT multiplies by attn.qkv.weight itself: by the binary weight, but no layer is called that could be counted."""
    torch.manual_seed(0)
    plan = sketch(
        "from_timm(name='beit_base_patch16_224', kwargs={'depth': 2, 'embed_dim': 48})", "bwn"
    ).plan
    assert any(
        w.startswith("blocks.0.attn.qkv.weight, blocks.1.attn.qkv.weight: never called; ")
        for w in plan.warnings
    )
    model = timm.create_model("beit_base_patch16_224", depth=1, embed_dim=48, img_size=32).eval()
    binarize_(model, "tbn(p=2, min_layer_size=0)")
    x = torch.randn(1, 3, 32, 32)
    assert torch.allclose(model(x), dense(model)(x), atol=1e-4)


# Plans without weights


@pytest.mark.parametrize(
    "binarizer",
    ["full_precision", "tbn(p=2, copies='shifted')", "irnet", "snn(tau=4)", "xnor", "twn"],
)
def test_sketch_is_build_without_weights(binarizer):
    """Same rows, costs and warnings; binarized inputs are looked at, and for that the network is built."""
    config = make({"model": "resnet_cifar(depth=8, width=8)", "binarizer": binarizer})
    sketched = build.sketch(config)
    built = build.build(config)
    assert sketched.plan.rows == built.plan.rows
    assert sketched.plan.warnings == built.plan.warnings
    assert sketched.cost.summary() == built.cost.summary()
    assert all(p.is_meta for p in sketched.model.parameters()) == (binarizer != "xnor")


@pytest.mark.parametrize(
    ("model", "values", "shape", "classes"),
    [
        ("from_timm(name='test_resnet')", {}, (3, 160, 160), 1000),
        ("from_timm(name='test_resnet')", {"data": "digits(size=32)"}, (1, 32, 32), 10),
        ("from_timm(name='vit_tiny_patch16_224', kwargs={'img_size': 32})", {}, (3, 32, 32), 1000),
        ("from_timm(name='test_resnet', num_classes=7)", {}, (3, 160, 160), 7),
        ("vgg_small(width=4)", {}, (1, 8, 8), 10),
    ],
)
def test_a_model_of_timm_is_planned_in_its_own_form_where_no_data_are_named(
    model, values, shape, classes
):
    plan = sketch(model, **values).plan
    size = " x ".join(map(str, shape))
    own = "timm" in model and not values
    assert [w for w in plan.warnings if "no --data" in w] == [
        f"no --data: planned in the model's own form, {size} with num_classes={classes}, not for digits"
    ] * own
    assert (plan.rows[0].shape[1], plan.rows[-1].shape[0]) == (shape[0], classes)


def test_a_model_that_cannot_do_without_weights_is_built(monkeypatch):
    """Where something asks a tensor of the meta device for its values, the plan is made with weights, and is the same."""
    real = build.cost

    def values_wanted(model, *rest):
        next(model.parameters()).sum().item()
        return real(model, *rest)

    config = make({"binarizer": "tbn(p=4)"})
    expected = build.sketch(config).plan
    monkeypatch.setattr(build, "cost", values_wanted)
    sketched = build.sketch(config)
    assert not any(p.is_meta for p in sketched.model.parameters())
    assert sketched.plan == expected


def test_samples_that_a_model_cannot_take_are_one_line():
    """timm's own assertion is told as a refusal."""
    for make_plan in (build.sketch, build.build):
        config = make({"model": "from_timm(name='vit_tiny_patch16_224')", "data": "digits"})
        with pytest.raises(
            ValueError,
            match=r"cannot be built and run on .*samples of shape \(1, 8, 8\): Input height \(8\)",
        ):
            make_plan(config)
