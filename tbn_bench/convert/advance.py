"""Schedules of binarizers, for training loops outside this suite.

Some methods change while they train: irnet's surrogate gradient sharpens from epoch to epoch,
sparks' noise fades, snn refines its codebook between steps. The suite's own tasks tell them where
training is. Any other loop calls these two functions; other methods ignore both.
"""

from collections.abc import Callable

from torch import nn

from tbn_bench.binarizers._base import Scheduled


def advance_(model: nn.Module, epoch: int, epochs: int) -> None:
    """Tells every binarizer of a model that `epoch` (from 0) of `epochs` begins.

    Call it before the first step of each epoch. Raises ValueError unless 0 <= epoch < epochs.

    >>> import torch
    >>> from tbn_bench.convert import advance_, begin_step_, binarize_
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4))
    >>> plan = binarize_(model, "irnet")
    >>> for epoch in range(3):
    ...     advance_(model, epoch, 3)
    ...     begin_step_(model)  # before each step of the epoch
    >>> round(float(model[0].parametrizations.weight[0].t), 3)
    0.464
    """
    for name, value in (("epoch", epoch), ("epochs", epochs)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name} must be a whole number, got {value!r}")
    if not 0 <= epoch < epochs:
        raise ValueError(
            f"epoch counts from 0 to epochs - 1 = {epochs - 1}, got {epoch}; call advance_ "
            "when the epoch begins"
        )
    for module in model.modules():
        # binarizers have it, and models with a schedule of their own
        begin: Callable[[int, int], None] | None = getattr(module, "begin_epoch", None)
        if begin is not None:
            begin(epoch, epochs)
        if isinstance(module, Scheduled):
            module.hear("epoch")


def begin_step_(model: nn.Module) -> None:
    """Tells every binarizer of a model that a training step begins."""
    for module in model.modules():
        begin: Callable[[], None] | None = getattr(module, "begin_step", None)
        if begin is not None:
            begin()
        if isinstance(module, Scheduled):
            module.hear("step")
