"""What every weight binarizer is: a policy over the layers of a network, and one parametrization per binarized weight."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Target:
    """A weight that could be binarized. name: its qualified name; weight: (C_out, ...) the latent tensor."""

    name: str
    weight: Tensor


@dataclass(frozen=True)
class Decision:
    """What a binarizer does with a target: a parametrization, or None for full precision, and why."""

    parametrization: "WeightBinarizer | None"
    reason: str


class WeightBinarizer(nn.Module):
    """A torch parametrization: latent weight -> binary weight of the same shape.

    At inference the weight is `signs` repeated to N values, times `scales`, each covering N / len(scales) consecutive values
    (row-major). That one form holds every method; it is what cost.py counts and what the packed file stores.
    """

    p: int = 1  # how often the stored signs are reused

    def forward(self, weight: Tensor) -> Tensor:
        raise NotImplementedError  # abstract

    def signs(self, weight: Tensor) -> Tensor:
        """The stored +-1 values: (N / p,)."""
        raise NotImplementedError  # abstract

    def scales(self, weight: Tensor) -> Tensor:
        """The stored scales: (k,) where k divides N; (0,) for a method without scale."""
        raise NotImplementedError  # abstract

    def num_scales(self, weight: Tensor) -> int:
        """k, from the shape alone (also on the meta device)."""
        raise NotImplementedError  # abstract

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called by the task when `epoch` (0-based) of `epochs` begins; a method with a schedule overrides it."""


class Binarizer:
    """A method applied to a whole network. Subclasses override `layer` (one weight at a time) or `decide` (all at once)."""

    def decide(self, targets: list[Target]) -> list[Decision]:
        """One decision per target, in order. Raises ValueError naming every layer that cannot be converted."""
        return [self.layer(target) for target in targets]

    def layer(self, target: Target) -> Decision:
        raise NotImplementedError  # abstract


class _ClipSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight):
        ctx.save_for_backward(weight)
        return torch.where(weight >= 0, 1.0, -1.0).to(weight.dtype)

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        return grad * (weight.abs() <= 1)


def clip_ste(weight: Tensor) -> Tensor:
    """Forward +1 where weight >= 0 else -1; backward g * 1[|w| <= 1] (Hubara et al., arXiv 1602.02830)."""
    return _ClipSTE.apply(weight)
