"""Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101; torch.optim.AdamW)."""

from collections.abc import Sequence

import torch

from tbn_bench.config import RunConfig
from tbn_bench.optimizers._base import Parameters, check_range, decayed
from tbn_bench.optimizers.adam import check_betas


def adamw(
    parameters: Parameters,
    config: RunConfig,
    betas: Sequence[float] = (0.9, 0.999),
    latent_weight_decay: float | None = None,
) -> torch.optim.Optimizer:
    """Every weight shrinks by rate x weight_decay a step.

    This includes the latents unless latent_weight_decay is given. Raises ValueError for values out
    of range.
    """
    check_betas("adamw", betas)
    check_range("adamw", "latent_weight_decay", latent_weight_decay or 0, 0)
    groups = decayed(parameters, config.weight_decay, latent_weight_decay)
    return torch.optim.AdamW(
        groups,
        config.lr,
        betas=tuple(betas),
        fused=not parameters.on_meta,
    )
