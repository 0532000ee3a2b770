"""One run in several processes, by Lightning's ddp."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tbn_bench.tasks._base import Task

_RUNNING = ("running_mean", "running_var", "num_batches_tracked")


class Follower:
    """Stands for records.store.Run in the further processes: the first one writes the record."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"

    def log(self, row: dict[str, Any], durable: bool = False) -> None:
        pass

    def rewind(self, epoch: int) -> None:
        pass


def check_ranks(task: Task) -> None:
    """Raises RuntimeError unless all processes ended with the same network.

    Weights, tiles, scales and schedules must be equal. Running statistics are each process's own.
    """
    running = _running_statistics(task.model)
    digest = hashlib.sha256()
    for name, value in task.model.state_dict().items():
        if name not in running:
            digest.update(value.detach().cpu().numpy().tobytes())
    own = torch.tensor(list(digest.digest()), device=task.device)
    everyone = task.all_gather(own)
    assert isinstance(everyone, torch.Tensor)
    if not torch.equal(everyone, everyone[0].expand_as(everyone)):
        raise RuntimeError(
            "the processes of this run ended with different weights; "
            "a binarizer's state depends on its process"
        )


def _running_statistics(model: nn.Module) -> set[str]:
    found: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            found.update(f"{name}.{key}" for key in _RUNNING)
    return found
