"""Any optimizer of timm by its name there: from_timm(name='lamb').

Rate and weight decay are those of the config.
"""

from typing import Any

import torch

from tbn_bench.catalog import did_you_mean
from tbn_bench.config import RunConfig
from tbn_bench.optimizers._base import Parameters, check_range, decayed


def from_timm(
    parameters: Parameters,
    config: RunConfig,
    name: str = "lamb",
    latent_weight_decay: float = 0.0,
    kwargs: dict[str, Any] | None = None,
) -> torch.optim.Optimizer:
    """timm.optim's `name`. kwargs go to timm.

    Binary latents are not decayed unless latent_weight_decay is given.
    Raises ValueError for a name that timm does not know (with a suggestion), for an optimizer that
    needs second derivatives, and for arguments that it refuses.
    """
    import timm.optim

    known = timm.optim.list_optimizers()
    if name not in known:
        raise ValueError(f"timm has no optimizer {name!r}{did_you_mean(str(name), known)}")
    if timm.optim.get_optimizer_info(name).second_order:
        raise ValueError(
            f"from_timm: {name} needs second derivatives, which no task here computes; "
            "choose another"
        )
    check_range("from_timm", "latent_weight_decay", latent_weight_decay, 0)
    groups = decayed(parameters, config.weight_decay, latent_weight_decay)
    try:
        return timm.optim.create_optimizer_v2(groups, opt=name, lr=config.lr, **(kwargs or {}))
    except (TypeError, ValueError, AssertionError) as error:
        given = kwargs or "these parameters"
        raise ValueError(f"from_timm: timm's {name} refuses {given}: {error}") from error
