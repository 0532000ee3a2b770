"""XNOR-Net, W1A1 (Rastegari et al., arXiv 1603.05279, section 3.2). Its weights are those of bwn.

Forward   y = conv(sign(a), sign(W)) * K * alpha; alpha_c = mean |W_c| over output channel c;
          K = mean over channels of |a|, box-filtered with the layer's kernel, stride, padding and
          dilation: (B, 1, H', W'). For a linear layer K is mean |a| of each sample. sign(0) = +1
Backward  activations: g * 1[|a| <= 1]; weights as bwn(grad=...), "paper" by default. K by ordinary
          autograd, because the paper does not say; k=False drops K, as most re-implementations do
Order     the paper's block is batch norm, sign, convolution, pooling: behind a ReLU the sign is
          constant (plan warns)
Stored    N bits and one 32-bit scale per output channel; K is computed from each input. Biases and
          normalisation stay full precision.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbn_bench.binarizers._base import (
    ActivationBinarizer,
    Binarizer,
    Decision,
    Target,
    channels,
    clip_ste,
)
from tbn_bench.binarizers.bwn import GRADS, BWNWeight


def input_scale(layer: nn.Module, x: Tensor) -> Tensor:
    """K: broadcastable to the layer's output for its input x.

    x: (..., K), (B, C, L) or (B, C, H, W).
    """
    if not hasattr(layer, "kernel_size"):
        return x.abs().mean(-1, keepdim=True)
    sizes = layer.kernel_size
    channel_axis = -len(sizes) - 1
    average = x.abs().mean(channel_axis, keepdim=True)
    share = 1 / math.prod(sizes)
    box = torch.full((1, 1, *sizes), share, dtype=x.dtype, device=x.device)

    padding = layer.padding
    if layer.padding_mode != "zeros":
        around = layer._reversed_padding_repeated_twice
        average = F.pad(average, around, mode=layer.padding_mode)
        padding = 0
    conv = F.conv1d if len(sizes) == 1 else F.conv2d
    return conv(average, box, None, layer.stride, padding, layer.dilation)


class XNORSign(ActivationBinarizer):
    def __init__(self, k: bool):
        super().__init__()
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        return clip_ste(x)

    def scale_output(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if not self.k:
            return y
        scale = input_scale(layer, x)
        if layer.bias is None:
            return y * scale
        spatial = [1] * len(getattr(layer, "kernel_size", ()))
        bias = layer.bias.reshape(-1, *spatial)
        return (y - bias) * scale + bias  # K scales the products, not the bias


class XNOR(Binarizer):
    """grad: of the weights, as bwn's; k: whether outputs are scaled by K."""

    def __init__(self, grad: str = "paper", k: bool = True):
        if grad not in GRADS:
            known = ", ".join(map(repr, GRADS))
            raise ValueError(f"xnor: grad must be one of {known}, got {grad!r}")
        self.grad = grad
        self.k = k

    def layer(self, target: Target) -> Decision:
        return Decision(BWNWeight(self.grad), "binary, one scale per output channel")

    def activation(self, target: Target) -> XNORSign:
        channels(target)
        return XNORSign(self.k)
