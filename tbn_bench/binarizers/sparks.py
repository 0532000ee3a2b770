"""Sparks (Wang et al., arXiv 2303.14470): sub-bit kernels.

A layer learns a selection of the 512 binary 3x3 kernels. W1A32, or W1A1. It is re-implemented from
the paper's description, because there is no public code, and the paper's tables were not available.
Do not take its numbers for the authors'.

Forward   codebook = the 2^tau kernels that a selection matrix names, none twice; then as snn
          (nearest entry, alpha per output channel)
          selection: S = Sinkhorn(exp((X + noise * Gumbel) / temperature)), hardened by the
          Hungarian assignment that maximises it
Backward  W: alpha * g * 1[|w| <= 1], alpha a constant. X: the codebook's gradient, alpha * g summed
          over the kernels that chose an entry, straight through the hardening to S, then autograd
          through the Sinkhorn iterations
Ours      the rows that select nothing are one row of mass 512 - 2^tau and score 0 instead of
          512 - 2^tau rows: the same constraints with fewer parameters. The noise falls linearly to
          0 over the epochs, and evaluation mode has none. It is drawn by (layer, step), so it is
          equal on every rank and after a resume. noise 0.05, temperature 0.1, 10 iterations
Stored    as snn: tau / 9 bits per weight, a codebook of 9 * 2^tau bits, one 32-bit scale per output
          channel.
"""

import torch
from torch import Tensor, nn

from tbn_bench.binarizers._base import ActivationBinarizer, Binarizer, Decision, Target, channels
from tbn_bench.binarizers.bwn import BWNWeight
from tbn_bench.binarizers.reactnet import RSign
from tbn_bench.binarizers.snn import KERNELS, CodebookWeight, all_kernels, check_tau
from tbn_bench.format.coding import KERNEL

ITERATIONS = 10


def sinkhorn(scores: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """scores: (n, m), n < m -> positive (n, m).

    Its rows sum to 1 and its columns to at most 1, nearly (Sinkhorn and Knopp). A further row of
    score 0 takes the rest of the columns, m - n in all.
    """
    n, m = scores.shape
    rest = scores.new_zeros(1, m)
    matrix = torch.cat([scores, rest])
    largest = matrix.amax(1, keepdim=True)
    matrix = (matrix - largest).exp()

    rest_mass = scores.new_full((1,), m - n)
    mass = torch.cat([scores.new_ones(n), rest_mass])
    columns = scores.new_ones(m)
    for _ in range(iterations):
        rows = mass / (matrix @ columns).clamp(min=1e-30)
        columns = 1 / (matrix.T @ rows).clamp(min=1e-30)
    rows = mass / (matrix @ columns).clamp(min=1e-30)
    balanced = rows[:, None] * matrix * columns
    return balanced[:-1]


class _Harden(torch.autograd.Function):
    """S: (n, m) -> the 0/1 selection of the largest total. Backward is the identity."""

    @staticmethod
    def forward(ctx, soft):
        from scipy.optimize import linear_sum_assignment

        row, column = linear_sum_assignment(soft.detach().cpu().numpy(), maximize=True)
        hard = torch.zeros_like(soft)
        hard[torch.from_numpy(row), torch.from_numpy(column)] = 1
        return hard

    @staticmethod
    def backward(ctx, grad):
        return grad


class SparksWeight(CodebookWeight):
    """Parameter X: (2^tau, 512); buffers step, seed: () int64 and level: ().

    level: the share of the noise that is left.
    """

    expects = ("epoch", "step")

    def __init__(self, tau: int, noise: float, temperature: float):
        super().__init__(tau)
        self.noise = noise
        self.temperature = temperature
        self.X = nn.Parameter(0.01 * torch.randn(1 << tau, KERNELS))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seed", torch.randint(1 << 30, ()))
        self.register_buffer("level", torch.ones(()))

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.level.fill_(1 - epoch / epochs)

    def begin_step(self) -> None:
        self.step += 1

    def _gumbel(self) -> Tensor:
        seed = int(self.seed) * 1_000_003 + int(self.step)
        generator = torch.Generator().manual_seed(seed)
        draws = torch.rand(self.X.shape, generator=generator)
        uniform = draws.clamp(1e-9, 1 - 1e-7).to(self.X)
        return -(-uniform.log()).log()

    def book(self) -> Tensor:
        scores = self.X
        if scores.is_meta:  # only shapes
            return scores.new_empty(len(scores), KERNEL)
        if self.training and self.noise:
            noise = self.noise * self.level * self._gumbel()
            scores = scores + noise
        numbers = torch.arange(KERNELS, device=scores.device)
        every = all_kernels(numbers).to(scores)
        soft = sinkhorn(scores / self.temperature)
        return _Harden.apply(soft) @ every


class Sparks(Binarizer):
    """tau: bits per 3x3 kernel; noise: scale of the Gumbel noise at first.

    activations: whether inputs are binarized too (RSign).
    """

    def __init__(
        self,
        tau: int = 5,
        noise: float = 0.05,
        temperature: float = 0.1,
        activations: bool = False,
    ):
        if noise < 0 or temperature <= 0:
            raise ValueError(
                "sparks: noise must be at least 0 and temperature positive, "
                f"got {noise!r} and {temperature!r}"
            )
        self.tau = check_tau("sparks", tau)
        self.noise = noise
        self.temperature = temperature
        self.activations = activations

    def layer(self, target: Target) -> Decision:
        if tuple(target.weight.shape[2:]) != (3, 3):
            reason = "no 3x3 kernels: binary, one scale per output channel"
            return Decision(BWNWeight("clip_ste"), reason)
        method = SparksWeight(self.tau, self.noise, self.temperature)
        reason = f"each kernel one of {1 << self.tau} selected, one scale per output channel"
        return Decision(method, reason)

    def activation(self, target: Target) -> ActivationBinarizer | None:
        if not self.activations:
            return None
        return RSign(*channels(target))
