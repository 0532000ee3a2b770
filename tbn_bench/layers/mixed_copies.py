"""Computes layers of hadamard, shifted and columns copies from one tile, at 1/p of the arithmetic.

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
from tbn_bench.tiling import constant_in_graphs, sum_type

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
    growth = 2 * reach
    conv.kernel_size = tuple(length + growth for length in conv.kernel_size)
    padding = []
    for pad, dilation in zip(conv.padding, conv.dilation, strict=True):
        margin = reach * dilation
        padding.append(pad + margin)
    conv.padding = tuple(padding)
    both_sides: list[int] = []
    for pad in reversed(padding):
        both_sides += (pad, pad)
    conv._reversed_padding_repeated_twice = both_sides


def inner_products(a: Tensor, b: Tensor) -> Tensor:
    """a: (M, k, n), b: (M, k or 1, n), of a half type -> sum over M and n of a b: (k,) float32.

    In a half type such a sum, whose terms tend to have one sign, would be off by up to 1 / 256 of
    itself.
    """
    step = 1
    if len(a):
        size = max(1, a[0].numel())
        step = max(1, _AT_ONCE // size)
    sums = []
    for x, y in zip(a.split(step), b.split(step), strict=True):
        products = x.float() * y.float()
        part = products.sum((0, 2))
        sums.append(part)
    parts = torch.stack(sums)
    return parts.sum(0)


class _ScaledBlocks(torch.autograd.Function):
    """y: (M, k, n) of a half type, block i times scales[i]. scales: (k,).

    The gradient of the scales is summed in float32.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(y, scales)
        typed = scales.to(y.dtype)
        factors = typed.unsqueeze(1)
        return y * factors

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        y, scales = ctx.saved_tensors
        typed = scales.to(grad.dtype)
        grad_y = grad * typed.unsqueeze(1)
        _, needs_scales = ctx.needs_input_grad
        if not needs_scales:
            return grad_y, None
        grad_scales = inner_products(grad, y)
        return grad_y, grad_scales.to(scales.dtype)


def _scaled_blocks(y: Tensor, scales: Tensor) -> Tensor:
    """Each of k blocks of p / k rows times its scale.

    y: (M, p, n) of a half type. scales: (0,) or (k,).
    """
    k = len(scales)
    if k == 0:
        return y
    flat = y.flatten(1)
    blocks = flat.unflatten(1, (k, -1))
    scaled: Tensor = _ScaledBlocks.apply(blocks, scales)
    return scaled.reshape(y.shape)


def _is_safe_sum_type(dtype: torch.dtype) -> bool:
    """Whether sums of many values keep their accuracy in this type."""
    return sum_type(dtype) == dtype


@constant_in_graphs
def _hadamard(p: int) -> Tensor:
    return torch.from_numpy(hadamard(p))


def _mixer(scales: Tensor, p: int) -> Tensor:
    """diag(alpha) H: (p, p), so that mixing and scaling are one product.

    scales: (0,), (1,) or (p,).
    """
    signs: Tensor = _hadamard(p)
    matrix = signs.to(scales.device, scales.dtype)
    if not len(scales):
        return matrix
    by_row = scales.unsqueeze(1)
    return matrix * by_row


def _mixed(parts: Tensor, scales: Tensor, p: int) -> Tensor:
    """parts: (M, p, n) -> alpha_i sum_s H_is parts_s: (M, p, n)."""
    dtype = parts.dtype
    if _is_safe_sum_type(dtype):
        mixer = _mixer(scales, p)
        mixer = mixer.to(dtype)
        return mixer @ parts
    signs: Tensor = _hadamard(p)
    matrix = signs.to(parts.device, dtype)
    mixed = matrix @ parts
    return _scaled_blocks(mixed, scales)


def group_sums(x: Tensor, p: int, channel: int) -> Tensor:
    """Sums of p neighbouring channels, in x's type and memory format.

    x: (..., C at `channel` (-1 or 1), ...) -> (..., C / p, ...).
    """
    if channel == -1:
        groups: Tensor = x.unflatten(-1, (-1, p))
        return groups.sum(-1, dtype=x.dtype)
    if is_channels_last(x):
        return _group_sums_channels_last(x, p)
    groups = x.unflatten(1, (-1, p))
    return groups.sum(2, dtype=x.dtype)


def _group_sums_channels_last(x: Tensor, p: int) -> Tensor:
    """x: (B, C, H, W) -> (B, C / p, H, W), by a product with p ones per row.

    The innermost axis of a sum would be short; the product is 3 to 5 times as fast.
    """
    num_groups = x.shape[1] // p
    eye = torch.eye(num_groups, dtype=x.dtype, device=x.device)
    ones = eye.repeat_interleave(p, 1)
    by_pixel = x.permute(0, 2, 3, 1)
    sums = by_pixel @ ones.T
    return sums.permute(0, 3, 1, 2)


def is_channels_last(x: Tensor) -> bool:
    """Whether the memory of x: (B, C, H, W) has the channels innermost, and in that order alone."""
    if x.dim() != 4:
        return False
    is_innermost = x.is_contiguous(memory_format=torch.channels_last)
    is_in_order = x.is_contiguous()
    return is_innermost and not is_in_order


def _scaled_rows(y: Tensor, scales: Tensor, channel: int) -> Tensor:
    """Each of k blocks of rows times its scale.

    y: (..., rows at `channel` (-1 or 1), ...). scales: (0,) or (k,).
    """
    k = len(scales)
    if k == 0:
        return y
    if not _is_safe_sum_type(y.dtype):
        by_channel = y.flatten(1)
        if channel == -1:
            by_channel = y.reshape(-1, y.shape[-1])
        scaled = _scaled_blocks(by_channel.unsqueeze(-1), scales)
        return scaled.reshape(y.shape)
    rows = y.shape[channel]
    typed = scales.to(y.dtype)
    per_row = typed.unsqueeze(1).expand(-1, rows // k)
    factors = per_row.reshape(-1)
    if channel == 1:
        spatial = y.dim() - 2
        factors = factors.reshape(-1, *[1] * spatial)
    return y * factors


def linear(x: Tensor, tile: Tensor, scales: Tensor, copies: Copies) -> Tensor:
    """x: (..., K), tile: copies.tile_shape -> (..., rows).

    hadamard: tile (R, K); copy i of p is alpha_i sum_s H_is (x_s T_s) over p slices of K / p
    inputs. columns: tile (rows, K / p); the rows of T times the sums of x over groups of p inputs,
    each by its block's alpha.
    """
    if copies.kind == "columns":
        sums = group_sums(x, copies.p, -1)
        y = F.linear(sums, tile)
        return _scaled_rows(y, scales, -1)
    return _hadamard_linear(x, tile, scales, copies.p)


def _hadamard_linear(x: Tensor, tile: Tensor, scales: Tensor, p: int) -> Tensor:
    """x: (..., K), tile: (R, K) -> (..., p R)."""
    *batch, columns = x.shape
    rows = tile.shape[0]
    width = columns // p  # of a slice of inputs
    inputs = x.reshape(-1, p, width)
    signs = tile.reshape(rows, p, width)
    parts = torch.einsum("msk,rsk->smr", inputs, signs)
    flat = parts.flatten(1).unsqueeze(0)
    mixed = _mixed(flat, scales, p).squeeze(0)  # (p, M R)
    by_copy = mixed.reshape(p, -1, rows)
    by_input = by_copy.transpose(0, 1)
    return by_input.reshape(*batch, p * rows)


def conv(x: Tensor, tile: Tensor, scales: Tensor, copies: Copies, geometry: Geometry) -> Tensor:
    """x: (B, C, *S), tile: copies.tile_shape -> (B, rows, *S_out).

    geometry: its padding is that of the layer before its kernel was enlarged.
    """
    if copies.kind == "columns":
        sums = group_sums(x, copies.p, 1)
        y = _convolution(sums, tile, geometry)
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
    """The p slices of channels are the groups of one convolution; a p x p matrix mixes them."""
    rows = tile.shape[0]
    segments = tile.unflatten(1, (p, -1))
    by_segment = segments.transpose(0, 1)
    grouped = by_segment.flatten(0, 1)
    y = _convolution(x, grouped, geometry, p)
    batch, _, *sizes = y.shape
    parts = y.unflatten(1, (p, rows))
    mixed = _mixed(parts.flatten(2), scales, p)
    return mixed.reshape(batch, p * rows, *sizes)


def _shifted_conv(
    x: Tensor, tile: Tensor, scales: Tensor, copies: Copies, geometry: Geometry
) -> Tensor:
    """One convolution with the tile at every position, then p crops of it.

    Each crop is moved by its shift, strided and scaled.
    """
    spatial = tile.dim() - 2
    margins = [copies.reach * dilation for dilation in geometry.dilation]
    around = [pad + margin for pad, margin in zip(geometry.padding, margins, strict=True)]
    dense = Geometry([1] * spatial, around, geometry.dilation)
    everywhere = _convolution(x, tile, dense)
    sizes = everywhere.shape[2:]
    whole = slice(None)
    crops = []
    for shift in copies.shifts:
        window = _crop(sizes, margins, shift, geometry)
        crop = everywhere[(whole, whole, *window)]
        crops.append(crop)
    out = torch.stack(crops, 1)  # (B, p, R, *S_out)
    if not _is_safe_sum_type(out.dtype):
        scaled = _scaled_blocks(out.flatten(2), scales)
        return scaled.reshape(out.flatten(1, 2).shape)
    if len(scales):
        typed = scales.to(x.dtype)
        out = out * typed.reshape(-1, 1, *[1] * spatial)
    return out.flatten(1, 2)


def _crop(
    sizes: Sequence[int], margins: Sequence[int], shift: Sequence[int], geometry: Geometry
) -> list[slice]:
    """The outputs of one copy among the outputs at every position, axis by axis."""
    window = []
    for axis, size in enumerate(sizes):
        margin = margins[axis]
        stride = geometry.stride[axis]
        positions = size - 2 * margin
        steps = (positions - 1) // stride
        move = geometry.dilation[axis] * shift[axis]
        first = margin + move
        last = first + steps * stride
        window.append(slice(first, last + 1, stride))
    return window


def with_elementwise_gradient(
    y: Tensor,
    latent: Tensor,
    x: Tensor,
    scales: Tensor,
    copies: Copies,
    geometry: Geometry | None = None,
) -> Tensor:
    """y, made from a constant tile, with the authors' gradient for `latent` (tiling.py).

    x, scales: what y was computed from. geometry: of a convolution.
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
            flat_grad = grad.reshape(-1, grad.shape[-1])
            flat_x = x.reshape(-1, x.shape[-1])
            full = flat_grad.T @ flat_x
        else:
            full = _weight_gradient(grad, x, latent, ctx.copies, ctx.geometry)
        factors = scales
        if not len(scales):
            factors = torch.ones(1, device=x.device)
        typed = full.to(latent.dtype)
        blocks = typed.unflatten(0, (len(factors), -1))
        by_block = factors.reshape(-1, *[1] * latent.dim())
        scaled = blocks * by_block
        grad_latent = scaled.flatten(0, 1)
        return grad, grad_latent, None, None, None, None


def _weight_gradient(
    grad: Tensor, x: Tensor, latent: Tensor, copies: Copies, geometry: Geometry
) -> Tensor:
    """dL/dB of the full weight in latent's shape, from dL/dy: (B, C_out, *S_out)."""
    if copies.kind != "shifted":
        return _convolution_gradient(grad, x, latent, geometry)
    no_padding = [0] * len(geometry.stride)
    unpadded = geometry._replace(padding=no_padding)
    grad_parts = grad.chunk(copies.p, 1)
    latent_parts = latent.chunk(copies.p)
    gradients = []
    for i, shift in enumerate(copies.shifts):
        padding = _shifted_padding(shift, geometry)
        moved = F.pad(x, padding)
        part = grad_parts[i].contiguous()
        gradient = _convolution_gradient(part, moved, latent_parts[i], unpadded)
        gradients.append(gradient)
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
