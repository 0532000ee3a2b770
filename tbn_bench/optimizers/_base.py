"""What every optimizer is given: the parameters of a network, sorted by what they are for."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.utils import parametrize

from tbn_bench import catalog
from tbn_bench.binarizers._base import WeightBinarizer
from tbn_bench.config import RunConfig
from tbn_bench.convert.binarize import weights_of

Named = dict[str, nn.Parameter]


@dataclass
class Parameters:
    """The parameters of a network by kind, each under its name in the model. Every parameter is in exactly one kind.

    latents    what binary weights are the signs of: never decayed unless asked
    matrices   float weights of Linear and convolution layers and attention projections, but the last
    head       the last weight layer, where it is float
    scales     what a binarizer learns beside its latents: the tensors A of tbn, scales, codebooks
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
    """The parameters of a model, binarized or not, by kind. Frozen parameters are in `all` alone."""
    found = Parameters(all=list(model.parameters()))
    layers = [(module, attribute) for _, module, attribute in weights_of(model)]
    weights = {id(_plain_weight(m, a)) for m, a in layers} - {id(None)}
    last = id(_plain_weight(*layers[-1])) if layers else None
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
    """ids of the latent weights, and of what a binarizer names as such (the factors of low_rank)."""
    found: set[int] = set()
    for module in model.modules():
        if not parametrize.is_parametrized(module):
            continue
        for chain in module.parametrizations.values():
            method = chain[0]
            if isinstance(method, WeightBinarizer):
                found.add(id(chain.original))
                found |= {id(getattr(method, name)) for name in method.latents}
    return found


def optimizer_of(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """The optimizer of a config for a model, at the peak rate. Raises ValueError for what the entry refuses."""
    return catalog.build("optimizers", config.optimizer, parameters=sort(model), config=config)


def check_range(
    entry: str, name: str, value: object, low: float, high: float = float("inf")
) -> None:
    """Raises ValueError unless low <= value < high."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value < high:
        limit = f"from {low:g}" + ("" if high == float("inf") else f" to below {high:g}")
        raise ValueError(f"{entry}: {name} must be a number {limit}, got {value!r}")


def decayed(parameters: Parameters, weight_decay: float, latents: float | None) -> list[dict]:
    """Groups for an optimizer that decays weights: one for all, or the latents apart with a decay of their own."""
    if latents is None:
        return [{"params": parameters.all, "weight_decay": weight_decay}]
    apart = {id(p) for p in parameters.latents.values()}
    others = [p for p in parameters.all if id(p) not in apart]
    groups = [
        {"params": list(parameters.latents.values()), "weight_decay": latents},
        {"params": others, "weight_decay": weight_decay},
    ]
    return [group for group in groups if group["params"]]


def names(parameters: Iterable[str], most: int = 3) -> str:
    """A few names for a message."""
    listed = list(parameters)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
