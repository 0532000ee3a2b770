"""Stochastic gradient descent with momentum (torch.optim.SGD).

Rate, momentum and weight decay are those of the config.
"""

import torch

from tbn_bench.config import RunConfig
from tbn_bench.optimizers._base import Parameters, check_range, decayed


def sgd(
    parameters: Parameters,
    config: RunConfig,
    momentum: float | None = None,
    nesterov: bool = False,
    latent_weight_decay: float | None = None,
) -> torch.optim.Optimizer:
    """Weight decay is added to the gradient (L2).

    It includes the latents unless latent_weight_decay is given.
    momentum: None takes the config's. Raises ValueError for values out of range.
    """
    momentum = config.momentum if momentum is None else momentum
    check_range("sgd", "momentum", momentum, 0, 1)
    check_range("sgd", "latent_weight_decay", latent_weight_decay or 0, 0)
    if nesterov and not momentum:
        raise ValueError("sgd: nesterov=True needs a momentum above 0, got 0")
    groups = decayed(parameters, config.weight_decay, latent_weight_decay)
    fused = not parameters.on_meta
    return torch.optim.SGD(groups, config.lr, momentum=momentum, nesterov=nesterov, fused=fused)
