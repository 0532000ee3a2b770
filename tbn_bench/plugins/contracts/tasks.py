"""What every task does with a small network on a data set that names it, else on digits."""

from typing import Any

import torch

from tbn_bench import catalog
from tbn_bench.config import make
from tbn_bench.experiment.build import offered
from tbn_bench.plugins.contracts.rule import Rule, require
from tbn_bench.scores import SCORES


def built(call: str) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """(task, x, y): on eight training samples of digits."""
    torch.manual_seed(0)
    data = catalog.build("data", "digits", batch_size=8, seed=0)
    data.setup()
    model = catalog.build("models", "mlp(hidden=[16])", **offered(data))
    config = make({"task": call})
    task = catalog.build("tasks", call, model=model, config=config, **offered(data))
    _, labels = data.splits["train"]
    return task, data.first("train", 8), labels[:8]


def losses(call: str) -> None:
    """Both losses are one finite number; that of training has a gradient."""
    task, x, y = built(call)
    found = {
        "training_loss(x, y)": task.training_loss(x, y),
        "evaluation_loss(outputs, y)": task.evaluation_loss(task(x), y),
    }
    for name, loss in found.items():
        kind = type(loss).__name__
        require(isinstance(loss, torch.Tensor), f"{name} must return a tensor, got {kind}")
        shape = tuple(loss.shape)
        require(shape == (), f"{name} must have shape (), got {shape}; take the mean")
        require(bool(loss.isfinite()), f"{name} must be finite, got {loss.item()}")
    loss = found["training_loss(x, y)"]
    require(loss.requires_grad, "training_loss(x, y) has no gradient; compute it by self(x)")
    loss.backward()


def scores(call: str) -> None:
    """Its metrics have known names, and one of them chooses the epoch."""
    task, x, y = built(call)
    metrics = task.scores()
    unknown = sorted(set(metrics) - set(SCORES))
    known = ", ".join(SCORES)
    require(not unknown, f"scores() names {', '.join(unknown)}; known: {known} (scores.py)")
    require(task.score in metrics, f"score is {task.score!r}, scores() has {', '.join(metrics)}")
    for name, metric in metrics.items():
        metric.update(task(x), y)
        value = float(metric.compute())
        require(value == value, f"score {name} of eight samples is NaN")


RULES = (
    Rule("its losses are finite numbers with a gradient", losses),
    Rule("its scores are known and computable", scores),
)
