"""A method that lies is refused before its first step, by name, layer and reason; others pass."""

import copy

import pytest
import torch
from torch import nn

from tbn_bench.binarizers import _contract
from tbn_bench.binarizers._base import ActivationBinarizer, Binarizer, Decision, sign
from tbn_bench.binarizers.sign import SignWeight
from tbn_bench.config import make
from tbn_bench.convert.binarize import binarize_
from tbn_bench.experiment import first_batch
from tbn_bench.experiment.random_state import random_state
from tbn_bench.tasks.image_classification import ImageClassification


class Opposite(SignWeight):
    def signs(self, weight):
        return -super().signs(weight)


class Detached(SignWeight):
    def forward(self, weight):
        return sign(weight).detach()


class Still(SignWeight):
    def forward(self, weight):
        return super().forward(weight) + 0 * weight

    def signs(self, weight):
        return torch.ones(weight.numel())


class Flat(SignWeight):
    def forward(self, weight):
        return sign(weight).detach() + 0 * weight


class Infinite(SignWeight):
    def forward(self, weight):
        return super().forward(weight) + (0 * weight).sum().sqrt()


class Halves(SignWeight):
    def signs(self, weight):
        return super().signs(weight) / 2


class Short(SignWeight):
    def signs(self, weight):
        return super().signs(weight)[1:]


class Late(ActivationBinarizer):
    """An input binarizer that lets no gradient through."""

    def forward(self, x):
        return sign(x).detach()


class Of(Binarizer):
    def __init__(self, kind, activation=None):
        self.kind = kind
        self.input = activation

    def layer(self, target):
        return Decision(self.kind(), "a test")

    def activation(self, target):
        return self.input() if self.input and target.name.startswith("2") else None


def task_of(binarizer, seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    binarize_(network, binarizer)
    return ImageClassification(network, make({"binarizer": "of_a_test"}), num_classes=4)


def check(task, optimizer=None):
    batch = (torch.randn(32, 6), torch.arange(32) % 4)
    optimizer = optimizer or torch.optim.SGD(task.model.parameters(), 0.1)
    first_batch.check(task, batch, [optimizer])


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Opposite, "signs() disagrees with forward(): 48 of 48 weights differ"),
        (Detached, "detached gradient"),
        (Still, "signs() disagrees with forward()"),
        (Flat, "weight that never changes: its gradient is 0 everywhere"),
        (Infinite, "its gradient is not finite"),
        (Halves, "signs(weight) must hold -1, 1 alone, got"),
        (Short, "signs(weight) must have shape (48,), got (47,)"),
    ],
)
def test_a_method_that_lies_is_named(kind, reason):
    """The error has the method as written, its class, the layer, and the reason."""
    with pytest.raises(first_batch.MethodError) as caught:
        check(task_of(Of(kind)))
    assert str(caught.value).startswith(f"of_a_test ({kind.__name__}) at 0.weight: {reason}")


def test_signs_of_a_constant_never_change():
    """Forward and signs agree, the gradient flows, and the weight still never changes."""

    class Constant(SignWeight):
        def forward(self, weight):
            return torch.ones_like(weight) + weight - weight.detach()

        def signs(self, weight):
            return torch.ones(weight.numel())

    assert "weight that never changes: signs" in _contract.fault(Constant(), torch.randn(4, 3))


def test_an_input_binarizer_that_detaches_is_found():
    """The layer behind it is whole; the one before it gets no gradient."""
    with pytest.raises(first_batch.MethodError, match="at 0.weight: detached gradient"):
        check(task_of(Of(SignWeight, Late)))


def test_a_weight_that_no_optimizer_has_is_found():
    """Its gradient is right and nothing moves it."""
    task = task_of(Of(SignWeight))
    optimizer = torch.optim.SGD(task.model[2].parameters(), 0.1)
    with pytest.raises(first_batch.MethodError, match="at 0.weight: weight that never changes"):
        check(task, optimizer)


@pytest.mark.parametrize("binarizer", ["tbn(p=2, min_layer_size=0)", "irnet", "binary_connect"])
def test_the_check_leaves_no_trace(binarizer):
    """Weights, buffers, gradients and random state are as before."""
    task = task_of(binarizer)
    batch = (torch.randn(32, 6), torch.arange(32) % 4)
    state = copy.deepcopy(task.model.state_dict())
    before = random_state()["torch"]
    first_batch.check(task, batch, [torch.optim.SGD(task.model.parameters(), 0.1)])
    assert torch.equal(before, random_state()["torch"])
    for name, value in task.model.state_dict().items():
        assert torch.equal(value, state[name])
    assert all(parameter.grad is None for parameter in task.model.parameters())


def test_layers_that_start_at_zero_hold_back_nothing():
    """A head of zeros, as timm starts some, is no fault of the method."""
    task = task_of(Of(SignWeight))
    task.model.append(nn.Linear(4, 4))
    nn.init.zeros_(task.model[3].weight)
    check(task)
