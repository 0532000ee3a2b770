"""ReActNet, W1A1 (Liu et al., arXiv 2003.03488, sections 4.2 and 4.4).

Forward   B_c = alpha_c * sign(W_c), alpha_c = mean |W_c| over output channel c
          activations, RSign: sign(a + b_c), b learned per channel, 0 at first. sign(0) = +1
Backward  weights g * 1[|w| <= 1], alpha neither differentiated nor in the gradient (the released
          code); RSign: g * max(0, 2 - 2|a + b|), to a and, summed, to b
Network   RPReLU is an activation of the network:
          resnet_cifar(activation="rprelu", shortcuts="conv")
Recipe    two steps. reactnet(step=1) binarizes only activations. Step 2 (this method's default)
          starts from its weights (--init) and binarizes both. The loss is the cross-entropy with a
          teacher's output (--teacher). Without them it is another baseline: say so
Stored    N bits and one 32-bit scale per output channel; b, 32 bits per input channel. Biases and
          normalisation stay full precision.
"""

import torch
from torch import Tensor, nn

from tbn_bench.binarizers._base import (
    ActivationBinarizer,
    Binarizer,
    Decision,
    Target,
    approx_sign,
    channels,
)
from tbn_bench.binarizers.bwn import BWNWeight


class RSign(ActivationBinarizer):
    """sign(x + b), b: (features,) along `axis`, counted from the end."""

    def __init__(self, features: int, axis: int):
        super().__init__()
        later_axes = [1] * (-axis - 1)
        self.shift = nn.Parameter(torch.zeros(features, *later_axes))

    def forward(self, x: Tensor) -> Tensor:
        signs = approx_sign(x + self.shift)
        return signs.to(x.dtype)


class ReActNet(Binarizer):
    """step: 2 binarizes weights and activations, 1 (the recipe's first step) only activations."""

    def __init__(self, step: int = 2):
        if step not in (1, 2):
            raise ValueError(
                f"reactnet: step must be 1 (binary activations) or 2 (weights too), got {step!r}"
            )
        self.step = step

    def layer(self, target: Target) -> Decision:
        if self.step == 1:
            return Decision(None, "full precision in step 1")
        return Decision(BWNWeight("clip_ste"), "binary, one scale per output channel")

    def activation(self, target: Target) -> RSign:
        return RSign(*channels(target))
