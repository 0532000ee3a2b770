"""Plain sign binarization, one bit per weight and no scale.

Forward   B = +1 if w >= 0 else -1     (sign(0) = +1, as BinaryConnect, arXiv 1511.00363)
Backward  dL/dw = dL/dB * 1[|w| <= 1]  (clipped straight-through, arXiv 1602.02830)
Stored    N bits. Biases and normalisation stay full precision.
"""

from torch import Tensor

from tbn_bench.binarizers._base import Binarizer, Decision, Target, WeightBinarizer, clip_ste


class SignWeight(WeightBinarizer):
    def forward(self, weight: Tensor) -> Tensor:
        return clip_ste(weight)

    def signs(self, weight: Tensor) -> Tensor:
        return clip_ste(weight).reshape(-1)

    def scales(self, weight: Tensor) -> Tensor:
        return weight.new_empty(0)

    def num_scales(self, weight: Tensor) -> int:
        return 0


class Sign(Binarizer):
    def layer(self, target: Target) -> Decision:
        return Decision(SignWeight(), "binary, no scale")
