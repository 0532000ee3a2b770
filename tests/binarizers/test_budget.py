"""Guards budgets of bits: the choice is the best there is, and is tbn with a list of p."""

import itertools
import json
import math
import random

import pytest
import torch
from torch import nn

from tbn_bench import binarize_
from tbn_bench.binarizers._budget import Layer, allocate, usual_damage

BITS = (0.2, 0.35, 0.5, 0.8, 1.5)


def network():
    return nn.Sequential(nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 128), nn.Linear(128, 256))


def random_layers(seed, n=4):
    draw = random.Random(seed)
    layers = []
    for i in range(n):
        damage = {p: draw.random() for p in (1, 2, 4, 8)}
        layers.append(Layer(f"l{i}", draw.choice([4096, 8192, 32_768]), damage))
    return layers


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_the_best_of_all(seed, bits):
    """Compared with all 256 choices, of damages that do not even grow with p."""
    layers = random_layers(seed)
    budget = math.floor(bits * sum(layer.numel for layer in layers))

    def stored(choice):
        return sum(layer.stored(p, "tile") for layer, p in zip(layers, choice, strict=True))

    def damage(choice):
        return sum(layer.damage[p] for layer, p in zip(layers, choice, strict=True))

    every = itertools.product((1, 2, 4, 8), repeat=len(layers))
    best = min(damage(choice) for choice in every if stored(choice) <= budget)
    chosen = allocate(layers, bits)
    assert stored(chosen) <= budget
    assert damage(chosen) == pytest.approx(best)


def test_the_rule_gives_large_layers_the_larger_p():
    """Of equal rows: p grows with the size, and every p divides the rows."""
    sizes = (1_000, 10_000, 100_000, 1_000_000)
    layers = [Layer(str(n), 40 * n, usual_damage(40, 40 * n)) for n in sizes]
    chosen = allocate(layers, 0.1)
    assert chosen == sorted(chosen)
    assert chosen[0] < chosen[-1]
    assert all(40 % p == 0 for p in chosen)


def test_the_damage_of_the_rule_is_that_of_random_weights():
    """The ratio of noise to signal of a common sign of p normal weights, by a draw of a million."""
    for p in (1, 4, 8):
        weights = torch.randn(p, 1_000_000 // p, generator=torch.Generator().manual_seed(0))
        sign = weights.sum(0).sign().expand_as(weights)
        cosine = (weights * sign).mean() / weights.square().mean().sqrt()
        ratio = 1 / cosine.item() ** 2 - 1
        expected = usual_damage(p, p)[p] + math.pi / 2 - 1
        assert ratio == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("bits", BITS)
def test_it_is_tbn_with_a_list(bits):
    """The same plan, row by row, within the budget; scales included."""
    budget = binarize_(network(), f"tbn_budget(bits={bits}, copies='hadamard')")
    chosen = [row.p for row in budget.rows]
    listed = binarize_(network(), f"tbn(per_layer={chosen}, copies='hadamard')")
    for own, other in zip(budget.rows, listed.rows, strict=True):
        assert (own.p, own.copies, own.stored_bits) == (other.p, other.copies, other.stored_bits)
    assert budget.stored_bits <= bits * budget.weights
    assert f"p = {chosen[0]} of {bits:g} bits, noise +" in budget.rows[0].reason


def test_kept_layers_do_not_count():
    plan = binarize_(network(), "tbn_budget(bits=0.5)", keep=["0"])
    tiled = [row for row in plan.rows if row.binarized]
    assert len(tiled) == 2
    assert sum(row.stored_bits for row in tiled) <= 0.5 * sum(row.numel for row in tiled)


def test_a_budget_that_cannot_be_met_names_the_nearest():
    """With those bits it can be met."""
    with pytest.raises(ValueError, match=r"0\.weight, 2\.weight, 3\.weight take at least") as error:
        binarize_(network(), "tbn_budget(bits=0.01)")
    least = str(error.value).rpartition("bits=")[2].split()[0]
    assert binarize_(network(), f"tbn_budget(bits={least})").stored_bits > 0


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("tbn_budget", "needs bits"),
        ("tbn_budget(bits=0)", "must be above 0, got 0"),
        ("tbn_budget(bits=1, most_p=0)", "most_p must be a positive integer, got 0"),
        ("tbn_budget(bits=1, alpha='x')", "tbn_budget: alpha must be one of"),
        ("tbn_budget(bits=1, path='missing.json')", "write it with tbn-bench allocate"),
    ],
)
def test_wrong_options_are_named(spec, said):
    with pytest.raises(ValueError, match=said):
        binarize_(network(), spec)


def losses(tmp_path, names=("0.weight", "2.weight", "3.weight")):
    """A file of measured losses: the last layer suffers most."""
    rows = []
    for i, name in enumerate(names):
        loss = {"1": 1.0, "4": 1.0 + 0.1 * i**4, "8": 1.1 + 0.1 * i**4}
        rows.append({"name": name, "numel": 1, "loss": loss})
    path = tmp_path / "losses.json"
    path.write_text(json.dumps({"loss": 1.0, "layers": rows}))
    return path


def test_measured_losses_decide(tmp_path):
    """The largest layer keeps p = 1, against the rule; its damage is the growth of the loss."""
    plan = binarize_(network(), f"tbn_budget(bits=0.9, path={str(losses(tmp_path))!r})")
    assert [row.p for row in plan.rows] == [4, 4, 1]
    assert plan.rows[1].reason == "p = 4 of 0.9 bits, loss +0.1"


def test_losses_of_another_network_are_refused(tmp_path):
    path = losses(tmp_path, names=("0.weight",))
    with pytest.raises(ValueError, match=r"has no losses of 2\.weight"):
        binarize_(network(), f"tbn_budget(bits=0.9, path={str(path)!r})")
    path.write_text("[]")
    with pytest.raises(ValueError, match="has no measured losses"):
        binarize_(network(), f"tbn_budget(bits=0.9, path={str(path)!r})")
