"""Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101; torch.optim.AdamW)."""

from collections.abc import Sequence
from typing import Any

import torch

from tbn_bench.config import RunConfig
from tbn_bench.optimizers._base import Parameters, check_range, decayed
from tbn_bench.optimizers.adam import check_betas


def adamw(
    parameters: Parameters,
    config: RunConfig,
    betas: Sequence[float] = (0.9, 0.999),
    latent_weight_decay: float | None = None,
    decay_vectors: bool = True,
) -> torch.optim.Optimizer:
    """Every weight shrinks by rate x weight_decay a step.

    This includes the latents unless latent_weight_decay is given. decay_vectors=False: parameters
    of one axis (biases, scales, those of normalisation) do not shrink, as in nanoGPT. Raises
    ValueError for values out of range.
    """
    check_betas("adamw", betas)
    check_range("adamw", "latent_weight_decay", latent_weight_decay or 0, 0)
    groups = decayed(parameters, config.weight_decay, latent_weight_decay)
    if not decay_vectors:
        groups = _with_vectors_apart(groups)
    return torch.optim.AdamW(
        groups,
        config.lr,
        betas=tuple(betas),
        fused=not parameters.on_meta,
    )


def _with_vectors_apart(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups with only their matrices, and one without decay for all their vectors."""
    apart = []
    vectors = []
    for group in groups:
        matrices = [p for p in group["params"] if p.dim() > 1]
        vectors += [p for p in group["params"] if p.dim() <= 1]
        apart.append(group | {"params": matrices})
    apart.append({"params": vectors, "weight_decay": 0.0})
    return [group for group in apart if group["params"]]
