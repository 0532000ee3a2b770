"""Sub-bit kernels, snn and sparks: nearest entries, both gradients by hand in float64, refinement,
selection, and what is stored.
"""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from tbn_bench import catalog
from tbn_bench.binarizers._base import Target
from tbn_bench.binarizers.snn import all_kernels, numbers_of
from tbn_bench.binarizers.sparks import _Harden, sinkhorn
from tbn_bench.convert.binarize import binarize_

SHAPE = (2, 3, 3, 3)
NETWORK = "resnet_cifar(depth=8, width=8, activation='hardtanh', shortcuts='conv')"


def parametrization(spec, shape=SHAPE):
    return (
        catalog.build("binarizers", spec)
        .decide([Target("layer", torch.empty(shape))])[0]
        .parametrization.double()
    )


def latent(shape=SHAPE):
    """Zeros, both edges of the window, values inside and outside."""
    weight = torch.randn(shape, dtype=torch.float64)
    weight.view(-1)[:4] = torch.tensor([0.0, 1.0, -1.0, 1.5], dtype=torch.float64)
    return weight


def nearest(kernel, book):
    """Index of the first entry of the smallest squared distance, of plain numbers."""
    distances = [sum((a - b) ** 2 for a, b in zip(kernel, entry, strict=True)) for entry in book]
    return min(range(len(book)), key=lambda i: round(distances[i], 12))


def chosen(weight, book):
    return [nearest(kernel, book.tolist()) for kernel in weight.reshape(-1, 9).tolist()]


def gradients_by_hand(weight, g, book):
    """(dL/dW, dL/dentries) where dL/dB = g: alpha g inside the window.

    Alpha g summed over the kernels that chose the entry.
    """
    to_entries = [[0.0] * 9 for _ in book]
    scaled, entries = [], chosen(weight, book)
    for c, (channel, grads) in enumerate(zip(weight.tolist(), g.tolist(), strict=True)):
        kernels, parts = (
            [[v for row in kernel for v in row] for kernel in side] for side in (channel, grads)
        )
        alpha = sum(abs(v) for kernel in kernels for v in kernel) / (9 * len(kernels))
        for i, (kernel, part) in enumerate(zip(kernels, parts, strict=True)):
            scaled.append([alpha * b * (abs(a) <= 1) for a, b in zip(kernel, part, strict=True)])
            entry = entries[c * len(kernels) + i]
            to_entries[entry] = [
                a + alpha * b for a, b in zip(to_entries[entry], part, strict=True)
            ]
    return torch.tensor(scaled, dtype=torch.float64).reshape(weight.shape), torch.tensor(
        to_entries, dtype=torch.float64
    )


def test_numbers_name_the_512_kernels():
    """All are different, bit j is sign j, and the number comes back."""
    every = all_kernels(torch.arange(512))
    assert len(every.unique(dim=0)) == 512
    assert every[0b000000101].tolist() == [1, -1, 1, -1, -1, -1, -1, -1, -1]
    assert torch.equal(numbers_of(every), torch.arange(512))


@pytest.mark.parametrize(
    "spec", ["snn(tau=1)", "snn(tau=4)", "snn(tau=8)", "sparks(tau=2)", "sparks(tau=4, noise=0.0)"]
)
def test_forward_is_alpha_times_the_nearest_entry(spec):
    """Of equally near entries the first: a kernel of zeros takes entry 0.

    alpha is mean |W| of the output channel.
    """
    method, weight = parametrization(spec).eval(), latent()
    weight[1, 2] = 0
    book = method.codebook()
    expected = book[chosen(weight, book)].reshape(SHAPE) * weight.abs().mean(
        (1, 2, 3), keepdim=True
    )
    assert chosen(weight, book)[-1] == 0
    torch.testing.assert_close(method(weight), expected, rtol=1e-15, atol=0)
    assert torch.equal(book.abs(), torch.ones_like(book))
    assert len(book.unique(dim=0)) == len(book)


@pytest.mark.parametrize(
    ("step", "refines"), [(0, False), (1, False), (24, False), (25, True), (26, False), (50, True)]
)
def test_snn_gradients_are_the_formula(step, refines):
    """alpha g to W inside the window.

    To P, summed over the kernels that chose the entry, in every 25th step alone.
    """
    method, weight, g = (
        parametrization("snn(tau=2)"),
        latent(),
        torch.randn(SHAPE, dtype=torch.float64),
    )
    method.step.fill_(step)
    to_weight, to_entries = gradients_by_hand(weight, g, method.codebook())
    weight.requires_grad_()
    method(weight).backward(g)
    torch.testing.assert_close(weight.grad, to_weight, rtol=1e-14, atol=0)
    torch.testing.assert_close(method.P.grad, to_entries * refines, rtol=0, atol=1e-13)


def test_snn_without_3x3_kernels_is_bwn():
    """A 1x1 layer: alpha sign(W), the clipped gradient unscaled."""
    method, weight = parametrization("snn", (2, 3, 1, 1)), latent((2, 3, 1, 1)).requires_grad_()
    expected = torch.where(weight >= 0, 1.0, -1.0) * weight.abs().mean((1, 2, 3), keepdim=True)
    g = torch.randn(2, 3, 1, 1, dtype=torch.float64)
    method(weight).backward(g)
    torch.testing.assert_close(method(weight), expected, rtol=1e-15, atol=0)
    assert torch.equal(weight.grad, g * (weight.abs() <= 1))


def test_snn_bits_are_kept_below_the_threshold():
    """|P| >= 1e-3 is its sign.

    Below it the bit is what it was when the step began, also over several steps.
    """
    method = parametrization("snn(tau=1)")
    method.P.data[0] = torch.tensor(
        [1e-3, -1e-3, 9e-4, -9e-4, 0.0, 5.0, -5.0, 9e-4, -9e-4], dtype=torch.float64
    )
    before = torch.tensor([-1.0, 1.0, -1.0, -1.0, 1.0, -1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    method.memory[0] = before
    expected = [1.0, -1.0, -1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0]
    assert method.codebook()[0].tolist() == expected
    method.begin_step()
    method.P.data[0, :2] = torch.tensor([-9e-4, 9e-4])  # has crossed zero, not the threshold
    for _ in range(2):
        assert method.codebook()[0].tolist() == expected
        method.begin_step()


def test_snn_clamps_and_counts():
    """P stays in [-3, 3] after a step begins, and what was inside is untouched."""
    method = parametrization("snn(tau=3)")
    method.P.data[:2, :2] = torch.tensor([[7.0, -9.0], [2.5, -3.0]])
    expected = method.P.detach().clamp(-3, 3)
    method.begin_step(), method.begin_step()
    assert torch.equal(method.P.detach(), expected)
    assert int(method.step) == 2


def test_snn_counts_training_steps_alone():
    """A forward pass, in training mode or in evaluation, is no step; begin_step is."""
    layer = nn.Conv2d(4, 8, 3)
    binarize_(nn.Sequential(layer), "snn(tau=4)")
    method = layer.parametrizations.weight[0]
    for mode in (True, False):
        layer.train(mode)(torch.randn(1, 4, 5, 5))
    assert int(method.step) == 0
    method.begin_step()
    assert int(method.step) == 1


@pytest.mark.parametrize("tau", [1, 3, 8])
def test_snn_duplicates_are_replaced_alike_on_every_rank(tau):
    """The first of equal entries stays, later ones become unused kernels above the threshold,
    others are untouched; no random state.
    """
    method = parametrization(f"snn(tau={tau})")
    method.P.data[1:] = method.P.data[:1]  # all are one
    method.memory[1:] = method.memory[:1]
    other, first = copy.deepcopy(method), method.codebook()[0].clone()
    method.begin_step()
    torch.randn(17)
    other.begin_step()
    assert all(
        torch.equal(a, b)
        for a, b in zip(method.state_dict().values(), other.state_dict().values(), strict=True)
    )
    assert torch.equal(method.codebook()[0], first)
    assert len(method.codebook().unique(dim=0)) == 1 << tau
    assert (method.P.detach()[1:].abs() >= 1e-3).all()
    assert torch.equal(method.memory, method.codebook())


def trained(spec, steps):
    """[(codebook bits that the optimizer changed, that begin_step changed, whether all entries
    differ)] of a layer, step by step.
    """
    digits, seen = load_digits(), []
    x, y = (
        torch.tensor(digits.images[:, None] / 8 - 1, dtype=torch.float32),
        torch.tensor(digits.target),
    )
    net = catalog.build("models", NETWORK, num_classes=10, in_shape=(1, 8, 8))
    binarize_(net, spec, ["conv1", "fc"])
    methods = [m for m in net.modules() if hasattr(m, "begin_step")]
    groups = {
        name: [p for n, p in net.named_parameters() if n.endswith(".P") == (name == "P")]
        for name in ("P", "others")
    }
    optimizer = torch.optim.SGD(
        [{"params": groups["P"], "lr": 2.0}, {"params": groups["others"]}], lr=0.1
    )
    for step in range(steps):
        before = [m.codebook() for m in methods]
        for method in methods:
            method.begin_step()
        begun = [m.codebook() for m in methods]
        optimizer.zero_grad()
        at = torch.arange(step * 64, step * 64 + 64) % len(x)
        nn.functional.cross_entropy(net(x[at]), y[at]).backward()
        optimizer.step()
        flips = [
            sum(int((a != b).sum()) for a, b in zip(*pair, strict=True))
            for pair in ((begun, [m.codebook() for m in methods]), (before, begun))
        ]
        seen.append((*flips, all(len(b.unique(dim=0)) == len(b) for b in begun)))
    return seen


@pytest.mark.parametrize("every", [25, 7])
def test_snn_refines_in_every_nth_step_alone(every):
    """60 steps on real digits: bits of the codebooks turn in the refining steps and in no other,
    and entries stay distinct.
    """
    seen = trained(f"snn(tau=4, every={every})", 60)
    turned = [i for i, (by_optimizer, _, _) in enumerate(seen, 1) if by_optimizer]
    assert turned == list(range(every, 61, every))
    assert all(i % every == 1 for i, (_, by_redraw, _) in enumerate(seen, 1) if by_redraw)
    assert any(by_redraw for _, by_redraw, _ in seen)
    assert all(distinct for _, _, distinct in seen)


def textbook_sinkhorn(scores, iterations=10):
    """Rows and columns of the square matrix normalised in turn, rows last.

    A row of score 0 for every column that stays unused.
    """
    n, m = scores.shape
    matrix = torch.cat([scores, scores.new_zeros(m - n, m)]).exp()
    for _ in range(iterations):
        matrix = matrix / matrix.sum(1, keepdim=True)
        matrix = matrix / matrix.sum(0, keepdim=True)
    return (matrix / matrix.sum(1, keepdim=True))[:n]


def test_sinkhorn_sums():
    """Positive, rows sum to 1, columns to at most 1 nearly.

    It is the textbook's of the square matrix, at any number of iterations.
    """
    scores = 2 * torch.randn(6, 30, dtype=torch.float64)
    for iterations in (1, 10, 200):
        soft = sinkhorn(scores, iterations)
        assert soft.min() > 0
        torch.testing.assert_close(
            soft.sum(1), torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-12
        )
        torch.testing.assert_close(soft, textbook_sinkhorn(scores, iterations), rtol=1e-10, atol=0)
    assert soft.sum(0).max() <= 1 + 1e-9
    torch.testing.assert_close(sinkhorn(scores), textbook_sinkhorn(scores, 10), rtol=1e-10, atol=0)
    assert sinkhorn(scores).sum(0).max() <= 1.01
    torch.testing.assert_close(
        sinkhorn(scores + 700), sinkhorn(scores + 700.5), rtol=1e-6, atol=0
    )  # no overflow


def test_sinkhorn_gradient():
    """Autograd through the iterations is the derivative, by finite differences."""
    scores = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sinkhorn, (scores,), eps=1e-6, atol=1e-7)


def test_hardening_is_the_best_selection():
    """Of all ways to give three rows different columns the one of the largest total.

    Backward is the identity.
    """
    soft = torch.rand(3, 6, dtype=torch.float64, requires_grad=True)
    hard, g, score = _Harden.apply(soft), torch.randn(3, 6, dtype=torch.float64), soft.tolist()
    best = max(
        itertools.permutations(range(6), 3),
        key=lambda columns: sum(score[i][j] for i, j in enumerate(columns)),
    )
    assert hard.nonzero().tolist() == [[i, j] for i, j in enumerate(best)]
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    hard.backward(g)
    assert torch.equal(soft.grad, g)


@pytest.mark.parametrize("step", [1, 25])
def test_sparks_gradients_are_the_formula(step):
    """In every step: alpha g to W inside the window; to X the entries' gradient, straight to the
    soft selection, then through the
    textbook's Sinkhorn."""
    method = parametrization("sparks(tau=2, noise=0.0, temperature=0.5)")
    weight, g = latent(), torch.randn(SHAPE, dtype=torch.float64)
    method.X.data.copy_(0.3 * torch.randn(4, 512))
    method.step.fill_(step)
    to_weight, to_entries = gradients_by_hand(weight, g, method.codebook())
    weight.requires_grad_()
    method(weight).backward(g)
    x = method.X.detach().clone().requires_grad_()
    every = all_kernels(torch.arange(512)).double()
    (textbook_sinkhorn(x / 0.5) * (to_entries @ every.T)).sum().backward()
    torch.testing.assert_close(method.X.grad, x.grad, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(weight.grad, to_weight, rtol=1e-14, atol=0)


def test_sparks_selects_by_its_scores():
    """With clear scores the codebook is the kernels that they name, in order, and never one twice:
    the second best score decides.
    """
    method = parametrization("sparks(tau=2, noise=0.0)")
    method.X.data.zero_()
    for row, kernel in enumerate((7, 300, 7, 511)):
        method.X.data[row, kernel] = 3 - row / 2
    method.X.data[2, 100] = 1.5
    assert numbers_of(method.codebook()).tolist() == [7, 300, 100, 511]


def test_sparks_noise_belongs_to_layer_and_step():
    """Drawn alike again in the same step, whatever the random state, otherwise in the next and in
    another layer; none in evaluation.
    """
    method, other = (parametrization("sparks(tau=4, noise=1.0)") for _ in range(2))
    method.begin_step()
    books = [method.codebook() for _ in range(2)]
    assert torch.equal(*books)
    method.begin_step()
    assert not torch.equal(method.codebook(), books[0])
    other.X.data.copy_(method.X)
    other.step.copy_(method.step)
    assert not torch.equal(method.codebook(), other.codebook())
    assert torch.equal(method.eval().codebook(), other.eval().codebook())
    assert torch.equal(method.codebook(), parametrization_without_noise(method).train().codebook())


def parametrization_without_noise(method):
    made = parametrization("sparks(tau=4, noise=0.0)")
    made.X.data.copy_(method.X)
    return made


@pytest.mark.parametrize(("epoch", "level"), [(0, 1.0), (1, 0.75), (3, 0.25)])
def test_sparks_noise_is_gumbel_and_falls(epoch, level):
    """Scores X + noise * level * Gumbel: mean 0.5772 and variance pi^2 / 6 within 5 standard
    errors.
    """
    method = parametrization("sparks(tau=4, noise=0.5)")
    method.begin_epoch(epoch, 4)
    draw, n = method._gumbel(), 16 * 512
    assert abs(float(draw.mean()) - 0.57722) <= 5 * math.pi / math.sqrt(6 * n)
    assert (
        abs(float(draw.var()) - math.pi**2 / 6) <= 5 * math.sqrt(4.4 / n) * math.pi**2 / 6
    )  # kurtosis 5.4
    method.X.data *= 100  # as large as the noise, so that its size matters
    quiet = parametrization_without_noise(method)
    quiet.X.data += 0.5 * level * draw
    assert torch.equal(method.codebook(), quiet.codebook())


@pytest.mark.parametrize(
    "spec", ["snn(tau=4)", "snn(tau=8)", "sparks(tau=4)", "sparks(tau=6, noise=0.0)"]
)
def test_autocast_chooses_what_is_stored(spec):
    """Products in bfloat16 would choose other kernels: the weight that trains under autocast is the
    stored one, bit for bit.
    """
    net = nn.Sequential(nn.Conv2d(32, 32, 3))
    binarize_(net, spec)
    method, weight = net[0].parametrizations.weight[0], net[0].parametrizations.weight.original
    stored = method.form(weight).dense(method.stored(weight))
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(net[0].weight.detach().numpy(), stored)
        net(torch.randn(1, 32, 4, 4)).float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


def test_equal_entries_between_steps_can_be_stored():
    """An optimizer may make entries equal before the next step replaces them.

    What is stored then decodes to the weight.
    """
    method, weight = parametrization("snn(tau=2)").float(), torch.randn(SHAPE)
    method.P.data[1:3] = method.P.data[:1]
    method.memory[1:3] = method.memory[:1]
    assert len(method.codebook().unique(dim=0)) == 2
    assert np.array_equal(
        method.form(weight).dense(method.stored(weight)), method(weight).detach().numpy()
    )
