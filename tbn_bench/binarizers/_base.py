"""What every weight binarizer is: a policy over the layers of a network, and one parametrization per binarized weight."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tbn_bench.format.form import Form
from tbn_bench.format.layouts import Copies


@dataclass(frozen=True)
class Target:
    """A weight that could be binarized. name: its qualified name; weight: (C_out, ...) the latent tensor; module: its layer.

    users: every layer that shares the weight, `module` first.
    """

    name: str
    weight: Tensor
    module: nn.Module | None = None
    users: tuple[nn.Module, ...] = ()

    @property
    def grouped(self) -> bool:
        """Whether a layer that uses it is a convolution in groups."""
        return any(getattr(user, "groups", 1) != 1 for user in self.users or (self.module,))


@dataclass(frozen=True)
class Decision:
    """What a binarizer does with a target: a parametrization, or None for full precision, and why."""

    parametrization: "WeightBinarizer | None"
    reason: str


class WeightBinarizer(nn.Module):
    """A torch parametrization: latent weight -> binary weight.

    At inference the weight is what `form` describes and `stored` gives: `signs`, `scales`, and for a few methods `offsets` and a
    `codebook` (form.py). cost.py counts it and the packed file holds it.
    """

    p: int = 1  # how often the stored signs are reused
    copies: Copies | None = None  # where they go; None: aligned
    reuse: bool = False  # whether the layer may multiply by `training_tile` alone (reuse.py)
    latents: tuple[
        str, ...
    ] = ()  # own parameters that are latent binary tensors, as the weight is; the others are scales
    elementwise: bool = False  # with reuse: the tile is constant and the latent weight gets the gradient of the unscaled weight
    factored: bool = False  # with reuse: the layer multiplies by `factors`, one after the other
    learns_latent: bool = (
        True  # False: the latent weight is only what training started from, and gets no gradient
    )

    def forward(self, weight: Tensor) -> Tensor:
        raise NotImplementedError  # abstract

    def signs(self, weight: Tensor) -> Tensor:
        """The stored values, +-1 (or -1, 0, 1 where the form is ternary): (N / p,)."""
        raise NotImplementedError  # abstract

    def scales(self, weight: Tensor) -> Tensor:
        """The stored scales: (k,) where k divides N; (0,) for a method without scale."""
        raise NotImplementedError  # abstract

    def num_scales(self, weight: Tensor) -> int:
        """k, from the shape alone (also on the meta device)."""
        raise NotImplementedError  # abstract

    def form(self, weight: Tensor) -> Form:
        """How the weight is stored, from its shape alone (also on the meta device)."""
        return Form(tuple(weight.shape), self.p, self.num_scales(weight), copies=self.copies)

    def offsets(self, weight: Tensor) -> Tensor | None:
        """What is added to each scaled value: (k,)."""
        return None

    def codebook(self) -> Tensor | None:
        """(2^index_bits, 9) of +-1."""
        return None

    def stored(self, weight: Tensor) -> dict[str, NDArray[np.generic]]:
        """The tensors of the stored form, by form.py's names."""
        side = [
            None if v is None else v.detach().float().cpu().numpy()
            for v in (self.offsets(weight), self.codebook())
        ]
        scales = self.scales(weight).detach().float().cpu().numpy()
        return self.form(weight).encode(
            self.signs(weight).detach().to(torch.int8).cpu().numpy(), scales, *side
        )

    def training_tile(self, weight: Tensor) -> Tensor:
        """Where reuse: the tile (q,), differentiable by the method's rule, or constant where elementwise."""
        raise NotImplementedError  # abstract

    def factors(self) -> tuple[Tensor, Tensor]:
        """Where factored: ((s, C_in, *k), (C_out, s)), scales included, whose product is the weight; differentiable."""
        raise NotImplementedError  # abstract

    def restart(self, weight: Tensor) -> None:
        """Called after another run's weight became the latent one; a method that derives state from it overrides it."""

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called by the task when `epoch` (0-based) of `epochs` begins; a method with a schedule overrides it."""

    def begin_step(self) -> None:
        """Called by the task before every training step; a method that acts between steps overrides it."""


class ActivationBinarizer(nn.Module):
    """What a layer's input passes before the layer multiplies: x: any shape -> the same shape.

    Convolutions pad afterwards, with zeros: at the border a binary input has a third value, as in the methods' own code.
    """

    bits: int = 1
    training_only: tuple[
        str, ...
    ] = ()  # buffers that inference does not need: neither counted nor stored

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError  # abstract

    def scale_output(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The layer's output y for the input x (before binarization); a method whose scale depends on x overrides it."""
        return y

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """As WeightBinarizer's."""


class Binarizer:
    """A method applied to a whole network. Subclasses override `layer` (one weight at a time) or `decide` (all at once)."""

    def decide(self, targets: list[Target]) -> list[Decision]:
        """One decision per target, in order. Raises ValueError naming every layer that cannot be converted."""
        return [self.layer(target) for target in targets]

    def layer(self, target: Target) -> Decision:
        raise NotImplementedError  # abstract

    def activation(self, target: Target) -> ActivationBinarizer | None:
        """What the input of a target's layer passes; None: it stays as it is. Asked for every target, whatever `decide` says of it."""
        return None


def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1, in x's dtype."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


class _ClipSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight):
        ctx.save_for_backward(weight)
        return sign(weight)

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        return grad * (weight.abs() <= 1)


def clip_ste(weight: Tensor) -> Tensor:
    """Forward +1 where weight >= 0 else -1; backward g * 1[|w| <= 1] (Hubara et al., arXiv 1602.02830)."""
    return _ClipSTE.apply(weight)


class _ApproxSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return sign(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (2 - 2 * x.abs()).clamp_(min=0)


def approx_sign(x: Tensor) -> Tensor:
    """Forward +1 where x >= 0 else -1; backward g * max(0, 2 - 2|x|) (Bi-Real Net, Liu et al., arXiv 1808.00278)."""
    return _ApproxSign.apply(x) if x.requires_grad else sign(x)


class _EDE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, k, t):
        ctx.save_for_backward(
            x, k.clone(), t.clone()
        )  # the buffers are written in place when an epoch begins
        return sign(x)

    @staticmethod
    def backward(ctx, grad):
        x, k, t = ctx.saved_tensors
        return grad * (k * t * (1 - torch.tanh(t * x).square())), None, None


def ede(x: Tensor, k: Tensor, t: Tensor) -> Tensor:
    """Forward +1 where x >= 0 else -1; backward g * k t (1 - tanh(t x)^2) (IR-Net, Qin et al., arXiv 1909.10788). k, t: ()."""
    return _EDE.apply(x, k, t) if x.requires_grad else sign(x)


class EDESchedule:
    """Mixed into a binarizer with buffers k, t: (): in epoch i of N, from 0, t = t_min 10^(i/N log10(t_max / t_min)), k = max(1/t, 1).

    The last epoch, N - 1, stays one step short of t_max. As buffers k and t are in every checkpoint, and equal on every rank.
    """

    def start_schedule(self, t_min: float, t_max: float) -> None:
        self.t_min, self.t_max = t_min, t_max
        self.register_buffer("k", torch.empty(()))
        self.register_buffer("t", torch.empty(()))
        self.begin_epoch(0, 1)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        t = self.t_min * (self.t_max / self.t_min) ** (epoch / epochs)
        self.t.fill_(t)
        self.k.fill_(max(1 / t, 1.0))


def channels(target: Target) -> tuple[int, int]:
    """(input features, their axis counted from the end) of a target's layer. Raises ValueError for attention's projections."""
    module = target.module
    if isinstance(module, nn.Linear) and not isinstance(
        module, nn.modules.linear.NonDynamicallyQuantizableLinear
    ):
        return module.in_features, -1
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return module.in_channels, -len(module.kernel_size) - 1
    kind = (
        "MultiheadAttention" if isinstance(module, nn.Linear) else type(module).__name__
    )  # attention multiplies by out_proj itself
    raise ValueError(f"{target.name} belongs to a {kind}, whose input cannot be binarized; keep it")


def has_flat_channel(weight: Tensor) -> bool:
    """Whether an output channel's weights are all equal, so that it has no standard deviation. On the meta device the shape decides."""
    rows = weight.detach().flatten(1)
    return rows.shape[1] == 1 or (not rows.is_meta and bool((rows == rows[:, :1]).all(1).any()))
