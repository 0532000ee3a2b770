"""Sub-bit networks, SNN (Wang et al., arXiv 2110.09195): each binary 3x3 kernel is one of 2^tau; W1A32, or W1A1 with activations=True.

Forward   a layer owns a codebook of 2^tau of the 512 binary 3x3 kernels. Each kernel of W takes the nearest entry (all have norm 3, so the
          largest dot product; the first of equals). B_c = alpha_c * (the entries), alpha_c = mean |W_c| over output channel c
          entry bit = sign(P) of a float codebook P, except where |P| < 1e-3, which keeps the bit that it had. sign(0) = +1
          layers without 3x3 kernels are binary with alpha_c: bwn(grad="clip_ste")
Backward  W: alpha * g * 1[|w| <= 1], alpha a constant. P: in every 25th step the sum of alpha * g over the kernels that chose the entry;
          0 in between. Momentum and Adam go on moving P in between all the same, so under them bits turn in other steps too
Between   steps (begin_step): the bits that |P| < 1e-3 keeps are noted, entries that have become equal to an earlier one are redrawn from
          the unused kernels, P is clamped to [-3, 3]. Draws are seeded by the step, so every rank draws alike
Source    rules as in the authors' release (yikaiw/SNN, step 2); ours: P starts at random kernels times |N(0, 0.01)|, so that
          refinement can turn bits; what P has of a step, its memory and its counter are buffers, so resume and DDP see them
Activations  RSign, as reactnet, on which the release is built
Stored    tau / 9 bits per weight, a codebook of 9 * 2^tau bits, one 32-bit scale per output channel. Biases and normalisation stay float.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from tbn_bench.binarizers._base import (
    ActivationBinarizer,
    Binarizer,
    Decision,
    Target,
    WeightBinarizer,
    channels,
    sign,
)
from tbn_bench.binarizers.bwn import BWNWeight
from tbn_bench.binarizers.reactnet import RSign
from tbn_bench.format.form import KERNEL, Form

KERNELS = 1 << KERNEL
THRESHOLD = 1e-3
START = 0.01


def all_kernels(numbers: Tensor) -> Tensor:
    """numbers: (n,) below 512 -> (n, 9) of +-1, bit j of the number being sign j."""
    return ((numbers[:, None] >> torch.arange(KERNEL, device=numbers.device)) & 1).float() * 2 - 1


def numbers_of(kernels: Tensor) -> Tensor:
    """all_kernels' inverse."""
    return ((kernels > 0).long() << torch.arange(KERNEL, device=kernels.device)).sum(1)


class _Choose(torch.autograd.Function):
    """weight: (..., 3, 3), codebook: (n, 9) -> nearest entries in weight's shape. Backward: clip-STE to weight; summed to the codebook."""

    @staticmethod
    def forward(ctx, weight, codebook):
        chosen = (weight.reshape(-1, KERNEL).to(codebook.dtype) @ codebook.T).argmax(1)
        ctx.save_for_backward(weight, chosen)
        ctx.entries, ctx.book_type = len(codebook), codebook.dtype
        return codebook[chosen].reshape(weight.shape).to(weight.dtype)

    @staticmethod
    def backward(ctx, grad):
        weight, chosen = ctx.saved_tensors
        grads = grad.reshape(-1, KERNEL).to(ctx.book_type)
        to_codebook = grads.new_zeros(ctx.entries, KERNEL)
        if ctx.needs_input_grad[1]:
            to_codebook.index_add_(0, chosen, grads)
        return grad * (weight.abs() <= 1), to_codebook


def _exact(device: str) -> AbstractContextManager[None]:
    """No autocast inside: products in bfloat16 choose other kernels than those that are stored."""
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


class CodebookWeight(WeightBinarizer):
    """A layer of 3x3 kernels that each take an entry of `book`, (2^tau, 9), differentiable where it learns."""

    def __init__(self, tau: int):
        super().__init__()
        self.tau = tau

    def book(self) -> Tensor:
        raise NotImplementedError  # abstract

    def codebook(self) -> Tensor:
        return self.book().detach()

    def forward(self, weight: Tensor) -> Tensor:
        with _exact(weight.device.type):
            return self.scales(weight).detach().reshape(-1, 1, 1, 1) * _Choose.apply(
                weight, self.book()
            )

    def signs(self, weight: Tensor) -> Tensor:
        return _Choose.apply(weight.detach(), self.codebook()).reshape(-1)

    def scales(self, weight: Tensor) -> Tensor:
        return weight.abs().flatten(1).mean(1)

    def form(self, weight: Tensor) -> Form:
        return Form(
            tuple(weight.shape), scales=weight.shape[0], code="codebook", index_bits=self.tau
        )


class _Bits(torch.autograd.Function):
    """P, memory: (n, 9) -> entry bits. Backward: g where the step refines, else 0."""

    @staticmethod
    def forward(ctx, p, memory, refine):
        ctx.save_for_backward(refine)
        return torch.where(p.abs() >= THRESHOLD, sign(p), memory)

    @staticmethod
    def backward(ctx, grad):
        (refine,) = ctx.saved_tensors
        return grad * refine, None, None


class SNNWeight(CodebookWeight):
    """Parameter P: (2^tau, 9); buffers memory: (2^tau, 9) of +-1 and step: () int64."""

    def __init__(self, tau: int, every: int):
        super().__init__(tau)
        self.every = every
        start = all_kernels(torch.randperm(KERNELS)[: 1 << tau])
        self.P = nn.Parameter(start * (START * torch.randn(start.shape)).abs())
        self.register_buffer("memory", start.clone())
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def book(self) -> Tensor:
        return _Bits.apply(self.P, self.memory, (self.step % self.every == 0) & (self.step > 0))

    @torch.no_grad()
    def begin_step(self) -> None:
        self.step += 1
        bits = self.codebook()
        numbers = numbers_of(bits)
        order = torch.arange(len(numbers), device=numbers.device)
        first = torch.full((KERNELS,), len(numbers), device=numbers.device).scatter_reduce(
            0, numbers, order, "amin"
        )
        again = (first[numbers] != order).nonzero()[:, 0]
        if len(again):
            free = (first == len(numbers)).nonzero()[:, 0].cpu()
            draw = torch.randperm(
                len(free), generator=torch.Generator().manual_seed(int(self.step))
            )[: len(again)]
            fresh = all_kernels(free[draw]).to(bits)
            bits[again] = fresh
            self.P[again] = fresh * START
        self.memory.copy_(bits)
        self.P.clamp_(-3, 3)


def check_tau(method: str, tau: object) -> int:
    if isinstance(tau, bool) or not isinstance(tau, int) or not 1 <= tau <= 8:
        raise ValueError(
            f"{method}: tau, the bits of an index into the codebook, must be from 1 to 8, got {tau!r}"
        )
    return tau


class SNN(Binarizer):
    """tau: bits per 3x3 kernel; every: steps between refinements; activations: whether inputs are binarized too."""

    def __init__(self, tau: int = 5, every: int = 25, activations: bool = False):
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"snn: every counts steps, a positive integer, got {every!r}")
        self.tau, self.every, self.activations = check_tau("snn", tau), every, activations

    def layer(self, target: Target) -> Decision:
        if tuple(target.weight.shape[2:]) != (3, 3):
            return Decision(
                BWNWeight("clip_ste"), "no 3x3 kernels: binary, one scale per output channel"
            )
        return Decision(
            SNNWeight(self.tau, self.every),
            f"each kernel one of {1 << self.tau}, one scale per output channel",
        )

    def activation(self, target: Target) -> ActivationBinarizer | None:
        return RSign(*channels(target)) if self.activations else None
