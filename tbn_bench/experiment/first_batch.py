"""One batch before training: every binarized layer keeps its promises and learns.

A method whose stored form disagrees with its forward pass, or whose weights never change, would
train to the end and give a number that means something else.
"""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from tbn_bench.binarizers import _contract
from tbn_bench.binarizers._base import WeightBinarizer
from tbn_bench.convert.advance import begin_step_
from tbn_bench.experiment.random_state import random_state, restore_random_state
from tbn_bench.records.text import tell
from tbn_bench.tasks._base import Task, binary_weights

SAMPLES = 16


class MethodError(ValueError):
    """A method is not what it says: names the method, the layer and the reason."""


class FirstBatch(pl.Callback):
    """Checks the network before the first step of a process.

    The check works on a copy: weights, statistics, schedules and random state stay as they are.
    """

    def __init__(self) -> None:
        self.is_checked = False

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.is_checked or not isinstance(module, Task):
            return
        self.is_checked = True
        check(module, batch, trainer.optimizers)


def check(task: Task, batch: Any, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Raises MethodError for the first layer that breaks a promise, and warns of one at rest.

    batch: as training_step gets it. optimizers: of the training.
    """
    binarizer = task.config.binarizer
    for name, method, latent in _distinct(task.model):
        found = _contract.fault(method, latent)
        if found:
            raise MethodError(_line(binarizer, method, name, found))
    left_out = _left_out(task.model, optimizers)
    if left_out:
        raise MethodError(
            f"{binarizer} at {left_out[0]}: weight that never changes: optimizer "
            f"{task.config.optimizer} does not have it; give it every parameter"
        )
    resting = _check_gradients(task, batch)
    if resting:
        tell(
            f"warning: {_some_names(resting)}: a gradient of 0 from the first batch, because "
            "nothing behind lets one through (saturated binary inputs, dead ReLUs?)"
        )


def _distinct(model: nn.Module) -> Iterator[tuple[str, WeightBinarizer, Tensor]]:
    """The binarized weights, those of one method and one stored form once."""
    seen = set()
    for name, method, latent in binary_weights(model):
        kind = (type(method), str(method.form(latent)))
        if kind not in seen:
            seen.add(kind)
            yield name, method, latent


def _line(binarizer: str, method: nn.Module, name: str, found: str) -> str:
    return f"{binarizer} ({type(method).__name__}) at {name}: {found}"


def _left_out(model: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> list[str]:
    """Names of latent weights that want a gradient and that no optimizer has."""
    held = set()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            held |= set(map(id, group["params"]))
    missing = []
    for name, _, latent in binary_weights(model):
        if latent.requires_grad and id(latent) not in held:
            missing.append(name)
    return missing


def _check_gradients(task: Task, batch: Any) -> list[str]:
    """Names of layers with a gradient of 0. Raises MethodError for none, or one not finite.

    A loss that is not finite is left to training, which calls it diverged.
    """
    resting = []
    with _on_a_copy(task) as model:
        called = _watch_calls(model)
        loss = task.training_loss(*_some(batch))
        if not torch.isfinite(loss):
            return []
        torch.autograd.backward([loss])
        for name, method, latent in binary_weights(model):
            layer = name.rpartition(".")[0]
            if layer not in called or not latent.requires_grad or method.frozen:
                continue
            gradient = latent.grad
            if gradient is not None and not gradient.any():
                resting.append(name)
                continue
            found = _contract.gradient_fault(gradient, method.frozen)
            if found:
                raise MethodError(_line(task.config.binarizer, method, name, found))
    return resting


@contextmanager
def _on_a_copy(task: Task) -> Iterator[nn.Module]:
    """The task with a copy of its model, in training mode, and its own model again afterwards."""
    kept = random_state()
    own = task.model
    model = copy.deepcopy(own).train()
    _wake_(model)
    task.model = model
    try:
        begin_step_(model)
        yield model
    finally:
        task.model = own
        restore_random_state(kept)


@torch.no_grad()
def _wake_(model: nn.Module) -> None:
    """Gives small values to parameters that start at 0 and would hold back every gradient."""
    latents = {id(latent) for _, _, latent in binary_weights(model)}
    for parameter in model.parameters():
        if id(parameter) not in latents and not parameter.any():
            parameter.normal_(std=0.1)


def _watch_calls(model: nn.Module) -> set[str]:
    """Names of the modules that are called from now on; the set fills while the model runs."""
    called: set[str] = set()
    for name, module in model.named_modules():

        def note(_: nn.Module, __: Any, name: str = name) -> None:
            called.add(name)

        module.register_forward_pre_hook(note)
    return called


def _some_names(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _some(batch: Any) -> Any:
    """The first samples of a batch."""

    def cut(value: Any) -> Any:
        return value[:SAMPLES] if isinstance(value, Tensor) and value.dim() else value

    return tree_map(cut, batch)
