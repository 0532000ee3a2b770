"""Sorts the parameters of a network by their use, for the optimizers."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.utils import parametrize

from tbn_bench import catalog
from tbn_bench.binarizers._base import WeightBinarizer
from tbn_bench.config import RunConfig
from tbn_bench.convert.weights import weights_of

Named = dict[str, nn.Parameter]


@dataclass
class Parameters:
    """The parameters of a network by kind, each under its name in the model.

    Every parameter is in exactly one kind.

    latents    binary weights are their signs; decayed only on request
    matrices   float weights of Linear and convolution layers and attention projections, except the
               last
    head       the last weight layer, where it is float
    scales     learned by a binarizer beside its latents: the tensors A of tbn, scales, codebooks
    vectors    all others: biases, norms, embeddings, tokens
    """

    latents: Named = field(default_factory=dict)
    matrices: Named = field(default_factory=dict)
    head: Named = field(default_factory=dict)
    scales: Named = field(default_factory=dict)
    vectors: Named = field(default_factory=dict)
    all: list[nn.Parameter] = field(default_factory=list)

    @property
    def on_meta(self) -> bool:
        return any(p.is_meta for p in self.all)


def sort(model: nn.Module) -> Parameters:
    """The parameters of a model, binarized or not, by kind. Frozen ones are in `all` alone."""
    found = Parameters(all=list(model.parameters()))
    plain = [_plain_weight(use.module, use.attribute) for use in weights_of(model)]
    weights = {id(weight) for weight in plain if weight is not None}
    last = id(plain[-1]) if plain else None
    latents = _latents(model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in latents:
            kind = found.latents
        elif ".parametrizations." in f".{name}":
            kind = found.scales
        elif id(parameter) == last:
            kind = found.head
        elif id(parameter) in weights:
            kind = found.matrices
        else:
            kind = found.vectors
        kind[name] = parameter
    return found


def _plain_weight(module: nn.Module, attribute: str) -> nn.Parameter | None:
    """The float weight of a layer; None where it is binarized."""
    return module._parameters.get(attribute)


def _latents(model: nn.Module) -> set[int]:
    """ids of the latent weights, and of the binarizers' other latents (the factors of low_rank)."""
    found: set[int] = set()
    for module in model.modules():
        if not parametrize.is_parametrized(module):
            continue
        for chain in module.parametrizations.values():
            method = chain[0]
            if not isinstance(method, WeightBinarizer):
                continue
            found.add(id(chain.original))
            for name in method.latents:
                latent = getattr(method, name)
                found.add(id(latent))
    return found


def optimizer_of(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """The optimizer of a config for a model, at the peak rate.

    Raises ValueError for values that the entry refuses.
    """
    parameters = sort(model)
    return catalog.build("optimizers", config.optimizer, parameters=parameters, config=config)


def check_range(
    entry: str,
    name: str,
    value: object,
    low: float,
    high: float = float("inf"),
) -> None:
    """Raises ValueError unless low <= value < high."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value < high:
        limit = f"from {low:g}"
        if high != float("inf"):
            limit += f" to below {high:g}"
        raise ValueError(f"{entry}: {name} must be a number {limit}, got {value!r}")


def decayed(parameters: Parameters, weight_decay: float, latents: float | None) -> list[dict]:
    """Groups for an optimizer that decays weights.

    There is one for all parameters, or one for the latents, with their own decay, and one for the
    others.
    """
    if latents is None:
        return [{"params": parameters.all, "weight_decay": weight_decay}]
    apart = list(parameters.latents.values())
    ids = set(map(id, apart))
    others = [p for p in parameters.all if id(p) not in ids]
    groups = [
        {"params": apart, "weight_decay": latents},
        {"params": others, "weight_decay": weight_decay},
    ]
    return [group for group in groups if group["params"]]


def names(parameters: Iterable[str], most: int = 3) -> str:
    """A few names for a message."""
    listed = list(parameters)
    text = ", ".join(listed[:most])
    rest = len(listed) - most
    if rest > 0:
        text += f" and {rest} more"
    return text
