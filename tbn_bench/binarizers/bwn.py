"""Binary-Weight-Network (Rastegari et al., arXiv 1603.05279, section 3.1).

Forward   B_c = alpha_c * sign(W_c), alpha_c = mean |W_c| over the n weights of output channel c
          sign(0) = +1
Backward  with g = dL/dB, by the option grad:
          "full"      dL/dw_i = alpha * 1[|w_i| <= 1] * g_i + sign(w_i)/n * sum_j g_j * sign(w_j)
                      the full derivative, cross term included, with the clipped straight-through
                      sign (at w_i = 0 the derivative of |w_i| is taken as 0)
          "paper"     dL/dw_i = g_i * (1/n + alpha * 1[|w_i| <= 1])
                      the paper's formula: only j = i of the sum (also at w_i = 0)
          "clip_ste"  dL/dw_i = g_i * 1[|w_i| <= 1]
                      alpha is not differentiated and does not scale the gradient, as in much code
                      derived from the paper
Stored    N bits and one 32-bit scale per output channel. Biases and normalisation stay full
          precision.
"""

from typing import Any

import torch
from torch import Tensor

from tbn_bench.binarizers._base import Binarizer, Decision, Target, WeightBinarizer, clip_ste

GRADS = ("full", "paper", "clip_ste")


class _ElementwiseBWN(torch.autograd.Function):
    """weight: (C, ...), scale: (C, 1, ...) -> scale * sign(weight).

    Backward is one of the two rules that have no cross term.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, paper: bool) -> Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.paper = paper
        return scale * clip_ste(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        factor = (weight.abs() <= 1).to(grad.dtype)
        if ctx.paper:
            factor = factor * scale + weight.shape[0] / weight.numel()
        return grad * factor, None, None


class BWNWeight(WeightBinarizer):
    def __init__(self, grad: str = "full"):
        super().__init__()
        self.grad = grad

    def forward(self, weight: Tensor) -> Tensor:
        axes = [1] * (weight.dim() - 1)
        scale = self.scales(weight).reshape(-1, *axes)
        if self.grad == "full":
            return scale * clip_ste(weight)
        return _ElementwiseBWN.apply(weight, scale.detach(), self.grad == "paper")

    def signs(self, weight: Tensor) -> Tensor:
        return clip_ste(weight).reshape(-1)

    def scales(self, weight: Tensor) -> Tensor:
        return weight.abs().flatten(1).mean(1)

    def num_scales(self, weight: Tensor) -> int:
        return weight.shape[0]


class BWN(Binarizer):
    def __init__(self, grad: str = "full"):
        if grad not in GRADS:
            known = ", ".join(map(repr, GRADS))
            raise ValueError(f"bwn: grad must be one of {known}, got {grad!r}")
        self.grad = grad

    def layer(self, target: Target) -> Decision:
        return Decision(BWNWeight(self.grad), "binary, one scale per output channel")
