"""Sub-bit networks, SNN (Wang et al., arXiv 2110.09195): each binary 3x3 kernel is one of 2^tau.

W1A32, or W1A1 with activations=True.

Forward   a layer owns a codebook of 2^tau of the 512 binary 3x3 kernels. Each kernel of W takes the
          nearest entry (all have norm 3, so it has the largest dot product; the first of equals).
          B_c = alpha_c * (the entries), alpha_c = mean |W_c| over output channel c
          entry bit = sign(P) of a float codebook P, except where |P| < 1e-3: there the bit stays as
          it was. sign(0) = +1
          layers without 3x3 kernels are binary with alpha_c: bwn(grad="clip_ste")
Backward  W: alpha * g * 1[|w| <= 1], alpha a constant. P: in every 25th step the sum of alpha * g
          over the kernels that chose the entry; 0 in between. Momentum and Adam still move P in
          between, so under them bits turn in other steps too
Between   steps (begin_step): the bits that |P| < 1e-3 keeps are noted, entries that have become
          equal to an earlier one are redrawn from the unused kernels, P is clamped to [-3, 3].
          Draws are seeded by the step, so all ranks draw the same
Source    rules as in the authors' release (yikaiw/SNN, step 2). Ours: P starts at random kernels
          times |N(0, 0.01)|, so that refinement can turn bits; the memory of P's bits and its step
          counter are buffers, so resume and DDP see them
Activations  RSign, as reactnet, on which the release is built
Stored    tau / 9 bits per weight, a codebook of 9 * 2^tau bits, one 32-bit scale per output
          channel. Biases and normalisation stay float.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from tbn_bench.binarizers._base import (
    ActivationBinarizer,
    Binarizer,
    Decision,
    Scheduled,
    Target,
    WeightBinarizer,
    channels,
    sign,
)
from tbn_bench.binarizers.bwn import BWNWeight
from tbn_bench.binarizers.reactnet import RSign
from tbn_bench.format.coding import KERNEL
from tbn_bench.format.form import Form

KERNELS = 1 << KERNEL
THRESHOLD = 1e-3
START = 0.01


def all_kernels(numbers: Tensor) -> Tensor:
    """numbers: (n,) below 512 -> (n, 9) of +-1, bit j of the number being sign j."""
    places = torch.arange(KERNEL, device=numbers.device)
    bits = (numbers[:, None] >> places) & 1
    return bits.float() * 2 - 1


def numbers_of(kernels: Tensor) -> Tensor:
    """all_kernels' inverse."""
    places = torch.arange(KERNEL, device=kernels.device)
    bits = (kernels > 0).long()
    return (bits << places).sum(1)


class _Choose(torch.autograd.Function):
    """weight: (..., 3, 3), codebook: (n, 9) -> nearest entries in weight's shape.

    Backward: clip-STE to weight; summed to the codebook.
    """

    @staticmethod
    def forward(ctx, weight, codebook):
        kernels = weight.reshape(-1, KERNEL).to(codebook.dtype)
        chosen = (kernels @ codebook.T).argmax(1)
        ctx.save_for_backward(weight, chosen)
        ctx.entries = len(codebook)
        ctx.book_type = codebook.dtype
        entries = codebook[chosen].reshape(weight.shape)
        return entries.to(weight.dtype)

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
    if device == "meta":
        return nullcontext()
    return torch.autocast(device, enabled=False)


class CodebookWeight(Scheduled, WeightBinarizer):
    """A layer of 3x3 kernels that each take an entry of `book`: (2^tau, 9).

    The book is differentiable where it learns.
    """

    def __init__(self, tau: int):
        super().__init__()
        self.tau = tau

    def book(self) -> Tensor:
        raise NotImplementedError  # abstract

    def codebook(self) -> Tensor:
        return self.book().detach()

    def forward(self, weight: Tensor) -> Tensor:
        with _exact(weight.device.type):
            scale = self.scales(weight).detach()
            entries = _Choose.apply(weight, self.book())
            return self.noted(scale.reshape(-1, 1, 1, 1) * entries)

    def signs(self, weight: Tensor) -> Tensor:
        return _Choose.apply(weight.detach(), self.codebook()).reshape(-1)

    def scales(self, weight: Tensor) -> Tensor:
        return weight.abs().flatten(1).mean(1)

    def form(self, weight: Tensor) -> Form:
        return Form(
            tuple(weight.shape),
            scales=weight.shape[0],
            code="codebook",
            index_bits=self.tau,
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

    expects = ("step",)

    def __init__(self, tau: int, every: int):
        super().__init__(tau)
        self.every = every
        entries = 1 << tau
        numbers = torch.randperm(KERNELS)[:entries]
        start = all_kernels(numbers)
        sizes = (START * torch.randn(start.shape)).abs()
        self.P = nn.Parameter(start * sizes)
        self.register_buffer("memory", start.clone())
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def book(self) -> Tensor:
        refine = (self.step % self.every == 0) & (self.step > 0)
        return _Bits.apply(self.P, self.memory, refine)

    @torch.no_grad()
    def begin_step(self) -> None:
        self.step += 1
        bits = self.codebook()
        numbers = numbers_of(bits)
        entries = len(numbers)
        order = torch.arange(entries, device=numbers.device)

        # kernel number -> its first entry; `entries` where it has none
        none = torch.full((KERNELS,), entries, device=numbers.device)
        first = none.scatter_reduce(0, numbers, order, "amin")
        again = (first[numbers] != order).nonzero()[:, 0]
        if len(again):
            free = (first == entries).nonzero()[:, 0].cpu()
            generator = torch.Generator().manual_seed(int(self.step))
            draw = torch.randperm(len(free), generator=generator)[: len(again)]
            fresh = all_kernels(free[draw]).to(bits)
            bits[again] = fresh
            self.P[again] = fresh * START

        self.memory.copy_(bits)
        self.P.clamp_(-3, 3)


def check_tau(method: str, tau: object) -> int:
    whole = isinstance(tau, int) and not isinstance(tau, bool)
    if not whole or not 1 <= tau <= 8:
        raise ValueError(
            f"{method}: tau, the bits of an index into the codebook, must be from 1 to 8, "
            f"got {tau!r}"
        )
    return tau


class SNN(Binarizer):
    """tau: bits per 3x3 kernel; every: steps between refinements.

    activations: whether inputs are binarized too.
    """

    def __init__(self, tau: int = 5, every: int = 25, activations: bool = False):
        whole = isinstance(every, int) and not isinstance(every, bool)
        if not whole or every < 1:
            raise ValueError(f"snn: every counts steps, a positive integer, got {every!r}")
        self.tau = check_tau("snn", tau)
        self.every = every
        self.activations = activations

    def layer(self, target: Target) -> Decision:
        if tuple(target.weight.shape[2:]) != (3, 3):
            reason = "no 3x3 kernels: binary, one scale per output channel"
            return Decision(BWNWeight("clip_ste"), reason)
        reason = f"each kernel one of {1 << self.tau}, one scale per output channel"
        return Decision(SNNWeight(self.tau, self.every), reason)

    def activation(self, target: Target) -> ActivationBinarizer | None:
        if not self.activations:
            return None
        return RSign(*channels(target))
