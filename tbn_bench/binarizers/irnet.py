"""IR-Net (Qin et al., arXiv 1909.10788).

Libra parameter binarization and the error decay estimator (EDE). W1A32, or W1A1 with
activations=True.

Forward   per output channel of n weights: What = (W - mean W) / std W (unbiased),
          B = 2^s * sign(What), s = round(log2 mean |What|)
          sign(0) = +1. The paper's code gives 0, which no bit holds; so a weight equal to its
          channel's mean is always +1 here
          activations: sign(a), sign(0) = +1
Backward  dL/dWhat = 2^s * dL/dB * k t (1 - tanh(t What)^2)   (EDE; the sign in forward stays hard)
          dL/dW by autograd through the standardisation, mean and std included; s is a constant.
          Activations: EDE too
Schedule  in epoch i of N, counted from 0: t = t_min * 10^(i/N * log10(t_max / t_min)),
          k = max(1/t, 1). The last epoch, N - 1, stays one step short of t_max. k and t are
          buffers, so checkpoints hold them
Stored    N bits and the integer s of each output channel, 8 bits. Biases and normalisation stay
          full precision.

Raises ValueError for a layer with a channel of standard deviation 0 (one weight, or all equal),
because it cannot be standardised.
"""

import math

import torch
from torch import Tensor

from tbn_bench.binarizers._base import (
    ActivationBinarizer,
    Binarizer,
    Decision,
    EDESchedule,
    Target,
    WeightBinarizer,
    channels,
    ede,
    has_flat_channel,
)
from tbn_bench.format.form import Form


def standardized(weight: Tensor) -> Tensor:
    """What: (C, n) of weight: (C, ...), mean 0 and unbiased standard deviation 1 per row."""
    rows = weight.flatten(1)
    centred = rows - rows.mean(1, keepdim=True)
    return centred / centred.std(1, keepdim=True)


class IRNetWeight(EDESchedule, WeightBinarizer):
    """Buffers k, t: () of the current epoch; before the first begin_epoch those of epoch 0."""

    def __init__(self, t_min: float, t_max: float):
        super().__init__()
        self.start_schedule(t_min, t_max)

    def forward(self, weight: Tensor) -> Tensor:
        what = standardized(weight)
        scale = _shifts(what)[:, None]
        signs = ede(what, self.k, self.t)
        return self.noted((scale * signs).reshape(weight.shape))

    def signs(self, weight: Tensor) -> Tensor:
        what = standardized(weight)
        return ede(what, self.k, self.t).reshape(-1)

    def scales(self, weight: Tensor) -> Tensor:
        return _shifts(standardized(weight))

    def form(self, weight: Tensor) -> Form:
        return Form(tuple(weight.shape), scales=weight.shape[0], exponents=True)


class EDESign(EDESchedule, ActivationBinarizer):
    """sign(x), backward by EDE. Buffers k, t as IRNetWeight's."""

    training_only = ("k", "t")

    def __init__(self, t_min: float, t_max: float):
        super().__init__()
        self.start_schedule(t_min, t_max)

    def forward(self, x: Tensor) -> Tensor:
        return self.noted(ede(x, self.k, self.t))


def _shifts(what: Tensor) -> Tensor:
    """2^round(log2 mean |What|) of each row: (C,)."""
    mean = what.detach().abs().mean(1)
    exponent = torch.round(torch.log2(mean))
    return torch.exp2(exponent)


class IRNet(Binarizer):
    """activations: whether the layers' inputs are binarized too."""

    def __init__(self, activations: bool = False, t_min: float = 1e-3, t_max: float = 10.0):
        for name, value in (("t_min", t_min), ("t_max", t_max)):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value <= 0:
                raise ValueError(
                    f"irnet: {name} must be a positive number, got {value!r}; "
                    "the paper has t_min=1e-3, t_max=10.0"
                )
        if t_min > t_max:
            raise ValueError(
                f"irnet: t grows from t_min to t_max, got t_min={t_min!r} > t_max={t_max!r}"
            )
        self.activations = activations
        self.t_min = float(t_min)
        self.t_max = float(t_max)

    def decide(self, targets: list[Target]) -> list[Decision]:
        errors = [_refused(target) for target in targets if has_flat_channel(target.weight)]
        if errors:
            raise ValueError("\n".join(errors))
        return super().decide(targets)

    def layer(self, target: Target) -> Decision:
        method = IRNetWeight(self.t_min, self.t_max)
        return Decision(method, "binary, a power of two per output channel")

    def activation(self, target: Target) -> EDESign | None:
        if not self.activations:
            return None
        channels(target)
        return EDESign(self.t_min, self.t_max)


def _refused(target: Target) -> str:
    """The message for a weight that cannot be standardised."""
    return (
        "irnet divides by the standard deviation of each output channel, "
        f"and layer {target.name} {tuple(target.weight.shape)} has a channel whose weights "
        "are all equal; initialise it at random, or keep it in full precision"
    )
