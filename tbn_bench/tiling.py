"""The equations of Tiled Bit Networks (arXiv 2407.12075) as pure functions.

A weight W of N elements is flattened row-major (output channel first) and read as a matrix W* of p
rows of q = N / p:

    s_j   = sum_i W*_ij            aggregate   (a sum, not a mean)
    t_j   = +1 if s_j > 0 else -1  sign        (a sum of exactly 0 gives -1)
    B_ij  = t_j                    repeat      (p rows, each a copy of the tile)
    W^_ij = alpha_i B_ij           scale       (the weight that the layer multiplies by)

In training, a layer keeps all N numbers of W. Each forward pass makes q = N / p signs of them and
uses each sign p times. Each backward pass gives a gradient to all N numbers. `tiled_weight` does
both; `binarizers/tbn.py` calls it. Where p divides the output rows, `layers/reuse.py` takes its
place: the layer multiplies by the tile alone, which takes 1 / p of the multiply-adds, and gets the
same numbers. (The weight gradient of "elementwise", below, stays at full cost.)

`gradient` chooses the straight-through rule. B has no scale, so dL/dB_ij = alpha_i dL/dW^_ij:

    "elementwise"  dL/dW*_ij := dL/dB_ij      the authors' rule: identity, without a sum over copies
                                              and without a clipping window
    "tile"         dL/dW*_ij := dL/dt_j / p   every copy gets an equal share of the tile's gradient

Both rules change the column sums s by the same amount, since sum_i dL/dB_ij = dL/dt_j. So under SGD
(with momentum and weight decay), both give the same tiles step by step, if the alphas do not come
from W. Under Adam they differ.

`copies` (format/layouts.py) places the p copies of the tile in another way; None is the paper's
layout. With `copies`, B = E t, where the matrix E has entries 0 and +-1, p of them not 0 in each
column. Then s = E^T W, and dL/dW := E dL/dt / p under "tile". All of the above holds, because
E^T E = p. The p scales still cover blocks of N / p consecutive weights.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from tbn_bench.format.layouts import Copies

AlphaKind = Literal["layer", "tile"]
Gradient = Literal["elementwise", "tile"]
Function = TypeVar("Function", bound=Callable[..., Any])


def divisors(n: int) -> list[int]:
    """All divisors of n >= 1, ascending."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    large = [n // d for d in reversed(small) if d * d != n]
    return small + large


def _is_positive_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def tile_length(n: int, p: int, layer: str = "") -> int:
    """q = n / p.

    Raises ValueError if p does not divide n; the message names the layer and the nearest p that do.
    """
    where = f" (layer {layer})" if layer else ""
    if not _is_positive_integer(p):
        raise ValueError(f"p must be a positive integer, got p={p!r}{where}; use 1, 2, 4, ...")
    if n % p:
        by_distance = sorted(divisors(n), key=lambda d: abs(d - p))
        near = ", ".join(map(str, sorted(by_distance[:6])))
        raise ValueError(
            f"p must divide the number of weights, got p={p} for {n} weights{where}; "
            f"use one of {near}"
        )
    return n // p


def nearest_p(n: int, q: int) -> int:
    """The divisor p of n whose tile length n / p is nearest to q; of two such p, the smaller."""
    if not _is_positive_integer(q):
        raise ValueError(f"tile_length must be a positive integer, got {q!r}")
    return min(divisors(n), key=lambda p: (abs(n // p - q), p))


def lay_out(tile: Tensor, copies: Copies) -> Tensor:
    """The p copies of the tile, each as `copies` places and signs it. tile: (q,) -> (p, q)."""
    p = copies.p
    if copies.kind == "columns":
        groups = tile.reshape(copies.shape[0], copies.shape[1] // p, 1, -1)
        repeated = groups.expand(-1, -1, p, -1)
        return repeated.reshape(p, -1)
    order = _order(copies)
    if order is not None:
        rows = tile.reshape(copies.shape[0] // p, -1)
        placed = rows[:, order.to(tile.device)]
        return placed.transpose(0, 1).reshape(p, -1)
    rows = tile.expand(p, -1)
    signs = _signs(copies)
    if signs is not None:
        rows = rows * signs.to(tile.device, tile.dtype)
    return rows


def constant_in_graphs(function: Function) -> Function:
    """Marks a function for torch.compile, which does not look into NumPy.

    torch.compiler.assume_constant_result does the same, but imports all of torch._dynamo: 1.3 s at
    every start of a program that compiles nothing.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_in_graphs
def _order(copies: Copies) -> Tensor | None:
    order = copies.order()
    return None if order is None else torch.from_numpy(order)


@constant_in_graphs
def _signs(copies: Copies) -> Tensor | None:
    signs = copies.signs()
    return None if signs is None else torch.from_numpy(signs)


def gather(weight: Tensor, copies: Copies) -> Tensor:
    """The column sums s: lay_out's transpose, applied to weight. weight: (N elements) -> (q,)."""
    p = copies.p
    if copies.kind == "columns":
        groups = weight.reshape(copies.shape[0], copies.shape[1] // p, p, -1)
        return groups.sum(2).reshape(-1)
    rows = weight.reshape(p, copies.q)
    signs = copies.signs()
    if signs is not None:
        rows = rows * torch.from_numpy(signs).to(rows.device, rows.dtype)
    index = copies.index()
    if index is not None:
        # gather by the inverse of each permutation: unlike scatter, it sums alike on every device
        inverse = torch.from_numpy(index.argsort(1))
        rows = rows.gather(1, inverse.to(rows.device))
    return rows.sum(0)


def enlarged(weight: Tensor, copies: Copies) -> Tensor:
    """Moves each shifted copy by its shift, with zeros around it; leaves other layouts as they are.

    weight: copies.shape -> copies.weight_shape.
    """
    if copies.kind != "shifted":
        return weight
    moved = []
    for block, shift in zip(weight.chunk(copies.p), copies.shifts, strict=True):
        pad: list[int] = []  # before and after, of the last dimension first
        for distance in reversed(shift):
            pad += [copies.reach + distance, copies.reach - distance]
        moved.append(F.pad(block, pad))
    return torch.cat(moved)


def aggregate(weight: Tensor, p: int, copies: Copies | None = None) -> Tensor:
    """Column sums s over the p rows. weight: (any shape with N elements) -> (q,)."""
    q = tile_length(weight.numel(), p)
    if copies is None:
        return weight.reshape(p, q).sum(0)
    return gather(weight, copies)


def sign(s: Tensor) -> Tensor:
    """+1 where s > 0, else -1 (0 gives -1, as in the authors' code); same shape and dtype as s."""
    return (s > 0).to(s.dtype).mul_(2).sub_(1)


def tile(weight: Tensor, p: int, copies: Copies | None = None) -> Tensor:
    """The +-1 tile t. weight: (N elements) -> (q,)."""
    return sign(aggregate(weight, p, copies))


def sum_type(dtype: torch.dtype) -> torch.dtype:
    """The type for sums of many values of `dtype`.

    It is float32 for half types, because a sum may exceed their largest value.
    """
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


class _MeanAbs(torch.autograd.Function):
    """Mean |x| of each row. x: (k, n) -> (k,).

    It makes one temporary of x's size in the backward pass and none in the forward. Plain autograd
    makes three. For a large layer, allocating them costs more than the convolution itself, which
    tile reuse has made cheap.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        rows, size = x.shape
        # on a CPU, 256 KB of temporaries stay in a core's cache
        chunk = size if x.is_cuda else max(1, 65_536 // rows)
        exact = sum_type(x.dtype)
        parts = [part.abs().sum(1, dtype=exact) for part in torch.split(x, chunk, dim=1)]
        total = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
        return (total / size).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        exact = grad.to(sum_type(x.dtype))
        share = (exact / x.shape[1]).to(x.dtype)
        return torch.sgn(x).mul_(share[:, None])


def alphas(source: Tensor, p: int, kind: AlphaKind) -> Tensor:
    """Scales: the mean of |source| over each of the p rows, (p,), or over the layer, (1,).

    source: W or A, N elements.
    """
    if kind not in ("tile", "layer"):
        raise ValueError(f"alpha must be 'layer' or 'tile', got {kind!r}")
    rows = p if kind == "tile" else 1
    out: Tensor = _MeanAbs.apply(source.reshape(rows, -1))
    return out


def _repeated(tile: Tensor, p: int, copies: Copies | None) -> Tensor:
    return tile.expand(p, -1) if copies is None else lay_out(tile, copies)


def expand(
    tile: Tensor, alphas: Tensor, p: int, shape: Sequence[int], copies: Copies | None = None
) -> Tensor:
    """alpha_i * copy i for i = 1..p, one block after the other.

    tile: (q,), alphas: (1,) or (p,) -> shape.
    """
    scaled = alphas[:, None] * _repeated(tile, p, copies)
    return scaled.reshape(*shape)


class _TileSTE(torch.autograd.Function):
    """W: (N elements) -> t: (q,). Backward hands every copy dL/dt_j / p."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, p: int, copies: Copies | None) -> Tensor:
        ctx.p = p
        ctx.shape = weight.shape
        ctx.copies = copies
        return tile(weight, p, copies)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        shares = _repeated(grad / ctx.p, ctx.p, ctx.copies)
        return shares.reshape(ctx.shape), None, None


class _CopiesSTE(torch.autograd.Function):
    """W -> B, the unscaled tiled weight of W's shape. Backward is the identity."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, p: int, copies: Copies | None) -> Tensor:
        repeated = _repeated(tile(weight, p, copies), p, copies)
        return repeated.reshape(weight.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None


def tile_ste(weight: Tensor, p: int, copies: Copies | None = None) -> Tensor:
    """The tile t, with the "tile" straight-through gradient. weight: (N elements) -> (q,)."""
    out: Tensor = _TileSTE.apply(weight, p, copies)
    return out


def tiled_weight(
    weight: Tensor, alphas: Tensor, p: int, gradient: Gradient, copies: Copies | None = None
) -> Tensor:
    """The tiled weight W^, alpha times the copies of the tile, in the shape of weight.

    It is differentiable in weight (straight through) and in alphas.
    """
    if gradient == "tile":
        return expand(tile_ste(weight, p, copies), alphas, p, weight.shape, copies)
    if gradient != "elementwise":
        raise ValueError(f"gradient must be 'elementwise' or 'tile', got {gradient!r}")
    unscaled: Tensor = _CopiesSTE.apply(weight, p, copies)
    scaled = unscaled.reshape(p, -1) * alphas[:, None]
    return scaled.reshape(weight.shape)
