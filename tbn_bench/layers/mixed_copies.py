"""Different features from one tile at 1/p of the arithmetic: hadamard, shifted and columns copies.

Each function gives exactly the output of the dense weight (format/layouts.py), up to the order of
floating-point sums, by ordinary differentiable operations. Training (reuse.py) and packed layers
(packed.py) share them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbn_bench.format.layouts import Copies, hadamard
from tbn_bench.tiling import sum_type

KINDS = ("hadamard", "shifted", "columns")
_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d}
_AT_ONCE = 1 << 20  # values that are widened together


class Geometry(NamedTuple):
    """Stride, padding and dilation of a convolution, one number per axis."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]


def enlarge_(module: nn.Module, reach: int) -> None:
    """Enlarges the kernel of a convolution by `reach` on every side, for shifted copies.

    Its padding grows too, so that the outputs stay where they were.
    """
    conv: Any = module
    conv.kernel_size = tuple(k + 2 * reach for k in conv.kernel_size)
    pads = zip(conv.padding, conv.dilation, strict=True)
    conv.padding = tuple(pad + reach * dilation for pad, dilation in pads)
    both_sides: list[int] = []
    for pad in reversed(conv.padding):
        both_sides += (pad, pad)
    conv._reversed_padding_repeated_twice = both_sides


def inner_products(a: Tensor, b: Tensor) -> Tensor:
    """a: (M, k, n), b: (M, k or 1, n), of a half type -> sum over M and n of a b: (k,) float32.

    In a half type such a sum, whose terms tend to have one sign, would be off by up to 1 / 256 of
    itself.
    """
    step = max(1, _AT_ONCE // max(1, a[0].numel())) if len(a) else 1
    sums = []
    for x, y in zip(a.split(step), b.split(step), strict=True):
        products = x.float() * y.float()
        sums.append(products.sum((0, 2)))
    return torch.stack(sums).sum(0)


class _ScaledBlocks(torch.autograd.Function):
    """y: (M, k, n) of a half type, block i times scales[i]. scales: (k,).

    The gradient of the scales is summed in float32.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(y, scales)
        return y * scales.to(y.dtype)[:, None]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        y, scales = ctx.saved_tensors
        grad_y = grad * scales.to(grad.dtype)[:, None]
        if not ctx.needs_input_grad[1]:
            return grad_y, None
        return grad_y, inner_products(grad, y).to(scales.dtype)


def _scaled_blocks(y: Tensor, scales: Tensor) -> Tensor:
    """Each of k blocks of p / k rows times its scale.

    y: (M, p, n) of a half type. scales: (0,) or (k,).
    """
    if not len(scales):
        return y
    blocks = y.flatten(1).unflatten(1, (len(scales), -1))
    scaled: Tensor = _ScaledBlocks.apply(blocks, scales)
    return scaled.reshape(y.shape)


def _wide(dtype: torch.dtype) -> bool:
    """Whether sums may be made in this type."""
    return sum_type(dtype) == dtype


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator] # NumPy is opaque to it
def _hadamard(p: int) -> Tensor:
    return torch.from_numpy(hadamard(p))


def _mixer(scales: Tensor, p: int) -> Tensor:
    """diag(alpha) H: (p, p), so that mixing and scaling are one product.

    scales: (0,), (1,) or (p,).
    """
    matrix: Tensor = _hadamard(p).to(scales.device, scales.dtype)
    return matrix * scales[:, None] if len(scales) else matrix


def _mixed(parts: Tensor, scales: Tensor, p: int) -> Tensor:
    """parts: (M, p, n) -> alpha_i sum_s H_is parts_s: (M, p, n)."""
    if _wide(parts.dtype):
        return _mixer(scales, p).to(parts.dtype) @ parts
    matrix: Tensor = _hadamard(p).to(parts.device, parts.dtype)
    return _scaled_blocks(matrix @ parts, scales)


def group_sums(x: Tensor, p: int, channel: int) -> Tensor:
    """Sums of p neighbouring channels, in x's type and memory format.

    x: (..., C at `channel` (-1 or 1), ...) -> (..., C / p, ...).
    """
    if channel == -1:
        groups: Tensor = x.unflatten(-1, (-1, p))
        return groups.sum(-1, dtype=x.dtype)
    if is_channels_last(x):
        # the innermost axis would be short: a product with p ones per row is 3 to 5 times as fast
        eye = torch.eye(x.shape[1] // p, dtype=x.dtype, device=x.device)
        ones = eye.repeat_interleave(p, 1)
        return (x.permute(0, 2, 3, 1) @ ones.T).permute(0, 3, 1, 2)
    groups = x.unflatten(1, (-1, p))
    return groups.sum(2, dtype=x.dtype)


def is_channels_last(x: Tensor) -> bool:
    """Whether the memory of x: (B, C, H, W) has the channels innermost, and in that order alone."""
    is_innermost = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return is_innermost and not x.is_contiguous()


def _scaled_rows(y: Tensor, scales: Tensor, channel: int) -> Tensor:
    """Each of k blocks of rows times its scale.

    y: (..., rows at `channel` (-1 or 1), ...). scales: (0,) or (k,).
    """
    if not len(scales):
        return y
    if not _wide(y.dtype):
        by_channel = y.flatten(1)
        if channel == -1:
            by_channel = y.reshape(y.shape[:-1].numel(), y.shape[-1])
        return _scaled_blocks(by_channel.unsqueeze(-1), scales).reshape(y.shape)
    rows = y.shape[channel]
    per_row = scales.to(y.dtype)[:, None].expand(-1, rows // len(scales)).reshape(-1)
    if channel == 1:
        per_row = per_row.reshape(-1, *[1] * (y.dim() - 2))
    return y * per_row


def linear(x: Tensor, tile: Tensor, scales: Tensor, copies: Copies) -> Tensor:
    """x: (..., K), tile: copies.tile_shape -> (..., rows).

    hadamard: tile (R, K); copy i of p is alpha_i sum_s H_is (x_s T_s) over p segments of K / p
    inputs. columns: tile (rows, K / p); the rows of T times the sums of x over groups of p inputs,
    each by its block's alpha.
    """
    p = copies.p
    if copies.kind == "columns":
        return _scaled_rows(F.linear(group_sums(x, p, -1), tile), scales, -1)
    flat = x.reshape(-1, p, x.shape[-1] // p)
    parts = torch.einsum("msk,rsk->smr", flat, tile.reshape(-1, p, flat.shape[2]))
    mixed = _mixed(parts.flatten(1)[None], scales, p)[0]  # (p, M R)
    rows = tile.shape[0]
    by_input = mixed.reshape(p, flat.shape[0], rows).transpose(0, 1)
    return by_input.reshape(*x.shape[:-1], p * rows)


def conv(x: Tensor, tile: Tensor, scales: Tensor, copies: Copies, geometry: Geometry) -> Tensor:
    """x: (B, C, *S), tile: copies.tile_shape -> (B, rows, *S_out).

    geometry: its padding is that of the layer before its kernel was enlarged.
    """
    if copies.kind == "columns":
        y = _convolution(group_sums(x, copies.p, 1), tile, geometry)
        return _scaled_rows(y, scales, 1)
    if copies.kind == "hadamard":
        return _hadamard_conv(x, tile, scales, copies.p, geometry)
    return _shifted_conv(x, tile, scales, copies, geometry)


def _convolution(x: Tensor, tile: Tensor, geometry: Geometry, groups: int = 1) -> Tensor:
    operation = _CONV[tile.dim() - 2]
    y: Tensor = operation(
        x, tile, None, geometry.stride, geometry.padding, geometry.dilation, groups
    )
    return y


def _hadamard_conv(x: Tensor, tile: Tensor, scales: Tensor, p: int, geometry: Geometry) -> Tensor:
    """The p segments of channels are the groups of one convolution; a p x p matrix mixes them."""
    rows = tile.shape[0]
    grouped = tile.unflatten(1, (p, -1)).transpose(0, 1).flatten(0, 1)
    parts = _convolution(x, grouped, geometry, p)
    mixed = _mixed(parts.unflatten(1, (p, rows)).flatten(2), scales, p)
    return mixed.reshape(x.shape[0], p * rows, *parts.shape[2:])


def _shifted_conv(
    x: Tensor, tile: Tensor, scales: Tensor, copies: Copies, geometry: Geometry
) -> Tensor:
    """One convolution with the tile at every position, then p crops of it.

    Each crop is moved by its shift, strided and scaled.
    """
    spatial = tile.dim() - 2
    margins = [copies.reach * d for d in geometry.dilation]
    around = [pad + margin for pad, margin in zip(geometry.padding, margins, strict=True)]
    everywhere = _convolution(x, tile, Geometry([1] * spatial, around, geometry.dilation))
    crops = []
    for shift in copies.shifts:
        window = _crop(everywhere.shape[2:], margins, shift, geometry)
        crops.append(everywhere[(slice(None), slice(None), *window)])
    out = torch.stack(crops, 1)  # (B, p, R, *S_out)
    if not _wide(out.dtype):
        return _scaled_blocks(out.flatten(2), scales).reshape(out.flatten(1, 2).shape)
    if len(scales):
        out = out * scales.to(x.dtype).reshape(-1, 1, *[1] * spatial)
    return out.flatten(1, 2)


def _crop(
    sizes: Sequence[int], margins: Sequence[int], shift: Sequence[int], geometry: Geometry
) -> list[slice]:
    """The outputs of one copy among the outputs at every position, axis by axis."""
    window = []
    for axis, size in enumerate(sizes):
        margin = margins[axis]
        stride = geometry.stride[axis]
        count = (size - 2 * margin - 1) // stride + 1
        first = margin + geometry.dilation[axis] * shift[axis]
        window.append(slice(first, first + (count - 1) * stride + 1, stride))
    return window


def elementwise(
    y: Tensor,
    latent: Tensor,
    x: Tensor,
    scales: Tensor,
    copies: Copies,
    geometry: Geometry | None = None,
) -> Tensor:
    """y, made from a constant tile, with the authors' gradient for `latent` (tiling.py).

    x, scales: that y was made from. geometry: of a convolution.
    """
    out: Tensor = _LatentGradient.apply(y, latent, x.detach(), scales.detach(), copies, geometry)
    return out


class _LatentGradient(torch.autograd.Function):
    """y -> y. Backward also gives `latent` the gradient of the unscaled dense weight.

    It is computed at full cost (the "elementwise" rule).
    """

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        latent: Tensor,
        x: Tensor,
        scales: Tensor,
        copies: Copies,
        geometry: Geometry | None,
    ) -> Tensor:
        ctx.save_for_backward(x, scales, latent)
        ctx.copies = copies
        ctx.geometry = geometry
        return y.view_as(y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scales, latent = ctx.saved_tensors
        if ctx.geometry is None:
            full = grad.reshape(-1, grad.shape[-1]).T @ x.reshape(-1, x.shape[-1])
        else:
            full = _weight_gradient(grad, x, latent, ctx.copies, ctx.geometry)
        factors = scales if len(scales) else torch.ones(1, device=x.device)
        blocks = full.to(latent.dtype).unflatten(0, (len(factors), -1))
        scaled = blocks * factors.reshape(-1, *[1] * latent.dim())
        return grad, scaled.flatten(0, 1), None, None, None, None


def _weight_gradient(
    grad: Tensor, x: Tensor, latent: Tensor, copies: Copies, geometry: Geometry
) -> Tensor:
    """dL/dB of the full weight in latent's shape, from dL/dy: (B, C_out, *S_out)."""
    if copies.kind != "shifted":
        return _convolution_gradient(grad, x, latent, geometry)
    unpadded = Geometry(geometry.stride, [0] * len(geometry.stride), geometry.dilation)
    gradients = []
    parts = zip(copies.shifts, grad.chunk(copies.p, 1), latent.chunk(copies.p), strict=True)
    for shift, part, like in parts:
        moved = F.pad(x, _shifted_padding(shift, geometry))
        gradients.append(_convolution_gradient(part.contiguous(), moved, like, unpadded))
    return torch.cat(gradients)


def _shifted_padding(shift: Sequence[int], geometry: Geometry) -> list[int]:
    """Padding for F.pad that moves the input by a shift; a negative padding crops."""
    pads: list[int] = []
    for move, dilation, padding in zip(shift, geometry.dilation, geometry.padding, strict=True):
        moved = move * dilation
        pads = [padding - moved, padding + moved, *pads]  # F.pad begins with the last axis
    return pads


def _convolution_gradient(grad: Tensor, x: Tensor, like: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of a convolution's weight. like: a tensor of the weight's shape."""
    stride = list(geometry.stride)
    _, found, _ = torch.ops.aten.convolution_backward(
        grad,
        x,
        like,
        None,
        stride,
        list(geometry.padding),
        list(geometry.dilation),
        False,
        [0] * len(stride),
        1,
        [False, True, False],
    )
    gradient: Tensor = found
    return gradient
