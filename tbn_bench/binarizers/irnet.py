"""IR-Net's weights, W1A32 (Qin et al., arXiv 1909.10788): Libra parameter binarization and the error decay estimator (EDE).

Forward   per output channel of n weights: What = (W - mean W) / std W (unbiased), B = 2^s * sign(What), s = round(log2 mean |What|)
          sign(0) = +1. The paper's code gives 0, which no bit holds; so a weight equal to its channel's mean is +1 here throughout
Backward  dL/dWhat = 2^s * dL/dB * k t (1 - tanh(t What)^2)   (EDE; the sign in forward stays hard)
          dL/dW by autograd through the standardisation, mean and std included; s is a constant
Schedule  in epoch i of N, counted from 0: t = t_min * 10^(i/N * log10(t_max / t_min)), k = max(1/t, 1). The last epoch, N - 1, stays
          one step short of t_max. k and t are buffers, so checkpoints hold them
Stored    N bits and one scale per output channel. The scale is an integer power of two and could be a shift of a few bits; the packed
          file stores it as a float32, so 32 bits are counted. Biases and normalisation stay full precision.

Raises ValueError for a layer with a channel of standard deviation 0 (one weight, or all equal): nothing can be standardised there.
"""

import math
from typing import Any

import torch
from torch import Tensor

from tbn_bench.binarizers._base import Binarizer, Decision, Target, WeightBinarizer


class _EDE(torch.autograd.Function):
    """x: any shape -> sign(x). Backward k t (1 - tanh(t x)^2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: Tensor, t: Tensor) -> Tensor:
        ctx.save_for_backward(x, k.clone(), t.clone())  # the buffers are written in place when an epoch begins
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, k, t = ctx.saved_tensors
        return grad * (k * t * (1 - torch.tanh(t * x).square())), None, None


def standardized(weight: Tensor) -> Tensor:
    """What: (C, n) of weight: (C, ...), mean 0 and unbiased standard deviation 1 per row."""
    rows = weight.flatten(1)
    centred = rows - rows.mean(1, keepdim=True)
    return centred / centred.std(1, keepdim=True)


class IRNetWeight(WeightBinarizer):
    """Buffers k, t: () of the current epoch; before the first begin_epoch those of epoch 0."""

    def __init__(self, t_min: float, t_max: float):
        super().__init__()
        self.t_min, self.t_max = t_min, t_max
        self.register_buffer("k", torch.empty(()))
        self.register_buffer("t", torch.empty(()))
        self.begin_epoch(0, 1)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        t = self.t_min * 10 ** (epoch / epochs * math.log10(self.t_max / self.t_min))
        self.t.fill_(t)
        self.k.fill_(max(1 / t, 1.0))

    def forward(self, weight: Tensor) -> Tensor:
        what = standardized(weight)
        return (_shifts(what)[:, None] * _EDE.apply(what, self.k, self.t)).reshape(weight.shape)

    def signs(self, weight: Tensor) -> Tensor:
        return _EDE.apply(standardized(weight), self.k, self.t).reshape(-1)

    def scales(self, weight: Tensor) -> Tensor:
        return _shifts(standardized(weight))

    def num_scales(self, weight: Tensor) -> int:
        return weight.shape[0]


def _shifts(what: Tensor) -> Tensor:
    """2^round(log2 mean |What|) of each row: (C,)."""
    return torch.exp2(torch.round(torch.log2(what.detach().abs().mean(1))))


class IRNet(Binarizer):
    def __init__(self, t_min: float = 1e-3, t_max: float = 10.0):
        for name, value in (("t_min", t_min), ("t_max", t_max)):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value <= 0:
                raise ValueError(f"irnet: {name} must be a positive number, got {value!r}; the paper has t_min=1e-3, t_max=10.0")
        if t_min > t_max:
            raise ValueError(f"irnet: t grows from t_min to t_max, got t_min={t_min!r} > t_max={t_max!r}")
        self.t_min, self.t_max = float(t_min), float(t_max)

    def decide(self, targets: list[Target]) -> list[Decision]:
        errors = [message for target in targets if (message := _refused(target))]
        if errors:
            raise ValueError("\n".join(errors))
        return super().decide(targets)

    def layer(self, target: Target) -> Decision:
        return Decision(IRNetWeight(self.t_min, self.t_max), "binary, a power of two per output channel")


def _refused(target: Target) -> str:
    """Why a weight cannot be standardised, or ''. On the meta device only the shape is looked at."""
    rows = target.weight.detach().flatten(1)
    if rows.shape[1] > 1 and (rows.is_meta or bool((rows != rows[:, :1]).any(1).all())):
        return ""
    return (
        f"irnet divides by the standard deviation of each output channel, and layer {target.name} {tuple(target.weight.shape)} has a "
        "channel whose weights are all equal; initialise it at random, or keep it in full precision"
    )
