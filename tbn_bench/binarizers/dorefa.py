"""DoReFa-Net's one-bit weights (Zhou et al., arXiv 1606.06160, sections 2.3 and 2.4).

W1A32, or W1A1 with activations=True.

Forward   B = alpha * sign(W), alpha = mean |W| over the whole layer   (sign(0) = +1)
          activations: round(clip(a, 0, 1)), so 0 or 1, not +-1; 0.5 rounds to 0
Backward  dL/dW = dL/dB   (identity: no window; alpha is a constant that neither gets nor scales a
          gradient)
          activations: g * 1[0 <= a <= 1]
Stored    N bits and one 32-bit scale per layer. Biases and normalisation stay full precision.
"""

from typing import Any

import torch
from torch import Tensor

from tbn_bench.binarizers._base import (
    ActivationBinarizer,
    Binarizer,
    Decision,
    Target,
    WeightBinarizer,
    channels,
    sign,
)


class _StraightThrough(torch.autograd.Function):
    """W -> mean |W| * sign(W). Backward is the identity."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.abs().mean() * sign(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class DoReFaWeight(WeightBinarizer):
    def forward(self, weight: Tensor) -> Tensor:
        return _StraightThrough.apply(weight)

    def signs(self, weight: Tensor) -> Tensor:
        return sign(weight).reshape(-1)

    def scales(self, weight: Tensor) -> Tensor:
        return weight.abs().mean().reshape(1)

    def num_scales(self, weight: Tensor) -> int:
        return 1


class _RoundSTE(torch.autograd.Function):
    """x -> round(clip(x, 0, 1)). Backward g * 1[0 <= x <= 1]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0, 1).round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * ((x >= 0) & (x <= 1))


class DoReFaActivation(ActivationBinarizer):
    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            return _RoundSTE.apply(x)
        return x.clamp(0, 1).round()


class DoReFa(Binarizer):
    """activations: whether the layers' inputs are quantized to one bit, 0 or 1, too."""

    def __init__(self, activations: bool = False):
        self.activations = activations

    def layer(self, target: Target) -> Decision:
        return Decision(DoReFaWeight(), "binary, one scale per layer")

    def activation(self, target: Target) -> DoReFaActivation | None:
        if not self.activations:
            return None
        channels(target)
        return DoReFaActivation()
