"""Ternary Weight Networks, weights only (Li and Liu, arXiv 1605.04711, section 2).

Forward   D = 0.7 * mean |W| of the layer, T = sign(W) * 1[|W| > D], B = alpha * T,
          alpha = mean |W| over the weights with |W| > D
Backward  dL/dW = dL/dB   (identity; alpha and D are constants)
Stored    1.6 bits per weight (five ternary values to a byte) and one 32-bit scale per layer.
          Biases and normalisation stay full precision.
"""

import torch
from torch import Tensor

from tbn_bench.binarizers._base import Binarizer, Decision, Target, WeightBinarizer
from tbn_bench.format.form import Form
from tbn_bench.tiling import sum_type


class _Ternarize(torch.autograd.Function):
    """W -> alpha * T, made outside of autograd. Backward is the identity."""

    @staticmethod
    def forward(ctx, weight, values, scale):
        return values * scale

    @staticmethod
    def backward(ctx, grad):
        return grad, None, None


class TernaryWeight(WeightBinarizer):
    """A scale per layer and values -1, 0, 1; subclasses give `signs` and `scales`."""

    def forward(self, weight: Tensor) -> Tensor:
        constant = weight.detach()
        values = self.signs(constant).reshape(weight.shape)
        scale = self.scales(constant)
        return _Ternarize.apply(weight, values, scale)

    def num_scales(self, weight: Tensor) -> int:
        return 1

    def form(self, weight: Tensor) -> Form:
        return Form(tuple(weight.shape), scales=1, code="ternary")


class TWNWeight(TernaryWeight):
    def _large(self, weight: Tensor) -> Tensor:
        size = weight.abs()
        return size > 0.7 * size.mean()

    def signs(self, weight: Tensor) -> Tensor:
        values = weight.sign() * self._large(weight)
        return values.reshape(-1)

    def scales(self, weight: Tensor) -> Tensor:
        large = self._large(weight)
        total = (weight.abs() * large).sum(dtype=sum_type(weight.dtype))
        mean = total / large.sum().clamp(min=1)
        return mean.to(weight.dtype).reshape(1)


class TWN(Binarizer):
    def layer(self, target: Target) -> Decision:
        return Decision(TWNWeight(), "ternary, one scale per layer")
