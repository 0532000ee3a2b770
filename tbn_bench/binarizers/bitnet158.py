"""BitNet b1.58's layers (Ma et al., arXiv 2402.17764, section 2).

Ternary weights and 8-bit activations; with activation_bits=32 only the weights are quantized.

Forward   gamma = mean |W| of the layer, T = clip(round(W / (gamma + 1e-5)), -1, 1), B = gamma * T
          activations: round(a * 127 / max |a|) * max |a| / 127, clipped to [-128, 127]. The maximum
          is over each token (the last axis of a linear layer's input) or each sample of a
          convolution's (our extension: the paper has no convolutions)
Backward  dL/dW = dL/dB, dL/da = g   (identity both; gamma and the maxima are constants)
Left out  the normalisation that the paper puts before each layer's quantization: it belongs to the
          network
Stored    1.6 bits per weight (five ternary values to a byte) and one 32-bit scale per layer.
          Biases and normalisation stay full precision.
"""

import torch
from torch import Tensor

from tbn_bench.binarizers._base import ActivationBinarizer, Binarizer, Decision, Target, channels
from tbn_bench.binarizers.twn import TernaryWeight

EPS = 1e-5


class BitNetWeight(TernaryWeight):
    def signs(self, weight: Tensor) -> Tensor:
        scaled = weight / (self.scales(weight) + EPS)
        return scaled.round().clamp(-1, 1).reshape(-1)

    def scales(self, weight: Tensor) -> Tensor:
        return weight.abs().mean().reshape(1)


class Absmax8(ActivationBinarizer):
    """axes: over which the largest value is taken."""

    bits = 8

    def __init__(self, axes: tuple[int, ...]):
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            largest = x.abs().amax(self.axes, keepdim=True).clamp(min=EPS)
            scale = 127 / largest
            quantized = (x * scale).round().clamp(-128, 127) / scale
        if not x.requires_grad:
            return quantized
        return x + (quantized - x).detach()


class BitNet158(Binarizer):
    def __init__(self, activation_bits: int = 8):
        if activation_bits not in (8, 32):
            raise ValueError(f"bitnet158: activation_bits must be 8 or 32, got {activation_bits!r}")
        self.activation_bits = activation_bits

    def layer(self, target: Target) -> Decision:
        return Decision(BitNetWeight(), "ternary, one scale per layer")

    def activation(self, target: Target) -> Absmax8 | None:
        if self.activation_bits == 32:
            return None
        _, axis = channels(target)
        return Absmax8(tuple(range(axis, 0)))
