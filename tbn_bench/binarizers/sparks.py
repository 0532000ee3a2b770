"""Sparks (Wang et al., arXiv 2303.14470): sub-bit kernels from a learned selection of the 512 binary 3x3 kernels; W1A32, or W1A1.

Re-implemented from the paper's description: no public code, and its tables were not at hand. Do not take its numbers for the authors'.

Forward   codebook = the 2^tau kernels that a selection matrix names, none twice; then as snn (nearest entry, alpha per output channel)
          selection: S = Sinkhorn(exp((X + noise * Gumbel) / temperature)), hardened by the Hungarian assignment that maximises it
Backward  W: alpha * g * 1[|w| <= 1], alpha a constant. X: the codebook's gradient, alpha * g summed over the kernels that chose an entry,
          straight through the hardening to S, then autograd through the Sinkhorn iterations
Ours      rows that select nothing are one row of mass 512 - 2^tau and score 0 instead of 512 - 2^tau rows: the same constraints with fewer
          parameters. The noise falls linearly to 0 over the epochs, is drawn by (layer, step), so equal on every rank and after
          a resume, and is left out in evaluation mode. noise 0.05, temperature 0.1, 10 iterations
Stored    as snn: tau / 9 bits per weight, a codebook of 9 * 2^tau bits, one 32-bit scale per output channel.
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from tbn_bench.binarizers._base import ActivationBinarizer, Binarizer, Decision, Target, channels
from tbn_bench.binarizers.bwn import BWNWeight
from tbn_bench.binarizers.reactnet import RSign
from tbn_bench.binarizers.snn import KERNELS, CodebookWeight, all_kernels, check_tau
from tbn_bench.format.form import KERNEL

ITERATIONS = 10


def sinkhorn(scores: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """scores: (n, m), n < m -> positive (n, m) whose rows sum to 1 and whose columns sum to at most 1, nearly (Sinkhorn and Knopp).

    A further row of score 0 takes what the columns have left, m - n in all.
    """
    n, m = scores.shape
    matrix = torch.cat([scores, scores.new_zeros(1, m)])
    matrix = (matrix - matrix.amax(1, keepdim=True)).exp()
    mass = torch.cat([scores.new_ones(n), scores.new_full((1,), m - n)])
    columns = scores.new_ones(m)
    for _ in range(iterations):
        rows = mass / (matrix @ columns).clamp(min=1e-30)
        columns = 1 / (matrix.T @ rows).clamp(min=1e-30)
    rows = mass / (matrix @ columns).clamp(min=1e-30)
    return (rows[:, None] * matrix * columns)[:-1]


class _Harden(torch.autograd.Function):
    """S: (n, m) -> the 0/1 selection of the largest total. Backward is the identity."""

    @staticmethod
    def forward(ctx, soft):
        row, column = linear_sum_assignment(soft.detach().cpu().numpy(), maximize=True)
        hard = torch.zeros_like(soft)
        hard[torch.from_numpy(row), torch.from_numpy(column)] = 1
        return hard

    @staticmethod
    def backward(ctx, grad):
        return grad


class SparksWeight(CodebookWeight):
    """Parameter X: (2^tau, 512); buffers step, seed: () int64 and level: (), the share of the noise that is left."""

    def __init__(self, tau: int, noise: float, temperature: float):
        super().__init__(tau)
        self.noise, self.temperature = noise, temperature
        self.X = nn.Parameter(0.01 * torch.randn(1 << tau, KERNELS))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seed", torch.randint(1 << 30, ()))
        self.register_buffer("level", torch.ones(()))

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.level.fill_(1 - epoch / epochs)

    def begin_step(self) -> None:
        self.step += 1

    def _gumbel(self) -> Tensor:
        draw = torch.Generator().manual_seed(int(self.seed) * 1_000_003 + int(self.step))
        uniform = torch.rand(self.X.shape, generator=draw).clamp(1e-9, 1 - 1e-7).to(self.X)
        return -(-uniform.log()).log()

    def book(self) -> Tensor:
        scores = self.X
        if scores.is_meta:  # shapes alone
            return scores.new_empty(len(scores), KERNEL)
        if self.training and self.noise:
            scores = scores + self.noise * self.level * self._gumbel()
        every = all_kernels(torch.arange(KERNELS, device=scores.device)).to(scores)
        return _Harden.apply(sinkhorn(scores / self.temperature)) @ every


class Sparks(Binarizer):
    """tau: bits per 3x3 kernel; noise: scale of the Gumbel noise at first; activations: whether inputs are binarized too (RSign)."""

    def __init__(
        self, tau: int = 5, noise: float = 0.05, temperature: float = 0.1, activations: bool = False
    ):
        if noise < 0 or temperature <= 0:
            raise ValueError(
                f"sparks: noise must be at least 0 and temperature positive, got {noise!r} and {temperature!r}"
            )
        self.tau, self.noise, self.temperature, self.activations = (
            check_tau("sparks", tau),
            noise,
            temperature,
            activations,
        )

    def layer(self, target: Target) -> Decision:
        if tuple(target.weight.shape[2:]) != (3, 3):
            return Decision(
                BWNWeight("clip_ste"), "no 3x3 kernels: binary, one scale per output channel"
            )
        reason = f"each kernel one of {1 << self.tau} selected, one scale per output channel"
        return Decision(SparksWeight(self.tau, self.noise, self.temperature), reason)

    def activation(self, target: Target) -> ActivationBinarizer | None:
        return RSign(*channels(target)) if self.activations else None
