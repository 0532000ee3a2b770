"""Bi-Real Net, W1A1 (Liu et al., arXiv 1808.00278, section 3).

Forward   B_c = alpha_c * sign(W_c), alpha_c = mean |W_c| over output channel c
          activations: sign(a). sign(0) = +1
Backward  activations: g * max(0, 2 - 2|a|) ("ApproxSign"). Weights, alpha being a constant in both:
          grad="magnitude"  g * alpha * 1[|w| <= 1]    the paper's magnitude-aware rule
          grad="clip_ste"   g * 1[|w| <= 1]            the code that most later work copies:
                                                       another step size
Network   the paper has a shortcut around every convolution: resnet_cifar(shortcuts="conv")
Recipe    starts from a float network, and re-estimates batch normalisation at the end;
          recipes/bireal_resnet18_cifar10.yaml lists the parts that we leave out
Stored    N bits and one 32-bit scale per output channel. Biases, normalisation and 1x1 shortcuts
          (keep them) stay full precision.
"""

from torch import Tensor

from tbn_bench.binarizers._base import (
    ActivationBinarizer,
    Binarizer,
    Decision,
    Target,
    approx_sign,
    channels,
    clip_ste,
)
from tbn_bench.binarizers.bwn import BWNWeight


class BiRealWeight(BWNWeight):
    def forward(self, weight: Tensor) -> Tensor:
        if self.grad == "clip_ste":
            return super().forward(weight)
        scale = self.scales(weight).detach()
        axes = [1] * (weight.dim() - 1)
        return scale.reshape(-1, *axes) * clip_ste(weight)


class ApproxSign(ActivationBinarizer):
    def forward(self, x: Tensor) -> Tensor:
        return approx_sign(x)


class BiReal(Binarizer):
    def __init__(self, grad: str = "magnitude"):
        if grad not in ("magnitude", "clip_ste"):
            raise ValueError(f"bireal: grad must be 'magnitude' or 'clip_ste', got {grad!r}")
        self.grad = grad

    def layer(self, target: Target) -> Decision:
        return Decision(BiRealWeight(self.grad), "binary, one scale per output channel")

    def activation(self, target: Target) -> ApproxSign:
        channels(target)
        return ApproxSign()
