"""What every optimizer does with a small binarized network."""

import copy

import torch
from torch import nn

from tbn_bench import catalog
from tbn_bench.config import make
from tbn_bench.convert.binarize import binarize_
from tbn_bench.optimizers._base import optimizer_of
from tbn_bench.plugins.contracts.rule import Rule, require


def built(call: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """(binarized network, its optimizer) at the default rate."""
    torch.manual_seed(0)
    model = catalog.build("models", "mlp(hidden=[16])", num_classes=4, in_shape=(1, 4, 4))
    binarize_(model, "bwn")
    optimizer = optimizer_of(model, make({"optimizer": call}))
    kind = type(optimizer).__name__
    is_optimizer = isinstance(optimizer, torch.optim.Optimizer)
    require(is_optimizer, f"expected a torch.optim.Optimizer, got {kind}; return one")
    return model, optimizer


def takes_all(call: str) -> None:
    """Every parameter that learns is in exactly one group."""
    model, optimizer = built(call)
    held = []
    for group in optimizer.param_groups:
        held += [id(parameter) for parameter in group["params"]]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            count = held.count(id(parameter))
            require(count == 1, f"{name} is in {count} groups, expected 1; see Parameters.all")


def moves(call: str) -> None:
    """A step changes every weight that has a gradient, to finite values."""
    model, optimizer = built(call)
    before = copy.deepcopy(model.state_dict())
    _backward(model)
    optimizer.step()
    for name, parameter in model.named_parameters():
        finite = bool(parameter.isfinite().all())
        require(finite, f"{name} is not finite after one step at the default rate")
        had = parameter.grad is not None and bool(parameter.grad.any())
        still = torch.equal(before[name], parameter)
        require(not (had and still), f"{name} has a gradient and does not move")


def resumes(call: str) -> None:
    """Its state can be kept and loaded, as a checkpoint does."""
    model, optimizer = built(call)
    _backward(model)
    optimizer.step()
    _, other = built(call)
    kept = copy.deepcopy(optimizer.state_dict())
    other.load_state_dict(kept)


def _backward(model: nn.Module) -> None:
    """Gradients of a random batch."""
    x = torch.randn(16, 1, 4, 4)
    y = model(x)
    loss = y.square().mean()
    loss.backward()


RULES = (
    Rule("it takes every parameter once", takes_all),
    Rule("a step moves what has a gradient", moves),
    Rule("its state can be kept and loaded", resumes),
)
