"""Every weight binarizer against its formula: gradients by hand in float64, schedules, clipping,
draws, state, packing, learning.
"""

import copy
import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.utils import parametrize

from tbn_bench import catalog
from tbn_bench.binarizers._base import ActivationBinarizer, Target, WeightBinarizer
from tbn_bench.config import make
from tbn_bench.convert.advance import advance_, begin_step_
from tbn_bench.convert.binarize import binarize_
from tbn_bench.plugins.contracts import binarizers as contracts
from tbn_bench.tasks.image_classification import ImageClassification

MATRIX_METHODS = [  # tried on matrices behind ReLU
    "sign",
    "bwn",
    "bwn(grad='paper')",
    "bwn(grad='clip_ste')",
    "tbn(p=2, min_layer_size=0)",
    "binary_connect",
    "binary_connect(stochastic=True)",
    "dorefa",
    "irnet",
    "repeated_filters(p=2, min_layer_size=0)",
    "frozen_tile(p=2, min_layer_size=0)",
    "twn",
    "bitnet158(activation_bits=32)",
    "adabin(activations=False)",
    "low_rank(rank=4, min_layer_size=0)",
    "tbn_budget(bits=0.9)",
]
# tried on 3 x 3 kernels, without ReLU: they binarize inputs too, or choose from a codebook
KERNEL_METHODS = [
    "xnor",
    "xnor(grad='full', k=False)",
    "bireal",
    "bireal(grad='clip_ste')",
    "reactnet",
    "adabin",
    "adabin(form='released')",
    "irnet(activations=True)",
    "dorefa(activations=True)",
    "bitnet158",
    "snn(tau=3, every=2)",
    "snn(tau=3, every=2, activations=True)",
    "sparks(tau=3)",
    "sparks(tau=3, activations=True)",
]
METHODS = MATRIX_METHODS + KERNEL_METHODS
KERNEL_NETWORK = "resnet_cifar(depth=8, width=4, activation='hardtanh', shortcuts='conv')"
# zeros, both edges of the clipping window, values inside and outside; with p = 2 the columns sum to
# 0 at (0, 0), (0, 1) and (1, 1)
W = torch.tensor(
    [
        [0.0, 1.0, -1.0, 0.5],
        [1.5, -0.25, 0.0, -2.0],
        [0.0, -1.0, 0.1, -0.6],
        [-0.3, 0.25, 1.0, -1.25],
    ],
    dtype=torch.float64,
)
G = torch.cos(torch.arange(16, dtype=torch.float64)).reshape(4, 4)  # dL/dB


def parametrization(spec, weight=W):
    return (
        catalog.build("binarizers", spec)
        .decide([Target("layer", weight)])[0]
        .parametrization.double()
    )


def gradient(method, weight=W):
    """dL/dW by autograd where dL/dB = G."""
    w = weight.clone().requires_grad_()
    method(w).backward(G)
    return w.grad


def channel_by_channel(rule):
    """The gradient of W where rule(w, g) -> list is that of one output channel of plain numbers."""
    return torch.tensor(
        [rule(w, g) for w, g in zip(W.tolist(), G.tolist(), strict=True)], dtype=torch.float64
    )


def sgn(x):
    return (x > 0) - (x < 0)


def window(x):
    return 1.0 if abs(x) <= 1 else 0.0


def bwn_full(w, g):
    n, alpha = len(w), sum(map(abs, w)) / len(w)
    total = sum(b * (1 if a >= 0 else -1) for a, b in zip(w, g, strict=True))
    return [alpha * window(a) * b + sgn(a) / n * total for a, b in zip(w, g, strict=True)]


def bwn_paper(w, g):
    n, alpha = len(w), sum(map(abs, w)) / len(w)
    return [b * (1 / n + alpha * window(a)) for a, b in zip(w, g, strict=True)]


def ede_through_standardisation(w, g, k, t):
    """u_i = 2^s g_i k t / cosh(t What_i)^2.

    dL/dw_i = (u_i - mean u - What_i sum_j u_j What_j / (n - 1)) / std.
    """
    n, mean = len(w), sum(w) / len(w)
    std = math.sqrt(sum((a - mean) ** 2 for a in w) / (n - 1))
    what = [(a - mean) / std for a in w]
    scale = 2.0 ** round(math.log2(sum(map(abs, what)) / n))
    u = [scale * b * k * t / math.cosh(t * a) ** 2 for a, b in zip(what, g, strict=True)]
    along = sum(a * b for a, b in zip(u, what, strict=True)) / (n - 1)
    return [(a - sum(u) / n - b * along) / std for a, b in zip(u, what, strict=True)]


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ("sign", lambda w, g: [window(a) * b for a, b in zip(w, g, strict=True)]),
        ("bwn", bwn_full),
        ("bwn(grad='full')", bwn_full),
        ("bwn(grad='paper')", bwn_paper),
        ("bwn(grad='clip_ste')", lambda w, g: [window(a) * b for a, b in zip(w, g, strict=True)]),
        ("binary_connect", lambda w, g: g),
        ("binary_connect(stochastic=True)", lambda w, g: g),
        ("dorefa", lambda w, g: g),
        ("xnor", bwn_paper),
        ("xnor(grad='full')", bwn_full),
        ("xnor(grad='clip_ste')", lambda w, g: [window(a) * b for a, b in zip(w, g, strict=True)]),
        (
            "bireal",
            lambda w, g: [
                sum(map(abs, w)) / len(w) * window(a) * b for a, b in zip(w, g, strict=True)
            ],
        ),
        (
            "bireal(grad='clip_ste')",
            lambda w, g: [window(a) * b for a, b in zip(w, g, strict=True)],
        ),
        ("reactnet", lambda w, g: [window(a) * b for a, b in zip(w, g, strict=True)]),
        ("twn", lambda w, g: g),
        ("bitnet158", lambda w, g: g),
        ("bitnet158(activation_bits=32)", lambda w, g: g),
    ],
)
def test_gradient_is_the_formula(spec, rule):
    """Autograd in training and in evaluation mode gives the stated rule, at w = 0 and at |w| = 1
    too.
    """
    for training in (True, False):
        got = gradient(parametrization(spec).train(training))
        torch.testing.assert_close(got, channel_by_channel(rule), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("epoch", "t", "k"), [(0, 1e-3, 1e3), (4, 0.1, 10.0), (6, 1.0, 1.0), (7, 10**0.5, 1.0)]
)
def test_irnet_gradient_is_the_formula_at_every_stage(epoch, t, k):
    """EDE, then the derivative of the standardisation.

    The first channel's 0.0 is not its mean, 1.0 is no edge of anything.
    """
    method = parametrization("irnet")
    method.begin_epoch(epoch, 8)
    expected = channel_by_channel(lambda w, g: ede_through_standardisation(w, g, k, t))
    torch.testing.assert_close(gradient(method), expected, rtol=1e-12, atol=1e-14)


def adabin_through_mean_and_deviation(w, g, k, t):
    """u = (w - beta) / alpha, e = k t / cosh(t u)^2, B_i = alpha sign(u_i) + beta, dbeta/dw_j =
    1/n, dalpha/dw_j = u_j / n, so
    dL/dw_j = g_j e_j + (sum g - sum g e) / n + u_j (sum g sign(u) - sum g e u) / n.
    """
    n, beta = len(w), sum(w) / len(w)
    alpha = math.sqrt(sum((a - beta) ** 2 for a in w) / n)
    u = [(a - beta) / alpha for a in w]
    ge = [b * k * t / math.cosh(t * a) ** 2 for a, b in zip(u, g, strict=True)]
    to_beta = (sum(g) - sum(ge)) / n
    to_alpha = (
        sum(b * (1 if a >= 0 else -1) for a, b in zip(u, g, strict=True))
        - sum(a * b for a, b in zip(u, ge, strict=True))
    ) / n
    return [e + to_beta + a * to_alpha for a, e in zip(u, ge, strict=True)]


@pytest.mark.parametrize(
    ("epoch", "t", "k"), [(0, 1e-3, 1e3), (200, 0.1, 10.0), (399, 10 ** (1 - 4 / 400), 1.0)]
)
def test_adabin_gradient_is_the_formula_at_every_stage(epoch, t, k):
    """First, middle and last of 400 epochs: EDE on the standardised value, and the paths through
    mean and deviation.
    """
    method = parametrization("adabin")
    method.begin_epoch(epoch, 400)
    expected = channel_by_channel(lambda w, g: adabin_through_mean_and_deviation(w, g, k, t))
    torch.testing.assert_close(gradient(method), expected, rtol=1e-12, atol=1e-14)


def shared_by_hand(source, sums, p, alpha, rule):
    """(dL/dW straight through, dL/dsource through alpha) as lists, for the tile of these column
    sums: (q,).
    """
    g, a, n, q = G.flatten().tolist(), source.flatten().tolist(), W.numel(), len(sums)
    t = [1.0 if s > 0 else -1.0 for s in sums]
    size = n // p if alpha == "tile" else n
    scale = [sum(map(abs, a[i : i + size])) / size for i in range(0, n, size)]
    to_alpha = [sum(g[i] * t[i % q] for i in range(b, b + size)) for b in range(0, n, size)]
    straight = [scale[i // size] * g[i] for i in range(n)]
    if rule == "tile":
        straight = [sum(straight[j] for j in range(i % q, n, q)) / p for i in range(n)]
    return straight, [to_alpha[i // size] * sgn(a[i]) / size for i in range(n)]


def column_sums(p):
    q = W.numel() // p
    return [sum(W.flatten().tolist()[j::q]) for j in range(q)]


@pytest.mark.parametrize("p", [1, 2, 8])
@pytest.mark.parametrize("alpha", ["layer", "tile"])
@pytest.mark.parametrize("source", ["A", "W"])
@pytest.mark.parametrize("rule", ["elementwise", "tile"])
def test_tbn_gradient_is_the_formula(p, alpha, source, rule):
    """Straight through by either rule, plus the path through alpha, which ends in A or in W.

    Tiles of half a row included.
    """
    method = parametrization(
        f"tbn(p={p}, min_layer_size=0, alpha={alpha!r}, alpha_source={source!r}, gradient={rule!r})"
    )
    tensor = W if source == "W" else method.A.detach()
    straight, through = shared_by_hand(tensor, column_sums(p), p, alpha, rule)
    got = gradient(method).flatten().tolist()
    if source == "A":
        assert method.A.grad.flatten().tolist() == pytest.approx(through, abs=1e-14)
        through = [0.0] * W.numel()
    assert got == pytest.approx([a + b for a, b in zip(straight, through, strict=True)], abs=1e-14)


@pytest.mark.parametrize("p", [1, 2, 8])
@pytest.mark.parametrize("alpha", ["layer", "tile"])
@pytest.mark.parametrize("source", ["A", "W"])
def test_frozen_tile_gradient_is_alphas_alone(p, alpha, source):
    """The tile passes nothing to W; the source of alpha gets what it gets under tbn.

    The tile is that of W at conversion.
    """
    method = parametrization(
        f"frozen_tile(p={p}, min_layer_size=0, alpha={alpha!r}, alpha_source={source!r})"
    )
    later = W + 3  # W has moved since: its own tile would now be another
    tensor = later if source == "W" else method.A.detach()
    _, through = shared_by_hand(tensor, column_sums(p), p, alpha, "elementwise")
    got = gradient(method, later).flatten().tolist()
    assert (method.A.grad.flatten().tolist() if source == "A" else got) == pytest.approx(
        through, abs=1e-14
    )
    if source == "A":
        assert got == [0.0] * W.numel()


@pytest.mark.parametrize("p", [1, 2, 4])
def test_repeated_filters_gradient_is_the_formula(p):
    """For the first R rows the sum over copies of alpha g, plus the path through alpha.

    Nothing for the others.
    """
    w, g, rows, n = W.tolist(), G.tolist(), 4 // p, 16 // p
    alpha = sum(abs(w[r][c]) for r in range(rows) for c in range(4)) / n
    total = sum(g[r][c] * (1 if w[r % rows][c] > 0 else -1) for r in range(4) for c in range(4))
    expected = [[0.0] * 4 for _ in range(4)]
    for r in range(rows):
        for c in range(4):
            expected[r][c] = (
                alpha * sum(g[i][c] for i in range(r, 4, rows)) + total * sgn(w[r][c]) / n
            )
    got = gradient(parametrization(f"repeated_filters(p={p}, min_layer_size=0)"))
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("sign", [[1.0, -1.0], [1.0, 1.0]]),
        ("binary_connect", [[1.0, -1.0], [1.0, 1.0]]),
        ("bwn(grad='paper')", [[1.0, -1.0], [1.5, 1.5]]),
        ("bwn(grad='clip_ste')", [[1.0, -1.0], [1.5, 1.5]]),
        ("dorefa", [[1.25, -1.25], [1.25, 1.25]]),
        ("repeated_filters(p=2, min_layer_size=0)", [[-1.0, -1.0], [-1.0, -1.0]]),
        ("frozen_tile(p=2, min_layer_size=0, alpha_source='W')", [[1.0, -1.0], [1.5, -1.5]]),
        ("xnor", [[1.0, -1.0], [1.5, 1.5]]),
        ("bireal", [[1.0, -1.0], [1.5, 1.5]]),
        ("bireal(grad='clip_ste')", [[1.0, -1.0], [1.5, 1.5]]),
        ("reactnet", [[1.0, -1.0], [1.5, 1.5]]),
        ("twn", [[0.0, -2.5], [2.5, 0.0]]),
        ("bitnet158", [[0.0, -1.25], [1.25, 0.0]]),
        (
            "adabin",
            [[0.0, -2.0], [3.0, 0.0]],
        ),  # of two weights the mean and deviation give back the weights
    ],
)
def test_forward_by_hand(spec, expected):
    """A zero is +1, but -1 where tbn's rule holds.

    Scales are means of |W| over a channel, the layer or the kept rows.
    """
    weight = torch.tensor([[0.0, -2.0], [3.0, 0.0]], dtype=torch.float64)
    assert parametrization(spec, weight).eval()(weight).tolist() == expected


def test_adabin_forward_by_hand():
    """Channel (1, 2, 3): mean 2, population variance 2/3, and 2, which is the mean, takes the upper
    value.
    """
    weight = torch.tensor([[1.0, 2.0, 3.0], [-4.0, 0.0, 4.0]], dtype=torch.float64)
    method, low, high = (
        parametrization("adabin", weight),
        2 - math.sqrt(2 / 3),
        2 + math.sqrt(2 / 3),
    )
    assert method(weight)[0].tolist() == pytest.approx([low, high, high])
    assert method(weight)[1].tolist() == pytest.approx(
        [-4 * math.sqrt(2 / 3)] + [4 * math.sqrt(2 / 3)] * 2
    )


def test_ternary_thresholds_by_hand():
    """twn: 7 is exactly 0.7 of the mean 10, so it is small, 7.25 is not, and alpha is the mean of
    the others. bitnet158: halves of gamma
    round to 0."""
    weight = torch.tensor([[7.0, -7.25, 13.0, -12.75]], dtype=torch.float64)
    assert parametrization("twn", weight)(weight).tolist() == [[0.0, -11.0, 11.0, -11.0]]
    weight = torch.tensor([[0.5, -0.51, 0.49, 2.5]], dtype=torch.float64)  # gamma = 1
    assert parametrization("bitnet158", weight)(weight).tolist() == [[0.0, -1.0, 0.0, 1.0]]
    assert parametrization("bitnet158", weight)(weight * 0).tolist() == [[0.0] * 4]
    assert parametrization("twn", weight)(weight * 0).tolist() == [[0.0] * 4]


def test_irnet_forward_by_hand():
    """Channel (1, 2, 3): What = (-1, 0, 1), the 0 gives +1.

    Mean |What| = 2/3, s = round(-0.58) = -1. Shifting and stretching is nothing.
    """
    weight = torch.tensor([[1.0, 2.0, 3.0], [-5.0, -1.0, 3.0]])
    method = (
        catalog.build("binarizers", "irnet").decide([Target("layer", weight)])[0].parametrization
    )
    assert method(weight).tolist() == [[-0.5, 0.5, 0.5]] * 2


def test_irnet_scales_are_powers_of_two():
    """2^s with an integer s in every channel, and more than one s occurs."""
    weight = torch.randn(64, 50) * torch.rand(64, 50).pow(
        torch.arange(64)[:, None]
    )  # heavier and heavier tails
    method = (
        catalog.build("binarizers", "irnet").decide([Target("layer", weight)])[0].parametrization
    )
    mantissa, exponent = torch.frexp(method.scales(weight))
    assert (mantissa == 0.5).all()
    assert len(exponent.unique()) > 1


@pytest.mark.parametrize(
    ("epoch", "epochs", "t", "k"),
    [(0, 400, 1e-3, 1e3), (200, 400, 0.1, 10.0), (399, 400, 9.772372, 1.0)],
)
@pytest.mark.parametrize("spec", ["irnet", "adabin"])
def test_ede_schedule(spec, epoch, epochs, t, k):
    """First, middle and last epoch of the paper's 400: 10^-3, 10^-1 and 10^(1 - 4/400)."""
    method = parametrization(spec)
    method.begin_epoch(epoch, epochs)
    assert (float(method.t), float(method.k)) == pytest.approx((t, k), rel=1e-6)


def test_the_task_announces_every_epoch(monkeypatch):
    """Before an epoch's first step every binary weight knows the epoch and their number.

    Other methods do nothing with it.
    """
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    binarize_(net, "irnet")
    task = ImageClassification(net, make({"binarizer": "irnet", "epochs": 4}), 3)
    monkeypatch.setattr(ImageClassification, "current_epoch", 3)
    task.on_train_epoch_start()
    assert [float(net[i].parametrizations.weight[0].t) for i in (0, 2)] == pytest.approx([1.0, 1.0])
    parametrization("sign").begin_epoch(3, 4)


def step(net, optimizer, x, y):
    for weight in weights(net):
        weight[0].begin_step()
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(x), y).backward()
    optimizer.step()


def mlp(spec):
    net = catalog.build("models", "mlp(hidden=[24])", num_classes=10, in_shape=(1, 8, 8))
    binarize_(net, spec)
    return net


def network(spec):
    if spec in MATRIX_METHODS:
        return mlp(spec)
    net = catalog.build("models", KERNEL_NETWORK, num_classes=10, in_shape=(1, 8, 8))
    binarize_(net, spec, ["conv1", "fc"])
    return net


def announce(net, epoch, epochs):
    for module in net.modules():
        if isinstance(module, WeightBinarizer | ActivationBinarizer):
            module.begin_epoch(epoch, epochs)


def weights(net):
    """The parametrization list of every binary weight: list[0] is the method, list.original the
    latent weight.
    """
    return [m.parametrizations.weight for m in net.modules() if parametrize.is_parametrized(m)]


def batch(n=64):
    digits = load_digits()
    return torch.tensor(digits.images[:n, None] / 8 - 1, dtype=torch.float32), torch.tensor(
        digits.target[:n]
    )


@pytest.mark.parametrize("spec", METHODS)
def test_state_survives_a_checkpoint(tmp_path, spec):
    """A network restored into one of another seed goes on as the saved one would have: equal steps,
    equal state.
    """
    x, y = batch()
    nets = [network(spec), network(spec)]
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in nets]
    announce(nets[0], 3, 4)
    step(nets[0], optimizers[0], x, y)
    torch.save([nets[0].state_dict(), optimizers[0].state_dict()], tmp_path / "last.ckpt")
    for part, state in zip(
        (nets[1], optimizers[1]), torch.load(tmp_path / "last.ckpt", weights_only=True), strict=True
    ):
        part.load_state_dict(state)
    for net, optimizer in zip(nets, optimizers, strict=True):
        torch.manual_seed(5)
        step(net, optimizer, x, y)
    assert all(
        torch.equal(a, b) for a, b in zip(*(net.state_dict().values() for net in nets), strict=True)
    )


@pytest.mark.parametrize(
    ("spec", "extra"),
    [
        ("sign", set()),
        ("bwn", set()),
        ("binary_connect", set()),
        ("dorefa", set()),
        ("repeated_filters(p=2)", set()),
        ("tbn(p=2)", {"0.A"}),
        ("irnet", {"0.k", "0.t"}),
        ("frozen_tile(p=2)", {"0.A", "0.tile"}),
        ("twn", set()),
        ("bitnet158", set()),
        ("xnor", set()),
        ("bireal", set()),
        ("reactnet", {"input.shift"}),
        ("dorefa(activations=True)", set()),
        ("irnet(activations=True)", {"0.k", "0.t", "input.k", "input.t"}),
        ("adabin(activations=False)", {"0.k", "0.t"}),
        ("low_rank(rank=2, min_layer_size=0)", {"0.U", "0.V", "0.u", "0.m", "0.v"}),
        ("adabin", {"0.k", "0.t", "input.alpha", "input.beta"}),
        ("snn", {"0.P", "0.memory", "0.step"}),
        ("sparks(activations=True)", {"0.X", "0.step", "0.seed", "0.level", "input.shift"}),
    ],
)
def test_state_has_what_it_needs_and_no_more(spec, extra):
    """Checkpoints of earlier runs (sign, bwn, tbn) still fit.

    Schedules, draws, codebooks and frozen tiles are in the state.
    """
    layer = nn.Sequential(nn.Conv2d(2, 2, 3))
    binarize_(layer, spec)
    names = [
        k.removeprefix("0.parametrizations.weight.").replace("0.input_binarizer", "input")
        for k in layer.state_dict()
    ]
    assert sorted(names) == sorted({"0.bias", "original", *extra})


def latents(net):
    return [weight.original for weight in weights(net)]


def test_binary_connect_clips_after_every_update():
    """Steps large enough to leave [-1, 1] give, at every step, the weights of a loop that clips
    after its optimizer.
    """
    x, y = batch()
    net = mlp("binary_connect")
    plain = copy.deepcopy(net)
    ours, theirs = (
        torch.optim.SGD(n.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-2)
        for n in (net, plain)
    )
    outside = 0
    for _ in range(20):
        step(net, ours, x, y)
        outside += sum(int((w.abs() > 1).sum()) for w in latents(net))
        step(plain, theirs, x, y)
        with torch.no_grad():
            for mine, w in zip(latents(net), latents(plain), strict=True):
                assert torch.equal(mine.clamp(-1, 1), w.clamp_(-1, 1))
    assert outside > 0
    net(x)
    assert all(torch.equal(a, b) for a, b in zip(latents(net), latents(plain), strict=True))


def test_binary_connect_clips_in_training_only():
    """Evaluation reads signs and changes nothing.

    A tensor that is no latent weight of ours is never written to.
    """
    method, w = parametrization("binary_connect"), W.clone()
    method.eval()(w)
    assert torch.equal(w, W)
    computed = W.clone().requires_grad_() * 2
    method.train()(computed)
    assert torch.equal(computed, W * 2)
    method.train()(w)
    assert torch.equal(w, W.clamp(-1, 1))


def test_binary_connect_clipping_leaves_graphs_valid():
    """A penalty on the latent weight made before the forward, and a layer used twice, still run
    backward.
    """
    net = nn.Sequential(nn.Linear(4, 4, bias=False))
    binarize_(net, "binary_connect")
    weight = latents(net)[0]
    weight.data.mul_(10)
    penalty = weight.square().sum()
    (net(net(torch.ones(1, 4))).sum() + penalty).backward()
    assert weight.grad.isfinite().all()
    assert weight.abs().max() == 1


def test_stochastic_binary_connect_draws_with_the_stated_probability():
    """P(+1) = clip((w + 1) / 2, 0, 1) in training: exact at the ends, within 4 standard errors
    inside; signs in evaluation.
    """
    values, n = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.8, 1.0, 1.5]), 20_000
    method = parametrization("binary_connect(stochastic=True)").train()
    drawn = method(values[:, None].repeat(1, n))
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    share, expected = (
        (drawn > 0).double().mean(1),
        torch.tensor([0, 0, 0.25, 0.5, 0.9, 1, 1], dtype=torch.float64),
    )
    assert ((share - expected).abs() <= 4 * (expected * (1 - expected) / n).sqrt()).all()
    assert (
        method.eval()(values).tolist() == method.signs(values).tolist() == [-1, -1, -1, 1, 1, 1, 1]
    )
    assert method.train()(torch.zeros(1000)).tolist() != method(torch.zeros(1000)).tolist()


def test_frozen_tile_starts_as_tbn_and_keeps_its_tile():
    """Same seed: the same network as tbn's before the first step.

    After steps with weight decay: the same tile, other alphas.
    """
    x, y = batch()
    nets = []
    for spec in ("tbn(p=2, min_layer_size=0)", "frozen_tile(p=2, min_layer_size=0)"):
        torch.manual_seed(3)
        nets.append(mlp(spec))
    chains = weights(nets[1])
    assert all(torch.equal(a(), b()) for a, b in zip(weights(nets[0]), chains, strict=True))
    before = [(c[0].signs(c.original), c[0].scales(c.original).detach().clone()) for c in chains]
    optimizer = torch.optim.Adam(nets[1].parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(10):
        step(nets[1], optimizer, x, y)
    for chain, (signs, scales) in zip(chains, before, strict=True):
        assert torch.equal(chain[0].signs(chain.original), signs)
        assert not torch.isclose(chain[0].scales(chain.original), scales, rtol=1e-3).any()


@pytest.mark.parametrize(("eps", "tolerance"), [(1e-16, 1e-9), (1e-5, 1e-3)])
@pytest.mark.parametrize("alpha", ["layer", "tile"])
@pytest.mark.parametrize("p", [2, 4])
def test_tbn_then_normalisation_is_repeated_filters(alpha, p, eps, tolerance):
    """Where p divides C_out, batch normalisation removes tbn's alphas: one function (value and
    input gradient) with repeated filters,
    up to what its eps adds to the variance."""
    torch.manual_seed(0)
    nets = [
        nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, eps=eps)).double()
        for _ in range(2)
    ]
    binarize_(nets[0], f"tbn(p={p}, alpha={alpha!r}, min_layer_size=0)")
    binarize_(nets[1], f"repeated_filters(p={p}, min_layer_size=0)")
    (tiled,), (repeated,) = weights(nets[0]), weights(nets[1])
    repeated.original.data[: 8 // p] = 0.7 * tiled[0].signs(tiled.original.detach()).reshape(
        8 // p, 3, 3, 3
    )
    x, found = torch.randn(4, 3, 6, 6, dtype=torch.float64), []
    for net in nets:
        inputs = x.clone().requires_grad_()
        out = net.train()(inputs)
        found.append((out, torch.autograd.grad(out.pow(3).sum(), inputs)[0]))
    torch.testing.assert_close(*found, rtol=tolerance, atol=tolerance)
    assert not torch.allclose(nets[0][0](x), nets[1][0](x))


def fits(net, x, y):
    """Whether more than 99 % of the samples get their class."""
    return (net(x).argmax(1) == y).double().mean() > 0.99


@pytest.mark.parametrize("spec", MATRIX_METHODS)
def test_learns_a_small_batch(spec):
    """Each method fits 64 real digits by the signs that are stored.

    Normalised by the batch: running statistics are those of drawn weights.
    """
    x, y = batch()
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 128),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Linear(128, 10),
        nn.BatchNorm1d(10),
    )
    # where nothing but scales is learned the last layer must be; one scale and p = 2 would give
    # classes the same weights;
    # of rank 4 ten classes are hard to learn
    spec = spec.replace(
        "filters(p=2, min_layer_size=0", "filters(p=2, min_layer_size=2000"
    ).replace("rank=4", "rank=8")
    binarize_(net, spec, ["4"] if "frozen" in spec else [])
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    for epoch in range(10):
        advance_(net, epoch, 10)
        for _ in range(30):
            begin_step_(net)
            step(net, optimizer, x, y)
        for weight in weights(net):
            weight.eval()
        if fits(net, x, y):
            return
        net.train()
    pytest.fail("ten epochs were not enough")


@pytest.mark.parametrize("spec", KERNEL_METHODS)
def test_kernel_methods_learn_a_small_batch(spec):
    """Each fits 64 real digits by its own parameters alone: stem, classifier and normalisation stay
    as they were drawn.
    """
    x, y = batch()
    net = catalog.build(
        "models", KERNEL_NETWORK.replace("width=4", "width=8"), num_classes=10, in_shape=(1, 8, 8)
    )
    binarize_(net, spec.replace("tau=3", "tau=6"), ["conv1", "fc"])
    own = [
        p for n, p in net.named_parameters() if "parametrizations" in n or "input_binarizer" in n
    ]
    optimizer = torch.optim.Adam(own, lr=0.03)
    for epoch in range(10):
        announce(net, epoch, 10)
        for _ in range(20):
            step(net, optimizer, x, y)
        for module in net.modules():  # normalised by the batch, methods as in evaluation
            if isinstance(module, WeightBinarizer):
                module.eval()
        if fits(net, x, y):
            return
        net.train()
    pytest.fail("ten epochs were not enough")


@pytest.mark.parametrize("rule", contracts.RULES, ids=lambda rule: rule.check.__name__)
@pytest.mark.parametrize("spec", METHODS)
def test_contract(spec, rule):
    """What `tbn-bench check` asks of a method from outside, every method here does.

    Packed bytes are cost.stored_bytes. The packed network, and the one read from its file, give the
    trained network's outputs.
    """
    rule.check(spec)


def test_sizes_by_hand():
    """A 6 x 8 matrix: its bits, and 32 for every scale or offset, 8 for a power of two.

    48 ternary values are 10 bytes.
    """
    sizes = {
        "binary_connect": 48,
        "dorefa": 48 + 32,
        "irnet": 48 + 6 * 8,
        "repeated_filters(p=3, min_layer_size=0)": 16 + 32,
        "frozen_tile(p=3, min_layer_size=0)": 16 + 3 * 32,
        "repeated_filters(p=3)": 48 + 32,
        "xnor": 48 + 6 * 32,
        "bireal": 48 + 6 * 32,
        "reactnet": 48 + 6 * 32,
        "adabin": 48 + 6 * 64,
        "twn": 80 + 32,
        "bitnet158": 80 + 32,
        "snn": 48 + 6 * 32,
        "sparks": 48 + 6 * 32,
        "irnet(activations=True)": 48 + 6 * 8,
    }
    for spec, bits in sizes.items():
        assert binarize_(nn.Linear(8, 6), spec).stored_bits == bits, spec
    for spec in ("snn(tau=4)", "sparks(tau=4)"):  # 15 kernels of 4 bits, 16 entries of 9, 5 scales
        assert binarize_(nn.Conv2d(3, 5, 3), spec).stored_bits == 15 * 4 + 16 * 9 + 5 * 32


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "repeated_filters(p=4, min_layer_size=0)",
            r"got p=4 for 6 filters \(layer a\).*\n.*p=4 for 10 filters \(layer b\); use one of 1, 2, 5",
        ),
        ("repeated_filters(p=0)", "p must be a positive integer"),
        ("repeated_filters(p=2, min_layer_size=-1)", "min_layer_size counts weights"),
        ("repeated_filters", r"write repeated_filters\(p=...\)"),
        ("frozen_tile(p=7, min_layer_size=0)", "layer a.*use one of"),
        ("frozen_tile", r"frozen_tile needs exactly one of.*write e.g. frozen_tile\(p=4\)"),
        ("bwn(grad='ste')", "grad must be one of 'full', 'paper', 'clip_ste'"),
        ("binary_connect(stochastic=1)", "stochastic must be True or False"),
        ("irnet(t_min=0)", "t_min must be a positive number"),
        ("irnet(t_min=1.0, t_max=0.1)", "t grows from t_min to t_max"),
        ("irnet", r"layer b \(10, 6\) has a channel whose weights are all equal"),
        ("adabin", r"standard deviation of each output channel, which is 0 in b; keep"),
        ("adabin(form='code')", "form must be 'paper' or 'released', got 'code'"),
        ("xnor(grad='ste')", "xnor: grad must be one of 'full', 'paper', 'clip_ste'"),
        ("bireal(grad='paper')", "bireal: grad must be 'magnitude' or 'clip_ste'"),
        ("reactnet(step=3)", "step must be 1 .binary activations. or 2"),
        ("bitnet158(activation_bits=4)", "activation_bits must be 8 or 32"),
        ("snn(tau=9)", "snn: tau.*from 1 to 8, got 9"),
        ("snn(tau=0)", "snn: tau.*from 1 to 8, got 0"),
        ("snn(every=0)", "every counts steps, a positive integer"),
        ("sparks(tau=2.0)", "sparks: tau.*from 1 to 8, got 2.0"),
        ("sparks(noise=-1)", "noise must be at least 0"),
        ("sparks(temperature=0)", "temperature positive"),
    ],
)
def test_what_cannot_be_converted_is_refused(spec, message):
    """Every refusal says which option or layer, and what to write instead.

    A layer of one weight per filter has no deviation.
    """
    layers = {"a": torch.randn(6, 8), "b": torch.cat([torch.randn(9, 6), torch.full((1, 6), 0.3)])}
    with pytest.raises(ValueError, match=message):
        catalog.build("binarizers", spec).decide(
            [Target(name, weight) for name, weight in layers.items()]
        )


@pytest.mark.parametrize("spec", ["irnet", "adabin"])
def test_rounding_is_no_deviation(spec):
    """Seven times 0.1 has a standard deviation of 7e-9 in float32, and still nothing to
    standardise.
    """
    weight = torch.full((1, 7), 0.1)
    assert weight.std() > 0
    with pytest.raises(ValueError, match="standard deviation of each output channel"):
        catalog.build("binarizers", spec).decide([Target("a", weight)])


@pytest.mark.parametrize("spec", METHODS)
def test_plans_on_the_meta_device(spec):
    """A sweep checks its configs without making weights."""
    with torch.device("meta"):
        models = [
            catalog.build("models", m, num_classes=10, in_shape=(1, 8, 8))
            for m in ("mlp(hidden=[24])", "resnet_cifar(depth=8)")
        ]
        plans = [binarize_(model, spec) for model in models]
    assert all(row.binarized for plan in plans for row in plan.rows)


@pytest.mark.parametrize("spec", ["sign", "bwn(grad='clip_ste')", "bireal(grad='clip_ste')"])
def test_the_window_is_closed_and_torchs_is_open(spec):
    """At exactly |w| = 1 the gradient passes.

    Torch.clamp, as XNOR-Net's release, stops it there.
    """
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -1.0, 1.0001, 0.5]]))
    binarize_(nn.Sequential(layer), spec)
    layer.weight.sum().backward()
    found = layer.parametrizations.weight.original.grad != 0
    assert found.tolist() == [[True, True, False, True]]
    w = torch.tensor([1.0, -1.0, 0.5], requires_grad=True)
    w.clamp(-1, 1).sum().backward()
    assert w.grad.tolist() == [0, 0, 1]
