"""Different features from one tile at 1/p of the arithmetic: what a layer with hadamard, shifted or columns copies (layouts.py) computes.

All give exactly what the dense weight gives, up to the order of floating-point sums, with ordinary differentiable operations;
training (reuse.py) and packed layers (packed.py) share them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbn_bench.format.layouts import Copies, hadamard
from tbn_bench.tiling import sum_type

KINDS = ("hadamard", "shifted", "columns")
_CONV = {1: F.conv1d, 2: F.conv2d}


def enlarge_(module: nn.Conv1d | nn.Conv2d, reach: int) -> None:
    """A kernel larger by `reach` on every side, and a padding that keeps the outputs where they were: for shifted copies."""
    module.kernel_size = tuple(k + 2 * reach for k in module.kernel_size)
    module.padding = tuple(
        n + reach * d for n, d in zip(module.padding, module.dilation, strict=True)
    )
    module._reversed_padding_repeated_twice = [
        n for pad in reversed(module.padding) for n in (pad, pad)
    ]


_AT_ONCE = 1 << 20  # values that are widened together


def inner_products(a: Tensor, b: Tensor) -> Tensor:
    """a: (M, k, n), b: (M, k or 1, n), of a half type -> sum over M and n of a b: (k,) float32.

    In a half type such a sum, whose terms tend to have one sign, would be off by up to 1 / 256 of itself.
    """
    step = max(1, _AT_ONCE // max(1, a[0].numel())) if len(a) else 1
    parts = [
        (x.float() * y.float()).sum((0, 2))
        for x, y in zip(a.split(step), b.split(step), strict=True)
    ]
    return torch.stack(parts).sum(0)


class _ScaledBlocks(torch.autograd.Function):
    """y: (M, k, n) of a half type, block i times scales[i]. scales: (k,). The gradient of the scales is summed in float32."""

    @staticmethod
    def forward(ctx, y, scales):
        ctx.save_for_backward(y, scales)
        return y * scales.to(y.dtype)[:, None]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        y, scales = ctx.saved_tensors
        grad_scales = inner_products(grad, y).to(scales.dtype) if ctx.needs_input_grad[1] else None
        return grad * scales.to(grad.dtype)[:, None], grad_scales


def _scaled_blocks(y: Tensor, scales: Tensor) -> Tensor:
    """y: (M, p, n) of a half type, its k blocks of p / k rows times their scales. scales: (0,) or (k,)."""
    if not len(scales):
        return y
    blocks: Tensor = _ScaledBlocks.apply(y.flatten(1).unflatten(1, (len(scales), -1)), scales)
    return blocks.reshape(y.shape)


def _wide(dtype: torch.dtype) -> bool:
    """Whether sums may be made in this type."""
    return sum_type(dtype) == dtype


@torch.compiler.assume_constant_result  # the compiler does not look into NumPy
def _hadamard(p: int) -> Tensor:
    return torch.from_numpy(hadamard(p))


def _mixer(scales: Tensor, p: int) -> Tensor:
    """diag(alpha) H: (p, p), so that mixing and scaling are one product. scales: (0,), (1,) or (p,)."""
    matrix = _hadamard(p).to(scales.device, scales.dtype)
    return matrix * scales[:, None] if len(scales) else matrix


def _mixed(parts: Tensor, scales: Tensor, p: int) -> Tensor:
    """parts: (M, p, n) -> alpha_i sum_s H_is parts_s: (M, p, n)."""
    if _wide(parts.dtype):
        return _mixer(scales, p).to(parts.dtype) @ parts
    return _scaled_blocks(_hadamard(p).to(parts.device, parts.dtype) @ parts, scales)


def group_sums(x: Tensor, p: int, channel: int) -> Tensor:
    """x: (..., C at `channel` (-1 or 1), ...) -> (..., C / p, ...): sums of p neighbours, in x's type and memory format."""
    if channel == -1:
        return x.unflatten(-1, (-1, p)).sum(-1, dtype=x.dtype)
    if (
        x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
    ):
        # with the channels innermost a product with p ones per row is 3 to 5 times as fast as a sum over so short an axis
        ones = torch.eye(x.shape[1] // p, dtype=x.dtype, device=x.device).repeat_interleave(p, 1)
        return (x.permute(0, 2, 3, 1) @ ones.T).permute(0, 3, 1, 2)
    return x.unflatten(1, (-1, p)).sum(2, dtype=x.dtype)


def _scaled_rows(y: Tensor, scales: Tensor, channel: int) -> Tensor:
    """y: (..., rows at `channel` (-1 or 1), ...), each of k blocks of rows times its scale. scales: (0,) or (k,)."""
    if not len(scales):
        return y
    if not _wide(y.dtype):
        by_channel = y.reshape(y.shape[:-1].numel(), y.shape[-1]) if channel == -1 else y.flatten(1)
        return _scaled_blocks(by_channel.unsqueeze(-1), scales).reshape(y.shape)
    rows = y.shape[channel]
    per_row = scales.to(y.dtype)[:, None].expand(-1, rows // len(scales)).reshape(-1)
    return y * (per_row if channel == -1 else per_row.reshape(-1, *[1] * (y.dim() - 2)))


def linear(x: Tensor, tile: Tensor, scales: Tensor, copies: Copies) -> Tensor:
    """x: (..., K), tile: copies.tile_shape -> (..., rows).

    hadamard, tile (R, K): copy i of p is alpha_i sum_s H_is (x_s T_s) over p segments of K / p inputs.
    columns, tile (rows, K / p): the rows of T times the sums of x over groups of p inputs, each by its block's alpha.
    """
    p = copies.p
    if copies.kind == "columns":
        return _scaled_rows(F.linear(group_sums(x, p, -1), tile), scales, -1)
    flat = x.reshape(-1, p, x.shape[-1] // p)
    parts = torch.einsum("msk,rsk->smr", flat, tile.reshape(-1, p, flat.shape[2]))
    mixed = _mixed(parts.flatten(1)[None], scales, p)[0]  # (p, M R)
    rows = tile.shape[0]
    return mixed.reshape(p, flat.shape[0], rows).transpose(0, 1).reshape(*x.shape[:-1], p * rows)


def conv(
    x: Tensor,
    tile: Tensor,
    scales: Tensor,
    copies: Copies,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """x: (B, C, *S), tile: copies.tile_shape -> (B, rows, *S_out). padding: that of the layer before its kernel was enlarged."""
    if copies.kind == "columns":
        summed = group_sums(x, copies.p, 1)
        y = _CONV[tile.dim() - 2](summed, tile, None, stride, padding, dilation)
        return _scaled_rows(y, scales, 1)
    if copies.kind == "hadamard":
        return _hadamard_conv(x, tile, scales, copies.p, stride, padding, dilation)
    return _shifted_conv(x, tile, scales, copies, stride, padding, dilation)


def _hadamard_conv(
    x: Tensor,
    tile: Tensor,
    scales: Tensor,
    p: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """The p segments of channels are the groups of one convolution; a p x p matrix mixes their results."""
    rows, spatial = tile.shape[0], tile.dim() - 2
    grouped = tile.unflatten(1, (p, -1)).transpose(0, 1).flatten(0, 1)
    parts = _CONV[spatial](x, grouped, None, stride, padding, dilation, p)
    mixed = _mixed(parts.unflatten(1, (p, rows)).flatten(2), scales, p)
    return mixed.reshape(x.shape[0], p * rows, *parts.shape[2:])


def _shifted_conv(
    x: Tensor,
    tile: Tensor,
    scales: Tensor,
    copies: Copies,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """One convolution with the tile at every position, then p crops of it, each moved by its shift, strided and scaled."""
    spatial = tile.dim() - 2
    margin = [copies.reach * d for d in dilation]
    around = [p + m for p, m in zip(padding, margin, strict=True)]
    every = _CONV[spatial](x, tile, None, 1, around, dilation)
    sizes = [
        (n - 2 * m - 1) // s + 1 for n, m, s in zip(every.shape[2:], margin, stride, strict=True)
    ]
    crops = []
    for shift in copies.shifts:
        window = [
            slice(m + d * move, m + d * move + (size - 1) * s + 1, s)
            for m, d, move, size, s in zip(margin, dilation, shift, sizes, stride, strict=True)
        ]
        crops.append(every[(slice(None), slice(None), *window)])
    out = torch.stack(crops, 1)  # (B, p, R, *S_out)
    if not _wide(out.dtype):
        return _scaled_blocks(out.flatten(2), scales).reshape(out.flatten(1, 2).shape)
    if len(scales):
        out = out * scales.to(x.dtype).reshape(-1, 1, *[1] * spatial)
    return out.flatten(1, 2)


class _LatentGradient(torch.autograd.Function):
    """y -> y. Backward also hands `latent` the gradient of the unscaled dense weight, at full cost (the "elementwise" rule)."""

    @staticmethod
    def forward(ctx, y, latent, x, scales, copies, stride, padding, dilation):
        ctx.save_for_backward(x, scales, latent)
        ctx.args = copies, stride, padding, dilation
        return y.view_as(y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, scales, latent = ctx.saved_tensors
        copies, stride, padding, dilation = ctx.args
        if latent.dim() == 2:
            full = grad.reshape(-1, grad.shape[-1]).T @ x.reshape(-1, x.shape[-1])
        else:
            full = _weight_gradient(grad, x, latent, copies, stride, padding, dilation)
        factors = scales if len(scales) else torch.ones(1, device=x.device)
        return grad, (full.to(latent.dtype).unflatten(0, (len(factors), -1)) * factors.reshape(-1, *[1] * latent.dim())).flatten(0, 1), \
            None, None, None, None, None, None  # fmt: skip


def _weight_gradient(
    grad: Tensor,
    x: Tensor,
    latent: Tensor,
    copies: Copies,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """dL/dB of the full weight in latent's shape, from dL/dy: (B, C_out, *S_out)."""

    def gradient(grad: Tensor, x: Tensor, like: Tensor, padding: Sequence[int]) -> Tensor:
        zero = [0] * len(stride)
        args = (
            None,
            list(stride),
            list(padding),
            list(dilation),
            False,
            zero,
            1,
            [False, True, False],
        )
        return torch.ops.aten.convolution_backward(grad, x, like, *args)[1]

    if copies.kind != "shifted":
        return gradient(grad, x, latent, padding)
    blocks = []
    for shift, part, like in zip(
        copies.shifts, grad.chunk(copies.p, 1), latent.chunk(copies.p), strict=True
    ):
        pads = [
            n
            for m, d, p in zip(reversed(shift), reversed(dilation), reversed(padding), strict=True)
            for n in (p - m * d, p + m * d)
        ]  # fmt: skip  (a negative padding crops)
        blocks.append(gradient(part.contiguous(), F.pad(x, pads), like, [0] * len(stride)))
    return torch.cat(blocks)


def elementwise(
    y: Tensor,
    latent: Tensor,
    x: Tensor,
    scales: Tensor,
    copies: Copies,
    stride: Sequence[int] = (),
    padding: Sequence[int] = (),
    dilation: Sequence[int] = (),
) -> Tensor:
    """y, made from a constant tile, with the authors' gradient for latent (tiling.py). x, scales: what y was made from."""
    return _LatentGradient.apply(
        y, latent, x.detach(), scales.detach(), copies, stride, padding, dilation
    )
