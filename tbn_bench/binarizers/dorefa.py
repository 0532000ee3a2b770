"""DoReFa-Net's one-bit weights, W1A32 (Zhou et al., arXiv 1606.06160, section 2.3).

Forward   B = alpha * sign(W), alpha = mean |W| over the whole layer   (sign(0) = +1)
Backward  dL/dW = dL/dB   (identity: no window; alpha is a constant that neither gets nor scales a gradient)
Stored    N bits and one 32-bit scale per layer. Biases and normalisation stay full precision.
"""

from typing import Any

import torch
from torch import Tensor

from tbn_bench.binarizers._base import Binarizer, Decision, Target, WeightBinarizer


def _sign(weight: Tensor) -> Tensor:
    return torch.where(weight >= 0, 1.0, -1.0).to(weight.dtype)


class _StraightThrough(torch.autograd.Function):
    """W -> mean |W| * sign(W). Backward is the identity."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.abs().mean() * _sign(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class DoReFaWeight(WeightBinarizer):
    def forward(self, weight: Tensor) -> Tensor:
        return _StraightThrough.apply(weight)

    def signs(self, weight: Tensor) -> Tensor:
        return _sign(weight).reshape(-1)

    def scales(self, weight: Tensor) -> Tensor:
        return weight.abs().mean().reshape(1)

    def num_scales(self, weight: Tensor) -> int:
        return 1


class DoReFa(Binarizer):
    def layer(self, target: Target) -> Decision:
        return Decision(DoReFaWeight(), "binary, one scale per layer")
