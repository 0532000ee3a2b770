"""Adam (Kingma and Ba, arXiv 1412.6980; torch.optim.Adam): rate and weight decay of the config."""

from collections.abc import Sequence

import torch

from tbn_bench.config import RunConfig
from tbn_bench.optimizers._base import Parameters, check_range, decayed


def adam(
    parameters: Parameters,
    config: RunConfig,
    betas: Sequence[float] = (0.9, 0.999),
    latent_weight_decay: float | None = None,
) -> torch.optim.Optimizer:
    """Weight decay is added to the gradient (L2).

    It includes the latents unless latent_weight_decay is given. Raises ValueError for values out of
    range.
    """
    check_betas("adam", betas)
    check_range("adam", "latent_weight_decay", latent_weight_decay or 0, 0)
    groups = decayed(parameters, config.weight_decay, latent_weight_decay)
    return torch.optim.Adam(
        groups,
        config.lr,
        betas=tuple(betas),
        fused=not parameters.on_meta,
    )


def check_betas(entry: str, betas: Sequence[float]) -> None:
    """Raises ValueError unless there are two numbers from 0 to below 1."""
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        raise ValueError(f"{entry}: betas must be two numbers, e.g. [0.9, 0.999], got {betas!r}")
    for beta in betas:
        check_range(entry, "each of betas", beta, 0, 1)
