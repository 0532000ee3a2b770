"""Adadelta (Zeiler, arXiv 1212.5701; torch.optim.Adadelta): rate and weight decay of the config."""

import torch

from tbn_bench.config import RunConfig
from tbn_bench.optimizers._base import Parameters


def adadelta(parameters: Parameters, config: RunConfig) -> torch.optim.Optimizer:
    """Weight decay is added to the gradient (L2)."""
    return torch.optim.Adadelta(
        parameters.all,
        config.lr,
        weight_decay=config.weight_decay,
    )
