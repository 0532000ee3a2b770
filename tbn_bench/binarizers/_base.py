"""The parts of every weight binarizer.

They are a policy over the layers of a network, and one parametrization per binarized weight.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tbn_bench.format.form import Form
from tbn_bench.format.layouts import Copies


@dataclass(frozen=True)
class Target:
    """A weight that could be binarized.

    name: its qualified name. weight: (C_out, ...), the latent tensor. module: its layer.
    users: every layer that shares the weight, `module` first.
    """

    name: str
    weight: Tensor
    module: nn.Module | None = None
    users: tuple[nn.Module, ...] = ()

    @property
    def grouped(self) -> bool:
        """Whether a layer that uses it is a convolution in groups."""
        users = self.users or (self.module,)
        return any(getattr(user, "groups", 1) != 1 for user in users)


@dataclass(frozen=True)
class Decision:
    """A binarizer's answer for a target: a parametrization, or None for full precision, and why."""

    parametrization: "WeightBinarizer | None"
    reason: str


class WeightBinarizer(nn.Module):
    """A torch parametrization: latent weight -> binary weight.

    At inference `form` describes the weight and `stored` gives it: `signs`, `scales`, and for a few
    methods `offsets` and a `codebook` (form.py). cost.py counts it and the packed file holds it.
    """

    p: int = 1  # how many times each stored sign is used
    copies: Copies | None = None  # their places; None: aligned
    reuse: bool = False  # whether the layer may multiply by only `training_tile` (reuse.py)
    # own parameters that are latent binary tensors, as the weight is; the others are scales
    latents: tuple[str, ...] = ()
    # with reuse: the tile is constant, and the latent weight gets the unscaled weight's gradient
    elementwise: bool = False
    factored: bool = False  # with reuse: the layer multiplies by `factors`, one after the other
    # False: training only started from the latent weight, and it gets no gradient
    learns_latent: bool = True
    frozen: bool = False  # True: the stored signs are not meant to change; a gradient of 0 is right

    def forward(self, weight: Tensor) -> Tensor:
        raise NotImplementedError  # abstract

    def signs(self, weight: Tensor) -> Tensor:
        """The stored values, +-1 (or -1, 0, 1 where the form is ternary): (N / p,)."""
        raise NotImplementedError  # abstract

    def column_sums(self, weight: Tensor) -> Tensor | None:
        """The sums of p weights each whose signs are stored: (N / p,). None without such sums."""
        return None

    def scales(self, weight: Tensor) -> Tensor:
        """The stored scales: (k,) where k divides N; (0,) for a method without scale."""
        raise NotImplementedError  # abstract

    def num_scales(self, weight: Tensor) -> int:
        """k, from only the shape (also on the meta device)."""
        raise NotImplementedError  # abstract

    def form(self, weight: Tensor) -> Form:
        """How the weight is stored, from only its shape (also on the meta device)."""
        scales = self.num_scales(weight)
        return Form(tuple(weight.shape), self.p, scales, copies=self.copies)

    def offsets(self, weight: Tensor) -> Tensor | None:
        """The offsets that are added to the scaled values: (k,)."""
        return None

    def codebook(self) -> Tensor | None:
        """(2^index_bits, 9) of +-1."""
        return None

    def stored(self, weight: Tensor) -> dict[str, NDArray[np.generic]]:
        """The tensors of the stored form, by form.py's names: here a tile becomes bytes."""
        offsets = _array(self.offsets(weight))
        codebook = _array(self.codebook())
        scales = _array(self.scales(weight))
        signs = self.signs(weight).detach().to(torch.int8).cpu().numpy()
        return self.form(weight).encode(signs, scales, offsets, codebook)

    def training_tile(self, weight: Tensor) -> Tensor:
        """Where reuse: the tile (q,).

        It is differentiable by the method's rule, or constant where elementwise.
        """
        raise NotImplementedError  # abstract

    def factors(self) -> tuple[Tensor, Tensor]:
        """Where factored: ((s, C_in, *k), (C_out, s)), differentiable.

        Their product is the weight, scales included.
        """
        raise NotImplementedError  # abstract

    def restart(self, weight: Tensor) -> None:
        """Called after another run's weight became the latent one.

        A method that derives state from the weight overrides it.
        """

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called by the task when `epoch` (0-based) of `epochs` begins.

        A method with a schedule overrides it.
        """

    def begin_step(self) -> None:
        """Called by the task before every training step.

        A method that acts between steps overrides it.
        """


def _array(tensor: Tensor | None) -> NDArray[np.float32] | None:
    if tensor is None:
        return None
    return tensor.detach().float().cpu().numpy()


class ActivationBinarizer(nn.Module):
    """Binarizes the input of a layer, before the layer multiplies. x: any shape -> the same shape.

    Convolutions pad afterwards, with zeros: at the border a binary input has a third value, as in
    the methods' own code.
    """

    bits: int = 1
    # buffers that inference does not need: neither counted nor stored
    training_only: tuple[str, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError  # abstract

    def scale_output(self, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The layer's output y for the input x (before binarization).

        A method whose scale depends on x overrides it.
        """
        return y

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """As WeightBinarizer's."""


class Binarizer:
    """A method applied to a whole network.

    Subclasses override `layer` (one weight at a time) or `decide` (all at once).
    """

    def decide(self, targets: list[Target]) -> list[Decision]:
        """One decision per target, in order.

        Raises ValueError naming every layer that cannot be converted.
        """
        return [self.layer(target) for target in targets]

    def layer(self, target: Target) -> Decision:
        raise NotImplementedError  # abstract

    def activation(self, target: Target) -> ActivationBinarizer | None:
        """The binarizer of the input of a target's layer; None: the input stays as it is.

        It is called for every target, even where `decide` keeps the weight.
        """
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
    """Forward +1 where weight >= 0 else -1; backward g * 1[|w| <= 1].

    Hubara et al., arXiv 1602.02830.
    """
    return _ClipSTE.apply(weight)


class _ApproxSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return sign(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        slope = (2 - 2 * x.abs()).clamp_(min=0)
        return grad * slope


def approx_sign(x: Tensor) -> Tensor:
    """Forward +1 where x >= 0 else -1; backward g * max(0, 2 - 2|x|).

    Bi-Real Net, Liu et al., arXiv 1808.00278.
    """
    return _ApproxSign.apply(x) if x.requires_grad else sign(x)


class _EDE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, k, t):
        # copies, because the buffers are written in place when an epoch begins
        ctx.save_for_backward(x, k.clone(), t.clone())
        return sign(x)

    @staticmethod
    def backward(ctx, grad):
        x, k, t = ctx.saved_tensors
        slope = k * t * (1 - torch.tanh(t * x).square())
        return grad * slope, None, None


def ede(x: Tensor, k: Tensor, t: Tensor) -> Tensor:
    """Forward +1 where x >= 0 else -1; backward g * k t (1 - tanh(t x)^2). k, t: ().

    IR-Net, Qin et al., arXiv 1909.10788.
    """
    return _EDE.apply(x, k, t) if x.requires_grad else sign(x)


class Scheduled:
    """Mixed into a binarizer that changes while it trains.

    expects: the events, "epoch" and "step", that a training loop must tell it of. The suite's tasks
    do; other loops call advance_ and begin_step_ (convert/advance.py). A binarizer that has trained
    and never heard of one of them warns once, when its model goes from training to evaluation.
    """

    expects: tuple[str, ...] = ("epoch",)
    heard: frozenset[str] = frozenset()
    has_trained = False
    has_warned = False

    def hear(self, event: str) -> None:
        self.heard = self.heard | {event}

    def noted(self, output: Tensor) -> Tensor:
        """The output of forward, watched: a backward pass through it is a training step."""
        is_new = self.training and not self.has_trained and output.requires_grad
        if is_new and not torch.compiler.is_compiling():
            output.register_hook(self._note_training)
        return output

    def _note_training(self, _: Tensor) -> None:
        self.has_trained = True

    def train(self, mode: bool = True) -> nn.Module:
        missed = [event for event in self.expects if event not in self.heard]
        if not mode and self.has_trained and missed and not self.has_warned:
            self.has_warned = True
            calls = {"epoch": "advance_(model, epoch, epochs)", "step": "begin_step_(model)"}
            warnings.warn(
                f"{type(self).__name__} was trained, but its schedule never moved; call "
                + " and ".join(f"tbn_bench.{calls[event]} before each {event}" for event in missed),
                stacklevel=2,
            )
        return super().train(mode)


class EDESchedule(Scheduled):
    """Mixed into a binarizer with buffers k, t: ().

    In epoch i of N, from 0, t = t_min 10^(i/N log10(t_max / t_min)) and k = max(1/t, 1). The last
    epoch, N - 1, stays one step short of t_max. Because k and t are buffers, they are in every
    checkpoint, and equal on every rank.
    """

    def start_schedule(self, t_min: float, t_max: float) -> None:
        self.t_min = t_min
        self.t_max = t_max
        self.register_buffer("k", torch.empty(()))
        self.register_buffer("t", torch.empty(()))
        self.begin_epoch(0, 1)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        ratio = self.t_max / self.t_min
        t = self.t_min * ratio ** (epoch / epochs)
        self.t.fill_(t)
        self.k.fill_(max(1 / t, 1.0))


def channels(target: Target) -> tuple[int, int]:
    """(input features, their axis counted from the end) of a target's layer.

    Raises ValueError for attention's projections.
    """
    module = target.module
    kind = type(module).__name__
    if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
        kind = "MultiheadAttention"  # it multiplies by this layer, its out_proj, itself
    elif isinstance(module, nn.Linear):
        return module.in_features, -1
    elif isinstance(module, nn.Conv1d | nn.Conv2d):
        return module.in_channels, -len(module.kernel_size) - 1
    raise ValueError(f"{target.name} belongs to a {kind}, whose input cannot be binarized; keep it")


def has_flat_channel(weight: Tensor) -> bool:
    """Whether an output channel's weights are all equal, so that its standard deviation is 0.

    On the meta device the shape decides.
    """
    rows = weight.detach().flatten(1)
    if rows.shape[1] == 1:
        return True
    if rows.is_meta:
        return False
    flat = (rows == rows[:, :1]).all(1)
    return bool(flat.any())
