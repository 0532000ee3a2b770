"""The equations of Tiled Bit Networks (arXiv 2407.12075) as pure functions.

A weight W of N elements, flattened row-major (output channel first), is read as a matrix W* of p rows of q = N / p:

    s_j = sum_i W*_ij            aggregate   (a sum, not a mean)
    t_j = +1 if s_j > 0 else -1  sign        (a sum of exactly 0 gives -1)
    B   = t repeated p times     expand      (block i scaled by alpha_i)

Straight-through rules, chosen by ``gradient``:

    "elementwise"  dL/dW_k := dL/dB_k             the authors' rule: identity, no sum over copies, no clipping window
    "tile"         dL/dW*_ij := dL/dt_j / p       every copy gets an equal share of the tile's gradient

The column sums s move identically under both, since sum_i dL/dB_ij = dL/dt_j; so under SGD (with momentum and weight
decay) and alphas that do not come from W, both give the same tiles step by step. Under Adam they differ.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

AlphaKind = Literal["layer", "tile"]
Gradient = Literal["elementwise", "tile"]


def divisors(n: int) -> list[int]:
    """All divisors of n >= 1, ascending."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return small + [n // d for d in reversed(small) if d * d != n]


def tile_length(n: int, p: int, layer: str = "") -> int:
    """q = n / p. Raises ValueError, naming the layer and the p that would do, where p does not divide n."""
    where = f" (layer {layer})" if layer else ""
    if isinstance(p, bool) or not isinstance(p, int) or p < 1:
        raise ValueError(f"p must be a positive integer, got p={p!r}{where}; use 1, 2, 4, ...")
    if n % p:
        near = sorted(sorted(divisors(n), key=lambda d: abs(d - p))[:6])
        raise ValueError(
            f"p must divide the number of weights, got p={p} for {n} weights{where}; use one of {', '.join(map(str, near))}"
        )
    return n // p


def nearest_p(n: int, q: int) -> int:
    """The divisor p of n whose tile length n / p comes nearest to q (on a tie, the smaller p)."""
    if isinstance(q, bool) or not isinstance(q, int) or q < 1:
        raise ValueError(f"tile_length must be a positive integer, got {q!r}")
    return min(divisors(n), key=lambda p: (abs(n // p - q), p))


def aggregate(weight: Tensor, p: int) -> Tensor:
    """Column sums s: (q,) of weight: (any shape with N elements) over its p rows."""
    return weight.reshape(p, tile_length(weight.numel(), p)).sum(0)


def sign(s: Tensor) -> Tensor:
    """+1 where s > 0, else -1 (0 gives -1, as in the authors' code); same shape and dtype as s."""
    return (s > 0).to(s.dtype).mul_(2).sub_(1)


def tile(weight: Tensor, p: int) -> Tensor:
    """The +-1 tile t: (q,) of weight: (N elements)."""
    return sign(aggregate(weight, p))


class _MeanAbs(torch.autograd.Function):
    """x: (k, n) -> mean |x| of each row: (k,). One temporary of x's size in the backward pass and none in the forward.

    Plain autograd makes three; for a large layer allocating them costs more than the convolution that reuse has made cheap.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        chunk = x.shape[1] if x.is_cuda else max(1, 65_536 // x.shape[0])  # 256 KB of temporaries stay in a core's cache
        parts = [part.abs().sum(1) for part in torch.split(x, chunk, dim=1)]
        return (parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)) / x.shape[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.sgn(x).mul_((grad / x.shape[1])[:, None])


def alphas(source: Tensor, p: int, kind: AlphaKind) -> Tensor:
    """Scales from source (W or A, N elements): mean |.| of each of the p rows, (p,), or of the layer, (1,)."""
    if kind not in ("tile", "layer"):
        raise ValueError(f"alpha must be 'layer' or 'tile', got {kind!r}")
    out: Tensor = _MeanAbs.apply(source.reshape(p if kind == "tile" else 1, -1))
    return out


def expand(tile: Tensor, alphas: Tensor, p: int, shape: Sequence[int]) -> Tensor:
    """alpha_i * tile for i = 1..p, one block after the other. tile: (q,), alphas: (1,) or (p,) -> shape."""
    return (alphas[:, None] * tile.expand(p, -1)).reshape(*shape)


class _TileSTE(torch.autograd.Function):
    """W: (N elements) -> t: (q,). Backward hands every copy dL/dt_j / p."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, p: int) -> Tensor:
        ctx.p, ctx.shape = p, weight.shape
        return tile(weight, p)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return (grad / ctx.p).expand(ctx.p, -1).reshape(ctx.shape), None


class _CopiesSTE(torch.autograd.Function):
    """W -> B, the unscaled tiled weight of W's shape. Backward is the identity."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, p: int) -> Tensor:
        return tile(weight, p).expand(p, -1).reshape(weight.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def tile_ste(weight: Tensor, p: int) -> Tensor:
    """The tile t: (q,) with the "tile" straight-through gradient to weight."""
    out: Tensor = _TileSTE.apply(weight, p)
    return out


def tiled_weight(weight: Tensor, alphas: Tensor, p: int, gradient: Gradient) -> Tensor:
    """B-hat = alpha * tile, in the shape of weight, differentiable in weight (straight through) and in alphas."""
    if gradient == "tile":
        return expand(tile_ste(weight, p), alphas, p, weight.shape)
    if gradient != "elementwise":
        raise ValueError(f"gradient must be 'elementwise' or 'tile', got {gradient!r}")
    copies: Tensor = _CopiesSTE.apply(weight, p)
    return (copies.reshape(p, -1) * alphas[:, None]).reshape(weight.shape)
