"""How a run is carried out, and whether this machine can do that."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from tbn_bench.config import RunConfig


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out. None of it is part of the run's id.

    It changes numbers by rounding alone, except `devices`: each device normalises by its own part
    of the batch. The record's provenance has what was chosen.

    channels_last: images and weights have their channels innermost in memory. devices: processes
    that train together (Lightning's ddp), each with a device or its share of the cores.
    """

    results: Path = Path("results")
    sweep: str = "single"
    wandb: str = "offline"
    device: str = "cpu"
    threads: int | None = None
    progress: bool = False
    channels_last: bool = False
    compile: bool = False
    devices: int = 1
    trackers: tuple[str, ...] = ()
    trial: int | None = None

    @property
    def rank(self) -> int:
        """0, or the number of a further process, which Lightning starts by the same command."""
        if self.devices == 1:
            return 0
        return int(os.environ.get("LOCAL_RANK", 0))


def check_devices(config: RunConfig, options: RunOptions) -> None:
    """Raises ValueError for devices that are not here, and for a batch too small for them."""
    available = os.cpu_count() or 1
    if options.device == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("--device cuda: torch sees no CUDA device here; use --device cpu")
        available = torch.cuda.device_count()
    if not 1 <= options.devices <= available:
        raise ValueError(
            f"--devices must lie between 1 and {available}, which are here, got {options.devices}"
        )
    least = 2 * options.devices
    if options.devices > 1 and config.batch_size < least:
        raise ValueError(
            f"batch_size is that of all devices together: {options.devices} need {least}, "
            f"got {config.batch_size}"
        )
