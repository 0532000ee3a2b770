"""A product of two binary factors: LittleBit (Lee et al., NeurIPS 2025, arXiv 2506.13771), its
start rotated as in LittleBit-2 (Lee, Kim, ICML 2026, arXiv 2603.00042). Their second, residual
product is left out.

Forward   W = diag(u) sign(U) diag(m) sign(V) diag(v), for W as a matrix of a = C_out rows and
          b = C_in k k columns. U: (a, s), V: (s, b), rank s, sign(0) = +1. A layer computes
          x -> v x -> sign(V) (s features) -> m -> sign(U) -> u, a k x k convolution to s
          channels, then a 1 x 1 one: s (a + b) multiply-adds for a b
          v has one scale per INPUT CHANNEL. For a linear layer that is one per column, as
          published. For a k x k convolution it is k k times fewer (ours): a scale per column
          alone would take the whole budget at 1/8 bit, and so sign(V) stays a binary
          convolution behind scaled inputs
Backward  U, V: straight through the sign, by the option surrogate, with g = dL/dsign:
          "clip" g * 1[|x| <= 1]   "identity" g   "tanh" g * 100 (1 - tanh(100 x)^2), LittleBit's
          u, m, v: ordinary autograd. The dense weight that training started from stays as
          `original` and gets no gradient
Start     from the float weight: W ~ L R by its s largest singular values, their square roots in
          both factors. Dual-SVID (LittleBit): U = L and V = R; |L| ~ u l^T and |R| ~ l' v^T,
          each the best of rank 1, and m = l l'
          rotate=True first turns L and R by one orthogonal Q, (L Q)(Q^T R), fitted by ITQ (Gong,
          Lazebnik: minimise |sign(Z Q) - Z Q| by turns over the signs and over Q), so that
          signs lose less (LittleBit-2)
Stored    s (a + b) bits and a + s + C_in scales of 32 bits (theirs: 16)
Budget    bits counts all of that, over ALL layers that are factorised (_ranks.py)
Binary    layers of fewer than min_layer_size weights, and grouped convolutions:
          bwn(grad="clip_ste"), as under snn
"""

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench.binarizers._base import (
    Binarizer,
    Decision,
    Target,
    WeightBinarizer,
    clip_ste,
    sign,
)
from tbn_bench.binarizers._ranks import Sizes, ranks_within
from tbn_bench.binarizers.bwn import BWNWeight
from tbn_bench.format.form import Form

SURROGATES = ("clip", "identity", "tanh")
SHARPNESS = 100.0  # of tanh
ITQ_STEPS = 30
ITQ_SEED = 0


class _IdentitySTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class _TanhSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * SHARPNESS * (1 - torch.tanh(SHARPNESS * x).square())


_SIGNS = {"clip": clip_ste, "identity": _IdentitySTE.apply, "tanh": _TanhSTE.apply}


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """matrix: (a, b) -> L: (a, rank), R: (rank, b), whose product is nearest to it."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt()
    columns = left[:, :rank] * root
    rows = root[:, None] * right[:rank]
    return columns, rows


def itq(points: Tensor, steps: int = ITQ_STEPS) -> Tensor:
    """points: (n, s) -> Q: (s, s), orthogonal, for which points Q is near sign(points Q).

    It starts from a seeded rotation.
    """
    size = points.shape[1]
    generator = torch.Generator().manual_seed(ITQ_SEED)
    draw = torch.randn(size, size, generator=generator)
    rotation, _ = torch.linalg.qr(draw.to(points))
    for _ in range(steps):
        signs = sign(points @ rotation)
        left, _, right = torch.linalg.svd(points.T @ signs)
        rotation = left @ right
    return rotation


def rank_one(magnitudes: Tensor) -> tuple[Tensor, Tensor]:
    """magnitudes: (n, s), not negative -> (n,), (s,): the best u l^T, neither of them negative."""
    left, right = truncated_svd(magnitudes, 1)
    return left[:, 0].abs(), right[0].abs()


class LowRankWeight(WeightBinarizer):
    """Parameters U: (a, s), V: (s, C_in, *k), u: (a,), m: (s,), v: (C_in,).

    weight: (a, C_in, *k). Only `restart` uses its values.
    """

    reuse = True
    factored = True
    latents = ("U", "V")
    learns_latent = False

    def __init__(self, weight: Tensor, rank: int, surrogate: str = "clip", rotate: bool = True):
        super().__init__()
        self.rank = rank
        self.surrogate = surrogate
        self.rotate = rotate
        rows, channels = weight.shape[:2]
        self.U = self._parameter(weight, rows, rank)
        self.V = self._parameter(weight, rank, *weight.shape[1:])
        self.u = self._parameter(weight, rows)
        self.m = self._parameter(weight, rank)
        self.v = self._parameter(weight, channels)
        self.restart(weight.detach())

    @staticmethod
    def _parameter(weight: Tensor, *shape: int) -> nn.Parameter:
        empty = torch.empty(shape, dtype=weight.dtype, device=weight.device)
        return nn.Parameter(empty)

    @torch.no_grad()
    def restart(self, weight: Tensor) -> None:
        """U, V, u, m and v from a float weight; nothing on the meta device."""
        if weight.is_meta:
            return
        matrix = weight.flatten(1).float()
        left, right = truncated_svd(matrix, self.rank)
        if self.rotate:
            rotation = itq(torch.cat([left, right.T]))
            left = left @ rotation
            right = rotation.T @ right

        u, by_left = rank_one(left.abs())
        magnitudes = right.abs().reshape(self.rank, weight.shape[1], -1)
        by_channel = magnitudes.mean(2)
        v, by_right = rank_one(by_channel.T)
        self.U.copy_(left)
        self.V.copy_(right.reshape(self.V.shape))
        self.u.copy_(u)
        self.m.copy_(by_left * by_right)
        self.v.copy_(v)

    def _factor_signs(self) -> tuple[Tensor, Tensor]:
        take = _SIGNS[self.surrogate]
        return take(self.U), take(self.V)

    def factors(self) -> tuple[Tensor, Tensor]:
        left, right = self._factor_signs()
        kernel = [1] * (right.dim() - 2)
        m = self.m.reshape(-1, 1, *kernel)
        v = self.v.reshape(1, -1, *kernel)
        first = right * m * v
        second = left * self.u[:, None]
        return first, second

    def forward(self, weight: Tensor) -> Tensor:
        """The dense product, by form.py's rule.

        It is computed in float64, so that every reader gets the same bits.
        """
        left, right = self._factor_signs()
        u = self.u.double()
        m = self.m.double()
        v = self.v.double()

        product = (left.double() * m) @ right.double().flatten(1)
        mixed = u[:, None] * product
        by_channel = mixed.reshape(*weight.shape[:2], -1) * v[:, None]
        return by_channel.reshape(weight.shape).to(weight.dtype)

    def signs(self, weight: Tensor) -> Tensor:
        """sign(U), then sign(V): (s (a + b),)."""
        left = sign(self.U.detach())
        right = sign(self.V.detach())
        return torch.cat([left.reshape(-1), right.reshape(-1)])

    def scales(self, weight: Tensor) -> Tensor:
        """u, m, v: (a + s + C_in,)."""
        return torch.cat([self.u, self.m, self.v])

    def num_scales(self, weight: Tensor) -> int:
        rows, channels = weight.shape[:2]
        return rows + self.rank + channels

    def form(self, weight: Tensor) -> Form:
        scales = self.num_scales(weight)
        return Form(tuple(weight.shape), scales=scales, code="low_rank", rank=self.rank)


def _check_whole(name: str, value: object, least: int, what: str) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"low_rank: {name} {what}, an integer >= {least}, got {value!r}")


class LowRank(Binarizer):
    """Give exactly one of: bits (stored bits per weight, scales included, over all factorised
    layers), rank (of each of them).

    min_layer_size: weights below which a layer is binary; surrogate: "clip" | "identity" | "tanh";
    rotate: whether the factors are rotated by ITQ before their signs are taken.
    """

    def __init__(
        self,
        bits: float | None = None,
        min_layer_size: int = 64_000,
        rank: int | None = None,
        surrogate: str = "clip",
        rotate: bool = True,
    ):
        if (bits is None) == (rank is None):
            got = "none of them" if bits is None else "bits and rank"
            wanted = "low_rank needs exactly one of bits, rank"
            raise ValueError(f"{wanted}, got {got}; write e.g. low_rank(bits=0.25)")
        number = isinstance(bits, int | float) and not isinstance(bits, bool)
        if bits is not None and not (number and 0 < bits <= 1):
            wanted = "low_rank: bits per weight must be above 0 and at most 1"
            raise ValueError(f"{wanted}, got {bits!r}; use 0.25, 0.125, ...")
        if rank is not None:
            _check_whole("rank", rank, 1, "is that of both factors")
        _check_whole("min_layer_size", min_layer_size, 0, "counts weights")
        if surrogate not in SURROGATES:
            allowed = ", ".join(map(repr, SURROGATES))
            raise ValueError(f"low_rank: surrogate must be one of {allowed}, got {surrogate!r}")
        if not isinstance(rotate, bool):
            raise ValueError(f"low_rank: rotate must be True or False, got {rotate!r}")
        self.bits = None if bits is None else Fraction(str(bits))
        self.fixed_rank = rank
        self.min_layer_size = min_layer_size
        self.surrogate = surrogate
        self.rotate = rotate

    def decide(self, targets: list[Target]) -> list[Decision]:
        layers = [Sizes(target) for target in targets if not self._why_binary(target)]
        ranks = iter(self._ranks(layers))
        decisions = []
        for target in targets:
            rank = None if self._why_binary(target) else next(ranks)
            decisions.append(self._decision(target, rank))
        return decisions

    def _why_binary(self, target: Target) -> str:
        """Why a weight is not factorised, or ''."""
        if target.weight.numel() < self.min_layer_size:
            return f"below min_layer_size {self.min_layer_size:,}"
        if target.grouped:
            return "grouped convolution"
        return ""

    def _ranks(self, layers: list[Sizes]) -> list[int]:
        if not layers:
            return []
        if self.bits is not None:
            return ranks_within(layers, self.bits)
        faults = [
            f"low_rank: rank must be from 1 to {layer.highest} for {layer.name} "
            f"({layer.rows} x {layer.columns}), got {self.fixed_rank}; lower it, keep the layer, "
            "or raise min_layer_size"
            for layer in layers
            if self.fixed_rank > layer.highest
        ]
        if faults:
            raise ValueError("\n".join(faults))
        return [self.fixed_rank] * len(layers)

    def _decision(self, target: Target, rank: int | None) -> Decision:
        if rank is None:
            reason = f"{self._why_binary(target)}: binary, one scale per output channel"
            return Decision(BWNWeight("clip_ste"), reason)
        bits = Sizes(target).stored(rank)
        per_weight = bits / target.weight.numel()
        method = LowRankWeight(target.weight, rank, self.surrogate, self.rotate)
        return Decision(method, f"rank {rank}, {per_weight:.4f} bits per weight")
