"""BinaryConnect, weights only (Courbariaux, Bengio, David; arXiv 1511.00363, sections 2.2 to 2.4).

Forward   B = +1 if w >= 0 else -1     (sign(0) = +1)
          stochastic=True, in training mode: B = +1 with probability clip((w + 1) / 2, 0, 1), drawn
          anew in every forward
Backward  dL/dw = dL/dB                (identity, no window)
Clipping  w <- clip(w, -1, 1) after every update. It happens at the start of the next forward in
          training mode: see BinaryConnectWeight
Stored    N bits, no scale. Biases and normalisation stay full precision.

For testing, the paper takes the signs of a network trained deterministically, and the float weights
of one trained stochastically. A stored network has only bits, so here both are tested, and stored,
by their signs: published numbers of the stochastic variant are those of a float network. The signs
are then tested with batch normalisation's statistics of drawn weights, which costs accuracy unless
they are estimated again. The paper also scales learning rates by Glorot's constants, which we leave
to the recipe.
"""

from typing import Any

import torch
from torch import Tensor

from tbn_bench.binarizers._base import Binarizer, Decision, Target, WeightBinarizer


class _StraightThrough(torch.autograd.Function):
    """weight: any shape, threshold: the same or a number -> +1 where weight >= threshold else -1.

    Backward is the identity.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, threshold: Tensor | float) -> Tensor:
        return torch.where(weight >= threshold, 1.0, -1.0).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class BinaryConnectWeight(WeightBinarizer):
    """Clips the latent weight at the start of a forward in training mode.

    So no optimizer has to know of it. It has the effect of the paper's clipping after the update:
    between an update and the next forward only the sign of w is read, and clipping keeps the sign.
    The first forward also clips the initial weights. A checkpoint holds w as the update left it;
    the resumed run clips it first, as the uninterrupted one does. Clipping twice is clipping once,
    so a weight that is used twice in a step does not change in between. Writing through `.data`
    leaves autograd's version counter alone: a graph that has saved w (a penalty, say) still runs
    backward.
    """

    def __init__(self, stochastic: bool):
        super().__init__()
        self.stochastic = stochastic

    def forward(self, weight: Tensor) -> Tensor:
        # a tensor that is computed from another is no latent weight of ours to change
        if self.training and weight.is_leaf:
            weight.data.clamp_(-1, 1)
        if self.training and self.stochastic:
            # u = 1 - 2 v, v uniform in [0, 1): P(w >= u) = (w + 1) / 2. As u > -1, w = -1 never
            # gives +1, and w = 1 always does.
            threshold = 1 - 2 * torch.rand_like(weight)
            return _StraightThrough.apply(weight, threshold)
        return _StraightThrough.apply(weight, 0.0)

    def signs(self, weight: Tensor) -> Tensor:
        return _StraightThrough.apply(weight, 0.0).reshape(-1)

    def scales(self, weight: Tensor) -> Tensor:
        return weight.new_empty(0)

    def num_scales(self, weight: Tensor) -> int:
        return 0


class BinaryConnect(Binarizer):
    def __init__(self, stochastic: bool = False):
        if not isinstance(stochastic, bool):
            raise ValueError(
                f"binary_connect: stochastic must be True or False, got {stochastic!r}"
            )
        self.stochastic = stochastic

    def layer(self, target: Target) -> Decision:
        return Decision(BinaryConnectWeight(self.stochastic), "binary, no scale")
