"""Binarized inputs against their formulas: forward and gradient by hand in float64, XNOR's K,
schedules, packing, what is refused.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tbn_bench import catalog, convert
from tbn_bench.binarizers._base import Target
from tbn_bench.config import make
from tbn_bench.convert.binarize import binarize_, binarize_inputs_
from tbn_bench.convert.cost import cost
from tbn_bench.experiment import export
from tbn_bench.experiment.build import build
from tbn_bench.format import packed_file
from tbn_bench.layers.binary_input import constant_signs
from tbn_bench.tasks.image_classification import ImageClassification

A = [
    -2.0,
    -1.0,
    -0.5,
    -0.25,
    0.0,
    0.25,
    0.5,
    1.0,
    1.5,
]  # zero, both edges of the windows, inside and outside
G = [math.cos(i) for i in range(len(A))]  # dL/dy
SIGNS = [-1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
METHODS = [
    "xnor",
    "bireal",
    "reactnet",
    "reactnet(step=1)",
    "adabin",
    "adabin(form='released')",
    "irnet(activations=True)",
    "dorefa(activations=True)",
    "snn(tau=3, activations=True)",
    "sparks(tau=3, activations=True)",
    "bitnet158",
]
NETWORK = "resnet_cifar(depth=8, width=4, activation='hardtanh', shortcuts='conv')"


def activation(spec, layer=None):
    layer = layer or nn.Linear(len(A), 2)
    method = (
        catalog.build("binarizers", spec).activation(Target("layer", layer.weight, layer)).double()
    )
    method.begin_epoch(0, 1)
    return method


def gradient(method, x, g):
    """dL/dx by autograd where dL/dy = g."""
    x = x.clone().requires_grad_()
    method(x).backward(g)
    return x.grad


def window(a):
    return 1.0 if abs(a) <= 1 else 0.0


def approx(a):
    return max(0.0, 2 - 2 * abs(a))


def between(a):
    return 1.0 if 0 <= a <= 1 else 0.0


@pytest.mark.parametrize(
    ("spec", "values", "slope"),
    [
        ("xnor", SIGNS, window),
        ("bireal", SIGNS, approx),
        ("bireal(grad='clip_ste')", SIGNS, approx),
        ("reactnet", SIGNS, approx),
        ("reactnet(step=1)", SIGNS, approx),
        ("adabin", SIGNS, approx),
        ("adabin(form='released')", SIGNS, approx),
        ("snn(activations=True)", SIGNS, approx),
        ("sparks(activations=True)", SIGNS, approx),
        ("dorefa(activations=True)", [0, 0, 0, 0, 0, 0, 0, 1, 1], between),
        ("dorefa(activations=True)", None, between),
        ("bitnet158", [round(a * 63.5) / 63.5 for a in A], lambda a: 1.0),
        (
            "irnet(activations=True)",
            SIGNS,
            lambda a: 1 / math.cosh(1e-3 * a) ** 2,
        ),  # epoch 0: k t = 1
    ],
)
def test_values_and_slopes_by_hand(spec, values, slope):
    """sign(0) = +1, but dorefa's 0 and 0.5 become 0; learned shifts begin as none.

    The slope times g goes on to the input.
    """
    x, g = torch.tensor(A, dtype=torch.float64), torch.tensor(G, dtype=torch.float64)
    method = activation(spec)
    assert values is None or method(x).tolist() == pytest.approx(values, abs=1e-15)
    expected = [slope(a) * b for a, b in zip(A, G, strict=True)]
    assert gradient(method, x, g).tolist() == pytest.approx(expected, abs=1e-14)
    torch.testing.assert_close(
        method(x.clone().requires_grad_()), method(x), rtol=1e-15, atol=1e-15
    )


@pytest.mark.parametrize(
    ("epoch", "t", "k"), [(0, 1e-3, 1e3), (200, 0.1, 10.0), (399, 10 ** (1 - 4 / 400), 1.0)]
)
def test_ede_of_inputs(epoch, t, k):
    """First, middle and last of 400 epochs: g k t (1 - tanh(t a)^2), on the input itself.

    Forward stays the hard sign.
    """
    method = activation("irnet(activations=True)")
    method.begin_epoch(epoch, 400)
    x = torch.tensor(A, dtype=torch.float64)
    expected = [b * k * t / math.cosh(t * a) ** 2 for a, b in zip(A, G, strict=True)]
    assert gradient(method, x, torch.tensor(G, dtype=torch.float64)).tolist() == pytest.approx(
        expected, rel=1e-12
    )
    assert (float(method.t), float(method.k)) == pytest.approx((t, k), rel=1e-12)
    assert method(x).tolist() == SIGNS


def test_a_schedule_that_moves_on_leaves_the_graph_alone():
    """The slope is that of the epoch of the forward, also where the next epoch begins before the
    backward.
    """
    method, x = (
        activation("irnet(activations=True)"),
        torch.tensor(A, dtype=torch.float64, requires_grad=True),
    )
    y = method(x).sum()
    method.begin_epoch(7, 8)
    y.backward()
    assert x.grad.tolist() == pytest.approx([1 / math.cosh(1e-3 * a) ** 2 for a in A], rel=1e-12)


@pytest.mark.parametrize(
    ("layer", "shape", "others"),
    [
        (nn.Linear(3, 2), (4, 5, 3), (0, 1)),
        (nn.Conv1d(3, 2, 3), (4, 3, 5), (0, 2)),
        (nn.Conv2d(3, 2, 3), (4, 3, 5, 6), (0, 2, 3)),
    ],
)
@pytest.mark.parametrize("spec", ["reactnet", "snn(activations=True)"])
def test_rsign_shift_is_learned_per_channel(spec, layer, shape, others):
    """sign(a + b_c); b gets the input's gradient summed over everything but the channel.

    At a + b = 0 the value is +1.
    """
    method, x, g = (
        activation(spec, layer),
        torch.randn(shape, dtype=torch.float64),
        torch.randn(shape, dtype=torch.float64),
    )
    b = torch.tensor([0.3, -0.7, 0.0], dtype=torch.float64).reshape(method.shift.shape)
    method.shift.data.copy_(b)
    x[0].copy_((-b).expand(shape[1:]))
    expected = g * (2 - 2 * (x + b).abs()).clamp(min=0)
    torch.testing.assert_close(gradient(method, x, g), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(
        method.shift.grad, expected.sum(others).reshape(b.shape), rtol=0, atol=1e-12
    )
    assert torch.equal(method(x), torch.where(x + b >= 0, 1.0, -1.0).double())
    assert (method(x)[0] == 1).all()


@pytest.mark.parametrize("form", ["paper", "released"])
def test_adabin_forms_by_hand(form):
    """u = (a - beta) / alpha, h = max(0, 2 - 2|u|): da = g h; dalpha = sum g (sign u - h u); dbeta
    = sum g (1 - h). The released code
    returns alpha (sign u + beta): dalpha gains beta, dbeta is sum g (alpha - h)."""
    method, alpha, beta = activation(f"adabin(form={form!r})"), 0.5, -0.25
    method.alpha.data.fill_(alpha), method.beta.data.fill_(beta)
    u = [(a - beta) / alpha for a in A]
    s, h = [1.0 if v >= 0 else -1.0 for v in u], [approx(v) for v in u]
    released = form == "released"
    values = [alpha * (v + beta) if released else alpha * v + beta for v in s]
    x, g = torch.tensor(A, dtype=torch.float64), torch.tensor(G, dtype=torch.float64)
    assert gradient(method, x, g).tolist() == pytest.approx(
        [b * v for b, v in zip(G, h, strict=True)], abs=1e-14
    )
    assert method(x).tolist() == pytest.approx(values)
    to_alpha = sum(b * (v + beta * released - w * z) for b, v, w, z in zip(G, s, h, u, strict=True))
    to_beta = sum(b * ((alpha if released else 1) - w) for b, w in zip(G, h, strict=True))
    assert (float(method.alpha.grad), float(method.beta.grad)) == pytest.approx(
        (to_alpha, to_beta), abs=1e-13
    )


def test_absmax_takes_the_largest_of_each_token_or_image():
    """Steps of max / 127 over the last axis of tokens, over channels and positions of images.

    All-zero inputs stay zero.
    """
    tokens = torch.tensor(
        [[[1.27, -0.5, 0.004], [0.0, 0.0, 0.0]], [[-254.0, 3.1, 0.9], [1.0, -1.0, 0.5]]],
        dtype=torch.float64,
    )
    expected = [[[1.27, -0.5, 0.0], [0.0, 0.0, 0.0]], [[-254.0, 4.0, 0.0], [1.0, -1.0, 64 / 127]]]
    torch.testing.assert_close(
        activation("bitnet158", nn.Linear(3, 2))(tokens),
        torch.tensor(expected, dtype=torch.float64),
    )
    images = torch.tensor([[[[127.0]], [[0.6]]], [[[0.0]], [[1.27]]]], dtype=torch.float64)
    expected = torch.tensor([[[[127.0]], [[1.0]]], [[[0.0]], [[1.27]]]], dtype=torch.float64)
    torch.testing.assert_close(activation("bitnet158", nn.Conv2d(2, 2, 1))(images), expected)
    assert (
        catalog.build("binarizers", "bitnet158(activation_bits=32)").activation(
            Target("a", torch.ones(2, 2))
        )
        is None
    )


def k_by_hand(layer, x):
    """K for (B, C, H, W) by unfolding the channel mean of |a|; for (..., C) the mean of |a|."""
    if isinstance(layer, nn.Linear):
        return x.abs().mean(-1, keepdim=True)
    two = isinstance(layer, nn.Conv2d)
    kernel, stride, padding, dilation = (
        v if two else (d, *v)
        for v, d in (
            (layer.kernel_size, 1),
            (layer.stride, 1),
            (layer.padding, 0),
            (layer.dilation, 1),
        )
    )
    average = x.abs().mean(1, keepdim=True) if two else x.abs().mean(1, keepdim=True).unsqueeze(2)
    if layer.padding_mode != "zeros":
        average, padding = F.pad(average, (1, 1, 1, 1), mode=layer.padding_mode), (0, 0)
    columns = F.unfold(average, kernel, dilation, padding, stride).mean(1)  # (B, positions)
    sizes = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(average.shape[2:], padding, dilation, kernel, stride, strict=True)
    ]
    return columns.reshape(len(x), 1, *(sizes if two else sizes[1:]))


LAYERS = {
    "linear": (lambda b: nn.Linear(5, 4, bias=b), (3, 5)),
    "tokens": (lambda b: nn.Linear(5, 4, bias=b), (3, 2, 5)),
    "conv1d": (lambda b: nn.Conv1d(5, 4, 3, stride=2, padding=2, dilation=2, bias=b), (3, 5, 11)),
    "conv2d": (lambda b: nn.Conv2d(5, 4, 3, padding=1, bias=b), (3, 5, 6, 7)),
    "uneven": (
        lambda b: nn.Conv2d(5, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), bias=b),
        (3, 5, 6, 7),
    ),
    "circular": (
        lambda b: nn.Conv2d(5, 4, 3, padding=1, padding_mode="circular", bias=b),
        (3, 5, 4, 6),
    ),
    "groups": (lambda b: nn.Conv2d(6, 4, 3, groups=2, bias=b), (3, 6, 5, 5)),
}


def products_by_hand(made, weight, signs):
    """What the layer without bias gives for these signs and alpha * sign(weight)."""
    alpha = weight.abs().flatten(1).mean(1).reshape(-1, *[1] * (weight.dim() - 1))
    return torch.func.functional_call(
        made(False).double(), {"weight": weight.sign() * alpha}, (signs,)
    )


@pytest.mark.parametrize("k", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layer", LAYERS)
def test_xnor_scales_products_by_k_and_not_the_bias(layer, bias, k):
    """y = (sign(a) * sign(W)) alpha K + b, K unfolded by hand.

    dL/da is the clipped one of the products and that of K together.
    """
    made, shape = LAYERS[layer]
    net, x = nn.Sequential(made(bias)).double(), torch.randn(shape, dtype=torch.float64)
    signs, source, inputs = (
        x.sign().requires_grad_(),
        x.clone().requires_grad_(),
        x.clone().requires_grad_(),
    )
    weight = net[0].weight.detach().clone()
    binarize_(net, f"xnor(k={k})")
    shift = net[0].bias.detach().reshape(-1, *[1] * (weight.dim() - 2)) if bias else 0
    expected = (
        products_by_hand(made, weight, signs) * (k_by_hand(net[0], source) if k else 1) + shift
    )
    got, g = net(inputs), torch.randn(expected.shape, dtype=torch.float64)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    got.backward(g), expected.backward(g)
    through_k = source.grad if k else 0
    torch.testing.assert_close(
        inputs.grad, signs.grad * (x.abs() <= 1) + through_k, rtol=1e-11, atol=1e-11
    )


def test_k_by_hand_on_one_window():
    """Channels (1, -3) everywhere: the mean of |a| is 2.

    Of a 3 x 3 window at a padded corner 4 of 9 are inside.
    """
    net = nn.Sequential(nn.Conv2d(2, 1, 3, padding=1, bias=False)).double()
    net[0].weight.data.fill_(0.5)
    binarize_(net, "xnor")
    y = net(torch.tensor([1.0, -3.0], dtype=torch.float64).reshape(1, 2, 1, 1).expand(1, 2, 3, 3))
    assert y.abs().max() == 0  # +1 and -1 cancel
    y = net(torch.tensor([1.0, 3.0], dtype=torch.float64).reshape(1, 2, 1, 1).expand(1, 2, 3, 3))
    assert float(y[0, 0, 1, 1].detach()) == pytest.approx(18 * 0.5 * 2)
    assert float(y[0, 0, 0, 0].detach()) == pytest.approx(8 * 0.5 * 2 * 4 / 9)


@pytest.mark.parametrize(
    "spec", ["bireal", "adabin", "irnet(activations=True)", "dorefa(activations=True)"]
)
def test_padding_is_zero_after_binarization(spec):
    """A corner of an all-positive image sees 4 of 9 values: the border is a third value, as in the
    methods' own code.
    """
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False)).double()
    net[0].weight.data[0, 0, 0, 0] += 9
    binarize_(net, spec)
    weight = net[0].weight.detach()
    y = net(torch.full((1, 1, 3, 3), 0.75, dtype=torch.float64)).detach()
    torch.testing.assert_close(y[0, :, 1, 1], weight.sum((1, 2, 3)))
    torch.testing.assert_close(y[0, :, 0, 0], weight[:, :, 1:, 1:].sum((1, 2, 3)))


def network(spec, shape=(1, 8, 8)):
    """A small ResNet without ReLU whose stem and classifier are kept."""
    net = catalog.build("models", NETWORK, num_classes=10, in_shape=shape)
    return net, binarize_(net, spec, ["conv1", "fc"])


def tied(spec, epochs=4):
    """A task over three layers of which two share their weight."""
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    net[1].weight = net[0].weight
    binarize_(net, spec)
    return net, ImageClassification(net, make({"epochs": epochs}), 4)


def test_the_task_announces_epochs_to_inputs(monkeypatch):
    """Those of weights and those of inputs, also where two layers share a weight."""
    net, task = tied("irnet(activations=True)")
    monkeypatch.setattr(ImageClassification, "current_epoch", 3)
    task.on_train_epoch_start()
    assert [float(layer.input_binarizer.t) for layer in net] == pytest.approx([1.0] * 3)
    assert [float(layer.parametrizations.weight[0].t) for layer in net] == pytest.approx([1.0] * 3)


def test_layers_that_share_a_weight_have_inputs_of_their_own():
    """A shift each, trained and stored apart."""
    net, _ = tied("reactnet")
    assert net[0].parametrizations.weight.original is net[1].parametrizations.weight.original
    assert len({id(layer.input_binarizer.shift) for layer in net}) == 3
    assert sum(p.numel() for p in net.parameters()) == 2 * 4 * 36 + 3 * 4 + 3 * 4


@pytest.mark.parametrize("spec", ["snn", "sparks"])
def test_the_task_announces_steps_to_weights(spec):
    """Before each training step, once to a weight that two layers share."""
    net, task = tied(spec)
    task.on_train_epoch_start()
    for _ in range(3):
        task.on_train_batch_start((), 0)
    assert [int(layer.parametrizations.weight[0].step) for layer in net] == [3, 3, 3]


@pytest.mark.parametrize(("epoch", "level"), [(0, 1.0), (2, 0.5), (3, 0.25)])
def test_the_noise_of_sparks_falls_linearly(monkeypatch, epoch, level):
    """First, middle and last of four epochs, announced by the task.

    The first epoch has all of it.
    """
    net, task = tied("sparks")
    monkeypatch.setattr(ImageClassification, "current_epoch", epoch)
    task.on_train_epoch_start()
    assert [float(layer.parametrizations.weight[0].level) for layer in net] == [level] * 3


def saved(net, path, config=None):
    """The network as a packed file, and the file's content.

    What has no binary weight is saved as it is.
    """
    if any(hasattr(m, "parametrizations") for m in net.modules()):
        convert.pack_(net)
    convert.save(net, path, config)
    return packed_file.read(path)


def unpacked(spec, path):
    """The network of a file, made from one of the same shape without weights."""
    with torch.device("meta"):
        blank = catalog.build("models", NETWORK, num_classes=10, in_shape=(1, 8, 8))
        binarize_inputs_(blank, spec, ["conv1", "fc"])
    return convert.load_(blank, path)


TRAINING = (".k", ".t", ".step", ".level", ".seed", ".P", ".X", ".memory", ".original")


@pytest.mark.parametrize("spec", METHODS)
def test_packed_network_binarizes_its_inputs(tmp_path, spec):
    """Bytes as counted, no training state in the file, equal outputs from the file, and others once
    inputs are not binarized.
    """
    net, plan = network(spec)
    x = torch.randn(6, 1, 8, 8)
    for name, parameter in net.named_parameters():
        parameter.data += 0.1 * ("input_binarizer" in name)  # learned since
    with torch.no_grad():
        net.train()(x)
        expected, total = net.eval()(x), cost(net, plan, (1, 8, 8))
        content = saved(net, tmp_path / "n.safetensors")
        loaded = unpacked(spec, tmp_path / "n.safetensors")
        torch.testing.assert_close(loaded(x), expected, rtol=1e-6, atol=1e-6)
        for block in loaded.blocks:
            block.conv1.input_binarizer.forward = block.conv2.input_binarizer.forward = lambda v: v
        assert not torch.allclose(loaded(x), expected, rtol=1e-4, atol=1e-4)
    assert content.payload_bytes == total.stored_bytes
    assert not [n for n in content.tensors if n.endswith(TRAINING)]


@pytest.mark.parametrize("spec", METHODS)
def test_export_load_needs_no_more_than_the_file(tmp_path, spec):
    """The file names its config.

    The network made from it alone binarizes its inputs and gives the trained network's outputs.
    """
    config = make({"data": "digits", "model": NETWORK, "binarizer": spec, "keep": ["conv1", "fc"]})
    built = build(config)
    net = built.model
    total = built.cost
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        net.train()(x)
        expected = net.eval()(x)
        content = saved(net, tmp_path / "n.safetensors", config.model_dump(mode="json"))
        loaded = export.load(tmp_path / "n.safetensors")
        torch.testing.assert_close(loaded(x), expected, rtol=1e-6, atol=1e-6)
    assert sum(getattr(m, "input_binarizer", None) is not None for m in loaded.modules()) == 6
    assert content.payload_bytes == total.stored_bytes


def test_schedules_are_in_checkpoints_alone():
    """The state of a network has k and t of its inputs; its cost and its packed file do not."""
    net, plan = network("irnet(activations=True)")
    other, other_plan = network("irnet")
    assert {"blocks.0.conv1.input_binarizer.k", "blocks.0.conv1.input_binarizer.t"} <= set(
        net.state_dict()
    )
    assert cost(net, plan, (1, 8, 8)).stored_bits == cost(other, other_plan, (1, 8, 8)).stored_bits


@pytest.mark.parametrize(
    ("spec", "track", "extra"),
    [
        ("xnor", "W1A1", 0),
        ("bireal", "W1A1", 0),
        ("irnet(activations=True)", "W1A1", 0),
        ("dorefa(activations=True)", "W1A1", 0),
        ("reactnet", "W1A1", 32 * 6),
        ("reactnet(step=1)", "W32A1", 32 * 6),
        ("adabin", "W1A1", 64),
        ("snn(activations=True)", "W1A1", 32 * 6),
        ("bitnet158", "W1A8", 0),
        ("irnet", "W1A32", 0),
        ("bitnet158(activation_bits=32)", "W1A32", 0),
        ("full_precision", "W32A32", 0),
    ],
)
def test_track_side_data_and_bit_operations(spec, track, extra):
    """A 6 -> 4 convolution: what inputs add to the stored bits, and one binary operation per
    product of two bits.
    """
    net = nn.Sequential(nn.Conv2d(6, 4, 3, bias=False))
    plan = binarize_(net, spec)
    total = cost(net, plan, (6, 5, 5))
    assert (plan.track, total.side.other) == (track, extra)
    bits = 2 if "bitnet" in spec else 32 if track.startswith("W32") else 1
    macs = 4 * 6 * 9 * 9
    assert total.summary()["bitops_wxa"] == macs * bits * int(track.rpartition("A")[2])
    assert total.summary()["bitops_fp64"] == macs * (64 if bits == 32 else 1)


def test_attention_is_refused():
    """torch's attention multiplies by its projections itself, the output projection too: nothing
    would binarize their inputs.
    """
    for keep, name in ([], "in_proj_weight"), (["in_proj_weight"], "out_proj.weight"):
        with pytest.raises(
            ValueError,
            match=f"{name} belongs to a MultiheadAttention, whose input cannot be binarized; keep it",
        ):
            binarize_(nn.MultiheadAttention(8, 2), "bireal", keep)
    assert binarize_(nn.MultiheadAttention(8, 2), "irnet").track == "W1A32"


def test_fused_transformer_path_calls_the_layers():
    """nn.TransformerEncoderLayer in eval under no_grad would read the weights of layers that do
    more than multiply by them.
    """
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    binarize_(layer, "bireal", ["self_attn.*"])
    x = torch.randn(3, 5, 8)
    trained = layer(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), trained, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "warned"),
    [("relu", True), ("hardtanh", False), ("prelu", False), ("rprelu", False)],
)
@pytest.mark.parametrize("spec", ["xnor", "reactnet", "irnet(activations=True)", "adabin"])
def test_a_relu_before_a_sign_is_warned_about(spec, activation, warned):
    """Behind a ReLU no input is negative, so its sign says nothing; the plan names the layers.

    Other non-linearities are quiet.
    """
    model = f"resnet_cifar(depth=8, width=4, activation={activation!r})"
    built = build(make({"model": model, "binarizer": spec, "keep": ["conv1", "fc"]}))
    net = built.model
    plan = built.plan
    found = [w for w in plan.warnings if "never changes its sign" in w]
    assert (len(found) == 1) == warned
    assert not warned or all(f"blocks.{i}.conv{j}" in found[0] for i in range(3) for j in (1, 2))
    assert bool(constant_signs(net, (1, 8, 8))) == warned
    assert net.training


def test_looking_for_constant_signs_changes_nothing():
    """Statistics, modes, hooks and the random state are as before.

    8-bit inputs behind a ReLU are fine.
    """
    net, _ = network("bireal")
    net.blocks[0].eval()
    state, before = torch.get_rng_state(), {k: v.clone() for k, v in net.state_dict().items()}
    assert constant_signs(net, (1, 8, 8)) == []
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert (net.training, net.blocks[0].training, net.blocks[1].training) == (True, False, True)
    assert not any(m._forward_hooks for m in net.modules())
    plan = build(
        make(
            {
                "model": "resnet_cifar(depth=8, width=4)",
                "binarizer": "bitnet158",
                "keep": ["conv1", "fc"],
            }
        )
    ).plan
    assert not [w for w in plan.warnings if "sign" in w]


@pytest.mark.parametrize("spec", ["bireal", "xnor", "irnet(activations=True)", "reactnet"])
def test_a_network_without_its_input_binarizers_is_refused(tmp_path, spec):
    """Their kinds are in the file: without them the same weights would compute something else,
    silently.
    """
    net = nn.Sequential(nn.Conv2d(2, 4, 3))
    binarize_(net, spec)
    convert.pack_(net.eval())
    convert.save(net, tmp_path / "net.safetensors")
    with pytest.raises(packed_file.ArtifactError, match="binarize_inputs_"):
        convert.load_(nn.Sequential(nn.Conv2d(2, 4, 3)), tmp_path / "net.safetensors")
