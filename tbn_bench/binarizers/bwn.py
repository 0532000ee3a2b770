"""Binary-Weight-Network (Rastegari et al., arXiv 1603.05279, section 3.1).

Forward   B_c = alpha_c * sign(W_c), alpha_c = mean |W_c| over output channel c   (sign(0) = +1)
Backward  the full derivative, cross term included, with the clipped straight-through sign:
          dL/dw_i = alpha * 1[|w_i| <= 1] * g_i + sign(w_i)/n * sum_j g_j * sign(w_j)
          (the paper keeps only j = i of the sum; at w_i = 0 the derivative of |w_i| is taken as 0)
Stored    N bits and one 32-bit scale per output channel. Biases and normalisation stay full precision.
"""

from torch import Tensor

from tbn_bench.binarizers._base import Binarizer, Decision, Target, WeightBinarizer, clip_ste


class BWNWeight(WeightBinarizer):
    def forward(self, weight: Tensor) -> Tensor:
        scale = self.scales(weight).reshape(-1, *[1] * (weight.dim() - 1))
        return scale * clip_ste(weight)

    def signs(self, weight: Tensor) -> Tensor:
        return clip_ste(weight).reshape(-1)

    def scales(self, weight: Tensor) -> Tensor:
        return weight.abs().flatten(1).mean(1)

    def num_scales(self, weight: Tensor) -> int:
        return weight.shape[0]


class BWN(Binarizer):
    def layer(self, target: Target) -> Decision:
        return Decision(BWNWeight(), "binary, one scale per output channel")
