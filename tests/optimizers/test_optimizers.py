"""The shelf of optimizers: what each does with which parameter, by hand, and that a stopped run
resumes bit by bit.
"""

import math

import pytest
import torch
from torch import nn

from tbn_bench import catalog
from tbn_bench.config import make
from tbn_bench.convert.binarize import binarize_
from tbn_bench.experiment import build
from tbn_bench.optimizers._base import optimizer_of, sort
from tbn_bench.optimizers.muon import orthogonal_factor, orthogonal_factor_of_blocks, period
from tbn_bench.tasks._base import learning_rate_factor

ENTRIES = ["sgd", "adam", "adamw", "adadelta", "muon", "from_timm(name='lamb')"]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 10))


def tiled(keep=("3",)) -> nn.Sequential:
    model = network()
    binarize_(model, "tbn(p=2, min_layer_size=0)", keep)
    return model


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    torch.manual_seed(1)
    model(torch.randn(4, 3, 8, 8)).square().mean().backward()
    optimizer.step()


def test_every_entry_is_listed():
    assert {catalog.parse(entry)[0] for entry in ENTRIES} == set(catalog.names("optimizers"))


def test_parameters_are_sorted_by_what_they_are_for():
    """A tiled convolution, batch norm, and a float classifier."""
    found = sort(tiled())
    assert list(found.latents) == ["0.parametrizations.weight.original"]
    assert list(found.scales) == ["0.parametrizations.weight.0.A"]
    assert list(found.head) == ["3.weight"]
    assert found.matrices == {}
    assert list(found.vectors) == ["0.bias", "1.weight", "1.bias", "3.bias"]


def test_a_binarized_classifier_is_a_latent_and_no_head():
    found = sort(tiled(keep=()))
    assert len(found.latents) == 2
    assert found.head == {}


def test_factors_of_low_rank_are_latents_and_its_weight_is_not_trained():
    model = network()
    binarize_(model, "low_rank(rank=2, min_layer_size=0)", ["3"])
    found = sort(model)
    assert [name[-1] for name in found.latents] == ["U", "V"]
    assert [name[-1] for name in found.scales] == ["u", "m", "v"]


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_trains_a_tiled_network(entry):
    """One step moves the latents and the head, and leaves finite numbers."""
    model = tiled()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_step(model, optimizer_of(model, make({"optimizer": entry, "lr": 0.01})))
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"0.parametrizations.weight.original", "3.weight"} <= moved
    assert all(value.isfinite().all() for value in after.values())


@pytest.mark.parametrize(
    ("entry", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_bare_names_are_torchs_optimizers_over_all_parameters(entry, kind):
    """As before the shelf existed: one group, so that old checkpoints still fit."""
    model = tiled()
    optimizer = optimizer_of(model, make({"optimizer": entry, "lr": 0.01}))
    assert type(optimizer) is kind
    assert len(optimizer.param_groups) == 1
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [
        id(p) for p in model.parameters()
    ]
    assert optimizer.param_groups[0]["weight_decay"] == 1e-4


@pytest.mark.parametrize("entry", ["sgd(latent_weight_decay=0.0)", "from_timm(name='adamw')"])
def test_latents_can_have_a_decay_of_their_own(entry):
    optimizer = optimizer_of(tiled(), make({"optimizer": entry, "weight_decay": 0.1}))
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    model_latents, others = optimizer.param_groups[0], optimizer.param_groups[1]
    assert decays[id(model_latents["params"][0])] == 0
    assert decays[id(others["params"][0])] == 0.1


def test_adamw_can_leave_vectors_undecayed():
    """Biases and norms; every parameter is in one group."""
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    config = make({"optimizer": "adamw(decay_vectors=False)", "weight_decay": 0.1})
    decayed, others = optimizer_of(model, config).param_groups
    assert [p.dim() for p in decayed["params"]] == [2, 2]
    assert [p.dim() for p in others["params"]] == [1, 1, 1, 1]
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


def test_orthogonal_factor_has_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((8, 40), (40, 8)):
        values = torch.linalg.svdvals(orthogonal_factor(torch.randn(shape), steps=5).float())
        assert values.min() > 0.5
        assert values.max() < 1.4


@pytest.mark.parametrize("shape", [(3, 20), (20, 3), (7, 7)])
@pytest.mark.parametrize("copies", [1, 2, 4])
def test_the_factor_of_equal_blocks_needs_one_of_them(shape, copies):
    torch.manual_seed(0)
    block = torch.randn(shape, dtype=torch.float64)
    whole = block.repeat(copies, 1)
    assert period(whole) == shape[0]
    expected = orthogonal_factor(whole, dtype=torch.float64)
    found = orthogonal_factor_of_blocks(whole, dtype=torch.float64)
    # 1e-7 is added to the norm, which is sqrt(copies) times larger for the whole
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_rows_that_only_begin_alike_are_not_copies():
    matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [3.0, 5.0]])
    assert period(matrix) == 4


def test_orthogonal_factor_keeps_the_singular_vectors():
    """Of a diagonal matrix: a diagonal matrix, whose signs are those of the entries."""
    factor = orthogonal_factor(torch.diag(torch.tensor([3.0, -2.0, 1.0])), steps=5)
    torch.testing.assert_close(
        factor - torch.diag(factor.diag()), torch.zeros(3, 3), atol=1e-2, rtol=0
    )
    assert factor.diag().sign().tolist() == [1, -1, 1]


@pytest.mark.parametrize(("precision", "rounded"), [("32", False), ("bf16", True)])
def test_muon_steps_in_the_precision_of_the_run(precision, rounded):
    """A step of float32 has digits that bfloat16 does not hold.

    A bfloat16 step is rounded to it, times the rate 0.5.
    """
    model = tiled()
    config = make({"optimizer": "muon(rescale=False)", "lr": 0.5, "precision": precision})
    weight = model[0].parametrizations.weight.original
    torch.nn.init.zeros_(weight)
    train_step(model, optimizer_of(model, config))
    step = weight.detach() / 0.5
    assert torch.equal(step.bfloat16().float(), step) == rounded


def test_muon_fixes_the_size_of_a_filter_bank_before_its_step():
    """|W| = sqrt(8) before the step, and a step of rate 0.1 moves it by about 0.1 times as much."""
    model = tiled()
    weight = model[0].parametrizations.weight.original
    start = weight.detach().clone()
    train_step(model, optimizer_of(model, make({"optimizer": "muon", "lr": 0.1})))
    scaled = start * math.sqrt(8) / start.norm()
    moved = (weight.detach() - scaled).norm()
    assert 0.05 * math.sqrt(8) < moved < 0.13 * math.sqrt(8)


def test_muon_trains_the_head_at_a_rate_for_a_summed_loss():
    """By hand: the first Nesterov step is (1 + momentum) rate x batch x gradient, after the decay."""
    model, config = (
        tiled(),
        make({"optimizer": "muon", "lr": 0.1, "batch_size": 4, "weight_decay": 0.01}),
    )
    start = model[3].weight.detach().clone()
    train_step(model, optimizer_of(model, config))
    expected = 0.99 * start - 0.67 * 4 * 1.85 * model[3].weight.grad
    torch.testing.assert_close(model[3].weight.detach(), expected)


def test_muon_freezes_scales_unless_they_have_a_rate():
    model = tiled()
    optimizer_of(model, make({"optimizer": "muon"}))
    assert not model[0].parametrizations.weight[0].A.requires_grad
    other = tiled()
    A = other[0].parametrizations.weight[0].A
    start = A.detach().clone()
    train_step(other, optimizer_of(other, make({"optimizer": "muon(scale_lr=0.1)"})))
    size = start.square().mean().sqrt()
    torch.testing.assert_close((A.detach() - start).abs().max(), 0.1 * size, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("muon(momentum=1.0)", "momentum must be a number from 0 to below 1, got 1.0"),
        ("muon(head_lr=-1)", "head_lr must be a number from 0"),
        ("sgd(nesterov=True, momentum=0.0)", "nesterov=True needs a momentum above 0"),
        ("adam(betas=[0.9])", "betas must be two numbers"),
        ("from_timm(name='lam')", "did you mean 'lamb'"),
        ("from_timm(name='adahessian')", "second derivatives"),
        ("from_timm(name='lamb', kwargs={'nonsense': 1})", "refuses"),
        ("muon(mometum=0.5)", "did you mean 'momentum'"),
    ],
)
def test_refusals_say_what_was_expected(entry, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        optimizer_of(tiled(), make({"optimizer": entry}))


def test_muon_names_the_layers_where_there_is_no_matrix():
    with pytest.raises(ValueError, match=r"muon needs a Linear or convolution weight.*0\.weight"):
        optimizer_of(nn.Sequential(nn.Linear(4, 2)), make({"optimizer": "muon"}))


def test_an_unknown_optimizer_is_refused_before_a_network_is_trained():
    """Not by the config: a record of a plugin's optimizer is read without the plugin."""
    with pytest.raises(ValueError, match="did you mean 'muon'"):
        build.check(make({"optimizer": "moun"}))


@pytest.mark.parametrize("schedule", ["cosine", "cosine_to_min", "linear", "constant"])
def test_a_schedule_per_step_meets_the_one_per_epoch_at_each_epoch(schedule):
    config = make({"schedule": schedule, "epochs": 5})
    for epoch in range(5):
        by_step = learning_rate_factor(config, epoch * 7, per_epoch=7)
        assert by_step == pytest.approx(learning_rate_factor(config, epoch))


def test_a_linear_schedule_per_step_ends_at_zero_and_warms_up_in_steps():
    config = make({"schedule": "linear", "epochs": 4, "warmup_epochs": 1})
    factors = [learning_rate_factor(config, step, per_epoch=3) for step in range(13)]
    assert factors[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert factors[-2:] == pytest.approx([1 / 9, 0.0])


def test_a_cosine_to_min_ends_at_min_lr_halfway_between_both():
    """cosine stays on its way to 0 until min_lr cuts it off."""
    config = make({"schedule": "cosine_to_min", "epochs": 9, "lr": 0.1, "min_lr": 0.02})
    factors = [learning_rate_factor(config, epoch) for epoch in (0, 4.5, 9)]
    assert factors == pytest.approx([1.0, 0.6, 0.2])
    cut = config.model_copy(update={"schedule": "cosine"})
    assert learning_rate_factor(cut, 4.5) == pytest.approx(0.5)


def test_drops_per_step_come_at_the_same_epochs():
    config = make({"schedule": "step", "epochs": 6, "step_epochs": 2, "step_gamma": 0.5})
    factors = [learning_rate_factor(config, step, per_epoch=10) for step in (0, 19, 20, 39, 40)]
    assert factors == [1.0, 1.0, 0.5, 0.5, 0.25]
