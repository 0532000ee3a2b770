"""What every task does with a small network on a data set that names it, else on digits."""

from typing import Any

import torch

from tbn_bench import catalog
from tbn_bench.config import make
from tbn_bench.experiment.build import offered
from tbn_bench.plugins.contracts.rule import Rule, require
from tbn_bench.scores import SCORES

SAMPLES = 8


def built(call: str) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """(task, x, y): on eight training samples of digits."""
    torch.manual_seed(0)
    data = catalog.build("data", "digits", batch_size=8, seed=0)
    data.setup()
    given = offered(data)
    model = catalog.build("models", "mlp(hidden=[16])", **given)
    config = make({"task": call})
    task = catalog.build("tasks", call, model=model, config=config, **given)
    _, labels = data.splits["train"]
    x = data.first("train", SAMPLES)
    return task, x, labels[:SAMPLES]


def losses(call: str) -> None:
    """Both losses are one finite number; that of training has a gradient."""
    task, x, y = built(call)
    outputs = task(x)
    training = task.training_loss(x, y)
    evaluation = task.evaluation_loss(outputs, y)
    found = {
        "training_loss(x, y)": training,
        "evaluation_loss(outputs, y)": evaluation,
    }
    for name, loss in found.items():
        kind = type(loss).__name__
        require(isinstance(loss, torch.Tensor), f"{name} must return a tensor, got {kind}")
        shape = tuple(loss.shape)
        require(shape == (), f"{name} must have shape (), got {shape}; take the mean")
        require(bool(loss.isfinite()), f"{name} must be finite, got {loss.item()}")
    has_gradient = training.requires_grad
    require(has_gradient, "training_loss(x, y) has no gradient; compute it by self(x)")
    training.backward()


def scores(call: str) -> None:
    """Its metrics have known names, and one of them chooses the epoch."""
    task, x, y = built(call)
    metrics = task.scores()
    unknown = sorted(set(metrics) - set(SCORES))
    known = ", ".join(SCORES)
    require(not unknown, f"scores() names {', '.join(unknown)}; known: {known} (scores.py)")
    require(task.score in metrics, f"score is {task.score!r}, scores() has {', '.join(metrics)}")
    outputs = task(x)
    for name, metric in metrics.items():
        metric.update(outputs, y)
        value = float(metric.compute())
        require(value == value, f"score {name} of eight samples is NaN")


RULES = (
    Rule("its losses are finite numbers with a gradient", losses),
    Rule("its scores are known and computable", scores),
)
