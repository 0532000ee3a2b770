"""Estimates batch norm's statistics again, because running ones lag behind signs that flip."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

Norm = nn.modules.batchnorm._BatchNorm


def norms(model: nn.Module) -> list[Norm]:
    """The batch norms of a model that keep statistics."""
    return [m for m in model.modules() if isinstance(m, Norm) and m.track_running_stats]


@torch.no_grad()
def reestimate_(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replaces the running statistics of every batch norm by their plain mean over `batches`.

    batches: x of shape (B, *in_shape). Everything but batch norm is in evaluation mode, and the
    earlier statistics have no influence. Training stays the same: it normalises by its own batches.
    Raises ValueError where there is no batch.
    """
    found = norms(model)
    if not found:
        return
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in found]
    counts = [norm.num_batches_tracked.clone() for norm in found]
    model.eval()
    try:
        for norm in found:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # torch: the mean over all batches seen
        seen = 0
        for x in batches:
            model(x)
            seen += 1
        if not seen:
            raise ValueError(
                "batch_norm=reestimated needs training samples, got none; use batch_norm=running"
            )
    finally:
        for norm, momentum, count in zip(found, momenta, counts, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
        for module, training in modes.items():
            module.training = training
