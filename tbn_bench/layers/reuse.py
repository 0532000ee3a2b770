"""Tile reuse: layers whose weight is p scaled copies of one tile compute each distinct dot product once.

Where p divides the output rows, row block i of the weight is alpha_i * T with T: (C_out / p, ...). Then

    y = expand(T x):  y_block_i = alpha_i * (T x)          forward         1/p of the multiply-adds
    dL/dx = T^T (sum_i alpha_i * dL/dy_block_i)            input gradient  1/p
    "tile":         dL/dT = (sum_i alpha_i dL/dy_block_i) x^T       weight gradient 1/p
    "elementwise":  dL/dB_i = alpha_i dL/dy_block_i x^T             weight gradient at full cost (the authors' rule)

A method takes part by `reuse` and `training_tile` (binarizers/_base.py). Copies that are not aligned (hadamard, shifted, columns) go
through mixed_copies.py. A weight that is a product of two factors (`factored`) is multiplied by one after the other. The numbers are those
of the plain parametrized path (layer.weight), up to the order of floating-point sums.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tbn_bench import tiling
from tbn_bench.binarizers._base import WeightBinarizer
from tbn_bench.layers import mixed_copies


def _scaled_sum(blocks: Tensor, scales: Tensor) -> Tensor:
    """sum_i scales_i * blocks[:, i]. blocks: (M, p, n), scales: (1,) or (p,) -> (M, n). No temporary of blocks' size."""
    if scales.shape[0] == 1:
        return blocks.sum(1).mul_(scales)
    return torch.bmm(scales.to(blocks.dtype).expand(blocks.shape[0], 1, -1), blocks).squeeze(1)


def _scale_gradient(blocks: Tensor, y: Tensor, scales: Tensor) -> Tensor:
    """dL/dscales from dL/dout as blocks: (M, p, n) and the unscaled y: (M, n)."""
    if tiling.sum_type(y.dtype) == y.dtype:
        per_block = torch.bmm(blocks, y.unsqueeze(2)).sum(0).reshape(-1)
    else:
        per_block = mixed_copies.inner_products(blocks, y.unsqueeze(1))
    return (per_block if scales.shape[0] > 1 else per_block.sum(0, keepdim=True)).to(scales.dtype)


class _Expand(torch.autograd.Function):
    """y: (M, n) -> (M, p, n), block i scaled by scales[i]. scales: (1,) or (p,)."""

    @staticmethod
    def forward(ctx, y, scales, p):
        ctx.save_for_backward(y, scales)
        return y.unsqueeze(1) * scales.to(y.dtype).reshape(-1, 1).expand(p, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        y, scales = ctx.saved_tensors
        grad_y = _scaled_sum(grad, scales) if ctx.needs_input_grad[0] else None
        return grad_y, _scale_gradient(grad, y, scales) if ctx.needs_input_grad[1] else None, None


def _channels_last(y: Tensor) -> bool:
    return (
        y.dim() == 4
        and y.is_contiguous(memory_format=torch.channels_last)
        and not y.is_contiguous()
    )


def _rows(y: Tensor, channel: int) -> Tensor:
    """y: (..., R at `channel` (-1 or 1), ...) -> (M, n) with R inside n, as its memory lies: a view where y is dense."""
    if channel == 1 and _channels_last(y):
        y, channel = y.permute(0, 2, 3, 1), -1
    return y.reshape(y.shape[:-1].numel(), y.shape[-1]) if channel == -1 else y.flatten(1)


def _blocks(y: Tensor, scales: Tensor, p: int, channel: int) -> Tensor:
    """y: (..., R, ...) -> (..., p * R, ...) at `channel` (-1 or 1), block i scaled by scales[i]; keeps y's memory format."""
    out = _Expand.apply(_rows(y, channel), scales, p)
    if channel == -1:
        return out.reshape(*y.shape[:-1], p * y.shape[-1])
    if _channels_last(y):
        b, rows, h, w = y.shape
        return out.reshape(b, h, w, p * rows).permute(0, 3, 1, 2)
    return out.reshape(y.shape[0], p * y.shape[1], *y.shape[2:])


def _as_blocks(grad: Tensor, p: int, channel: int) -> Tensor:
    """The inverse view: grad: (..., p * R, ...) -> (M, p, n)."""
    rows = _rows(grad, channel)
    return rows.reshape(rows.shape[0], p, rows.shape[1] // p)


class _ElementwiseReuse(torch.autograd.Function):
    """conv with the tile, expanded; the weight gradient is the full-size one. x: (B, C, *S), latent: (C_out, C, *k)."""

    @staticmethod
    def forward(ctx, x, latent, scales, p, stride, padding, dilation):
        rows = latent.shape[0] // p
        tile = tiling.tile(latent, p).reshape(rows, *latent.shape[1:]).to(x.dtype)
        y = torch.convolution(x, tile, None, stride, padding, dilation, False, [0] * len(stride), 1)
        ctx.save_for_backward(x, tile, scales, y)
        ctx.p, ctx.args, ctx.latent_dtype = p, (stride, padding, dilation), latent.dtype
        return _blocks(y, scales, p, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, tile, scales, y = ctx.saved_tensors
        p, args = ctx.p, (*ctx.args, False, [0] * len(ctx.args[0]), 1)
        if _channels_last(y):
            grad = grad.contiguous(memory_format=torch.channels_last)
        blocks = _as_blocks(grad, p, 1)
        grad_x = grad_latent = grad_scales = None
        if ctx.needs_input_grad[0]:
            total = _scaled_sum(blocks, scales)
            if _channels_last(y):
                total = total.reshape(y.shape[0], *y.shape[2:], y.shape[1]).permute(0, 3, 1, 2)
            total = total.reshape(y.shape)
            grad_x = torch.ops.aten.convolution_backward(
                total, x, tile, None, *args, [True, False, False]
            )[0]
        if ctx.needs_input_grad[1]:
            like = tile.expand(p, *tile.shape).flatten(0, 1)  # only its shape matters here
            full = torch.ops.aten.convolution_backward(
                grad, x, like, None, *args, [False, True, False]
            )[1]
            factors = scales.to(ctx.latent_dtype).reshape(-1, *[1] * tile.dim())
            grad_latent = (full.to(ctx.latent_dtype).unflatten(0, (p, -1)) * factors).flatten(0, 1)
        if ctx.needs_input_grad[2]:
            grad_scales = _scale_gradient(blocks, _rows(y, 1), scales)
        return grad_x, grad_latent, grad_scales, None, None, None, None


class _Reuse:
    """Mixed into a layer class before parametrization; without an active parametrization that reuses it changes nothing."""

    def _method(self) -> tuple[Tensor, Tensor, WeightBinarizer] | None:
        """(latent, scales, parametrization), or None where the plain path must serve."""
        if not parametrize.is_parametrized(self, "weight"):
            return None
        chain = self.parametrizations.weight
        if len(chain) != 1 or not chain[0].reuse:
            return None
        return chain.original, chain[0].scales(chain.original), chain[0]

    def _autocast(self, x: Tensor) -> Tensor:
        device = (
            x.device.type
        )  # the meta device has no autocast, and torch raises where it is asked for one
        return (
            x
            if x.is_meta or not torch.is_autocast_enabled(device)
            else x.to(torch.get_autocast_dtype(device))
        )


class ReuseLinear(_Reuse, nn.Linear):
    """nn.Linear by tile reuse. x: (..., in_features) -> (..., out_features)."""

    def forward(self, input: Tensor) -> Tensor:  # by torch's name: callers may give it by keyword
        x, found = input, self._method()
        if found is None:
            return super().forward(x)
        latent, scales, method = found
        if method.factored:
            first, second = method.factors()
            return F.linear(F.linear(x, first), second, self.bias)
        x, p, copies = self._autocast(x), method.p, method.copies
        if method.elementwise and copies is None:
            flat = x.reshape(-1, self.in_features)
            y = _LinearElementwise.apply(flat, latent, scales, p).reshape(
                *x.shape[:-1], self.out_features
            )
        else:
            shape = (-1, self.in_features) if copies is None else copies.tile_shape
            tile = method.training_tile(latent).reshape(shape).to(x.dtype)
            y = (
                _blocks(F.linear(x, tile), scales, p, -1)
                if copies is None
                else mixed_copies.linear(x, tile, scales, copies)
            )
            if method.elementwise:
                y = mixed_copies.elementwise(y, latent, x, scales, copies)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _LinearElementwise(torch.autograd.Function):
    """The matrix form of _ElementwiseReuse. x: (M, K), latent: (C_out, K), scales: (1,) or (p,) -> (M, C_out)."""

    @staticmethod
    def forward(ctx, x, latent, scales, p):
        tile = tiling.tile(latent, p).reshape(-1, x.shape[1]).to(x.dtype)
        y = x @ tile.T
        ctx.save_for_backward(x, tile, scales, y)
        ctx.p, ctx.latent_dtype = p, latent.dtype
        return _blocks(y, scales, p, -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, tile, scales, y = ctx.saved_tensors
        blocks = _as_blocks(grad, ctx.p, -1)
        grad_x = _scaled_sum(blocks, scales) @ tile if ctx.needs_input_grad[0] else None
        grad_latent = None
        if ctx.needs_input_grad[1]:
            full = (grad.T @ x).to(ctx.latent_dtype).unflatten(0, (ctx.p, -1))
            grad_latent = (full * scales.to(ctx.latent_dtype).reshape(-1, 1, 1)).flatten(0, 1)
        grad_scales = _scale_gradient(blocks, y, scales) if ctx.needs_input_grad[2] else None
        return grad_x, grad_latent, grad_scales, None


class _ReuseConv(_Reuse):
    def forward(self, input: Tensor) -> Tensor:  # by torch's name: callers may give it by keyword
        x, found = input, self._method()
        if found is None:
            return super().forward(x)
        latent, scales, method = found
        if method.factored:
            return self._two_steps(x, *method.factors())
        spatial = len(self.kernel_size)
        unbatched = x.dim() == spatial + 1
        x, copies = self._autocast(x.unsqueeze(0) if unbatched else x), method.copies
        x, padding = self._pad(x)
        if method.elementwise and copies is None:
            y = _ElementwiseReuse.apply(
                x, latent, scales, method.p, self.stride, padding, self.dilation
            )
        else:
            shape = (-1, *latent.shape[1:]) if copies is None else copies.tile_shape
            tile = method.training_tile(latent).reshape(shape).to(x.dtype)
            y = self._features(x, tile, scales, method, latent, copies, padding)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype).reshape(-1, *[1] * spatial)
        return y.squeeze(0) if unbatched else y

    def _two_steps(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """A convolution to s channels, then a 1 x 1 one. first: (s, C_in, *k), second: (C_out, s)."""
        x, padding = self._pad(x)
        spatial = len(self.kernel_size)
        conv = (F.conv1d, F.conv2d)[spatial - 1]
        y = conv(x, first, None, self.stride, padding, self.dilation)
        return conv(y, second.reshape(*second.shape, *[1] * spatial), self.bias)

    def _features(self, x, tile, scales, method, latent, copies, padding):
        if copies is None:
            conv = (F.conv1d, F.conv2d)[len(self.kernel_size) - 1]
            return _blocks(
                conv(x, tile, None, self.stride, padding, self.dilation), scales, method.p, 1
            )
        if copies.kind == "shifted":  # the module's padding grew with its kernel
            padding = tuple(
                n - copies.reach * d for n, d in zip(padding, self.dilation, strict=True)
            )
        where = (copies, self.stride, padding, self.dilation)
        y = mixed_copies.conv(x, tile, scales, *where)
        return mixed_copies.elementwise(y, latent, x, scales, *where) if method.elementwise else y

    def _pad(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Padding that convolution cannot do itself ('same', reflect, ...) is done here, in front of it."""
        if self.padding_mode == "zeros" and not isinstance(self.padding, str):
            return x, tuple(self.padding)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x, self._reversed_padding_repeated_twice, mode=mode), (0,) * len(
            self.kernel_size
        )


class ReuseConv1d(_ReuseConv, nn.Conv1d):
    """nn.Conv1d by tile reuse. x: (B, C, L) or (C, L)."""


class ReuseConv2d(_ReuseConv, nn.Conv2d):
    """nn.Conv2d by tile reuse. x: (B, C, H, W) or (C, H, W)."""


_SWAP = {nn.Linear: ReuseLinear, nn.Conv1d: ReuseConv1d, nn.Conv2d: ReuseConv2d}


def reusable(module: nn.Module, method: WeightBinarizer) -> bool:
    """True where the layer can compute fewer products: a plain Linear / Conv, one group, p > 1 dividing its rows or two factors.

    columns needs whole rows for each scale instead.
    """
    if type(module) not in _SWAP or not method.reuse or getattr(module, "groups", 1) != 1:
        return False
    if method.factored or method.p <= 1:
        return method.factored
    kind = "aligned" if method.copies is None else method.copies.kind
    if kind == "columns":
        return module.weight.shape[0] % method.num_scales(module.weight) == 0
    return (kind == "aligned" or kind in mixed_copies.KINDS) and module.weight.shape[
        0
    ] % method.p == 0


def reuse_(module: nn.Module) -> None:
    """Swaps the class of a `reusable` module, in place, before its weight is parametrized."""
    module.__class__ = _SWAP[type(module)]
