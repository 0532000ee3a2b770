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

`copies` (layouts.py) lays the tile out otherwise: B = E t with a matrix E of 0 and +-1 that has p entries in each column, s = E^T W and
dL/dW := E dL/dt / p under "tile"; all of the above holds, as E^T E = p. The p scales still cover blocks of N / p consecutive weights.
None is the paper's layout.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tbn_bench.format.layouts import Copies

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


def lay_out(tile: Tensor, copies: Copies) -> Tensor:
    """The p copies of tile: (q,) in their places and with their signs: (p, q)."""
    if copies.kind == "columns":
        groups = tile.reshape(copies.shape[0], copies.shape[1] // copies.p, 1, -1)
        return groups.expand(-1, -1, copies.p, -1).reshape(copies.p, -1)
    order, signs = _order(copies), _signs(copies)
    if order is not None:
        rows = tile.reshape(copies.shape[0] // copies.p, -1)
        return rows[:, order.to(tile.device)].transpose(0, 1).reshape(copies.p, -1)
    out = tile.expand(copies.p, -1)
    return out if signs is None else out * signs.to(tile.device, tile.dtype)


# the compiler does not look into NumPy
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _order(copies: Copies) -> Tensor | None:
    order = copies.order()
    return None if order is None else torch.from_numpy(order)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _signs(copies: Copies) -> Tensor | None:
    signs = copies.signs()
    return None if signs is None else torch.from_numpy(signs)


def gather(weight: Tensor, copies: Copies) -> Tensor:
    """lay_out's transpose: weight: (N elements) -> its column sums s: (q,)."""
    if copies.kind == "columns":
        return (
            weight.reshape(copies.shape[0], copies.shape[1] // copies.p, copies.p, -1)
            .sum(2)
            .reshape(-1)
        )
    rows, index, signs = weight.reshape(copies.p, copies.q), copies.index(), copies.signs()
    if signs is not None:
        rows = rows * torch.from_numpy(signs).to(rows.device, rows.dtype)
    if (
        index is not None
    ):  # the inverse of each permutation: no scatter, so the same sums on every device
        rows = rows.gather(1, torch.from_numpy(index.argsort(1)).to(rows.device))
    return rows.sum(0)


def enlarged(weight: Tensor, copies: Copies) -> Tensor:
    """weight: copies.shape -> copies.weight_shape: shifted copies, each moved by its shift with zeros around it."""
    if copies.kind != "shifted":
        return weight
    pads = [
        [n for d in reversed(shift) for n in (copies.reach + d, copies.reach - d)]
        for shift in copies.shifts
    ]
    return torch.cat(
        [F.pad(block, pad) for block, pad in zip(weight.chunk(copies.p), pads, strict=True)]
    )


def aggregate(weight: Tensor, p: int, copies: Copies | None = None) -> Tensor:
    """Column sums s: (q,) of weight: (any shape with N elements) over its p rows."""
    q = tile_length(weight.numel(), p)
    return weight.reshape(p, q).sum(0) if copies is None else gather(weight, copies)


def sign(s: Tensor) -> Tensor:
    """+1 where s > 0, else -1 (0 gives -1, as in the authors' code); same shape and dtype as s."""
    return (s > 0).to(s.dtype).mul_(2).sub_(1)


def tile(weight: Tensor, p: int, copies: Copies | None = None) -> Tensor:
    """The +-1 tile t: (q,) of weight: (N elements)."""
    return sign(aggregate(weight, p, copies))


def sum_type(dtype: torch.dtype) -> torch.dtype:
    """The type that sums of many values of `dtype` are made in: float32 for half types, whose largest value a sum may pass."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


class _MeanAbs(torch.autograd.Function):
    """x: (k, n) -> mean |x| of each row: (k,). One temporary of x's size in the backward pass and none in the forward.

    Plain autograd makes three; for a large layer allocating them costs more than the convolution that reuse has made cheap.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        chunk = (
            x.shape[1] if x.is_cuda else max(1, 65_536 // x.shape[0])
        )  # 256 KB of temporaries stay in a core's cache
        exact = sum_type(x.dtype)
        parts = [part.abs().sum(1, dtype=exact) for part in torch.split(x, chunk, dim=1)]
        total = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
        return (total / x.shape[1]).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        share = (grad.to(sum_type(x.dtype)) / x.shape[1]).to(x.dtype)
        return torch.sgn(x).mul_(share[:, None])


def alphas(source: Tensor, p: int, kind: AlphaKind) -> Tensor:
    """Scales from source (W or A, N elements): mean |.| of each of the p rows, (p,), or of the layer, (1,)."""
    if kind not in ("tile", "layer"):
        raise ValueError(f"alpha must be 'layer' or 'tile', got {kind!r}")
    out: Tensor = _MeanAbs.apply(source.reshape(p if kind == "tile" else 1, -1))
    return out


def _copies(tile: Tensor, p: int, copies: Copies | None) -> Tensor:
    return tile.expand(p, -1) if copies is None else lay_out(tile, copies)


def expand(
    tile: Tensor, alphas: Tensor, p: int, shape: Sequence[int], copies: Copies | None = None
) -> Tensor:
    """alpha_i * copy i for i = 1..p, one block after the other. tile: (q,), alphas: (1,) or (p,) -> shape."""
    return (alphas[:, None] * _copies(tile, p, copies)).reshape(*shape)


class _TileSTE(torch.autograd.Function):
    """W: (N elements) -> t: (q,). Backward hands every copy dL/dt_j / p."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, p: int, copies: Copies | None) -> Tensor:
        ctx.p, ctx.shape, ctx.copies = p, weight.shape, copies
        return tile(weight, p, copies)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _copies(grad / ctx.p, ctx.p, ctx.copies).reshape(ctx.shape), None, None


class _CopiesSTE(torch.autograd.Function):
    """W -> B, the unscaled tiled weight of W's shape. Backward is the identity."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, p: int, copies: Copies | None) -> Tensor:
        return _copies(tile(weight, p, copies), p, copies).reshape(weight.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None


def tile_ste(weight: Tensor, p: int, copies: Copies | None = None) -> Tensor:
    """The tile t: (q,) with the "tile" straight-through gradient to weight."""
    out: Tensor = _TileSTE.apply(weight, p, copies)
    return out


def tiled_weight(
    weight: Tensor, alphas: Tensor, p: int, gradient: Gradient, copies: Copies | None = None
) -> Tensor:
    """B-hat = alpha * tile, in the shape of weight, differentiable in weight (straight through) and in alphas."""
    if gradient == "tile":
        return expand(tile_ste(weight, p, copies), alphas, p, weight.shape, copies)
    if gradient != "elementwise":
        raise ValueError(f"gradient must be 'elementwise' or 'tile', got {gradient!r}")
    unscaled: Tensor = _CopiesSTE.apply(weight, p, copies)
    return (unscaled.reshape(p, -1) * alphas[:, None]).reshape(weight.shape)
