"""Tile reuse: a layer with p scaled copies of one tile computes each distinct dot product once.

Where p divides the output rows, row block i of the weight is alpha_i * T with T: (C_out / p, ...).

    y = expand(T x):  y_block_i = alpha_i * (T x)          forward         1/p of the multiply-adds
    dL/dx = T^T (sum_i alpha_i * dL/dy_block_i)            input gradient  1/p
    "tile":         dL/dT = (sum_i alpha_i dL/dy_block_i) x^T       weight gradient 1/p
    "elementwise":  dL/dB_i = alpha_i dL/dy_block_i x^T             weight gradient at full cost

"elementwise" is the authors' rule. A method takes part by `reuse` and `training_tile`
(binarizers/_base.py). Copies that are not aligned (hadamard, shifted, columns) go through
mixed_copies.py. A weight that is a product of two factors (`factored`) is multiplied by one after
the other. The numbers are those of the plain parametrized path (layer.weight), up to the order of
floating-point sums.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tbn_bench import tiling
from tbn_bench.binarizers._base import WeightBinarizer
from tbn_bench.layers import mixed_copies
from tbn_bench.layers.mixed_copies import Geometry, is_channels_last

_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d}


def _scaled_sum(blocks: Tensor, scales: Tensor) -> Tensor:
    """sum_i scales_i * blocks[:, i], without a temporary of blocks' size.

    blocks: (M, p, n), scales: (1,) or (p,) -> (M, n).
    """
    if scales.shape[0] == 1:
        return blocks.sum(1).mul_(scales)
    factors = scales.to(blocks.dtype).expand(blocks.shape[0], 1, -1)
    return torch.bmm(factors, blocks).squeeze(1)


def _scale_gradient(blocks: Tensor, y: Tensor, scales: Tensor) -> Tensor:
    """dL/dscales from dL/dout as blocks: (M, p, n) and the unscaled y: (M, n)."""
    if tiling.sum_type(y.dtype) == y.dtype:
        per_block = torch.bmm(blocks, y.unsqueeze(2)).sum(0).reshape(-1)
    else:
        per_block = mixed_copies.inner_products(blocks, y.unsqueeze(1))
    if scales.shape[0] == 1:
        per_block = per_block.sum(0, keepdim=True)
    return per_block.to(scales.dtype)


class _Expand(torch.autograd.Function):
    """y: (M, n) -> (M, p, n), block i scaled by scales[i]. scales: (1,) or (p,)."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, scales: Tensor, p: int) -> Tensor:
        ctx.save_for_backward(y, scales)
        return y.unsqueeze(1) * scales.to(y.dtype).reshape(-1, 1).expand(p, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, scales = ctx.saved_tensors
        grad_y = _scaled_sum(grad, scales) if ctx.needs_input_grad[0] else None
        grad_scales = _scale_gradient(grad, y, scales) if ctx.needs_input_grad[1] else None
        return grad_y, grad_scales, None


def _rows(y: Tensor, channel: int) -> Tensor:
    """y as (M, n) in the order of its memory: a view where y is dense.

    y: (..., R at `channel` (-1 or 1), ...); R is inside n.
    """
    if channel == 1 and is_channels_last(y):
        y = y.permute(0, 2, 3, 1)
        channel = -1
    if channel == -1:
        return y.reshape(y.shape[:-1].numel(), y.shape[-1])
    return y.flatten(1)


def _blocks(y: Tensor, scales: Tensor, p: int, channel: int) -> Tensor:
    """p copies of y along `channel` (-1 or 1), copy i scaled by scales[i]; keeps y's memory format.

    y: (..., R, ...) -> (..., p * R, ...).
    """
    out: Tensor = _Expand.apply(_rows(y, channel), scales, p)
    if channel == -1:
        return out.reshape(*y.shape[:-1], p * y.shape[-1])
    if is_channels_last(y):
        b, rows, h, w = y.shape
        return out.reshape(b, h, w, p * rows).permute(0, 3, 1, 2)
    return out.reshape(y.shape[0], p * y.shape[1], *y.shape[2:])


def _as_blocks(grad: Tensor, p: int, channel: int) -> Tensor:
    """The inverse view. grad: (..., p * R, ...) -> (M, p, n)."""
    rows = _rows(grad, channel)
    return rows.reshape(rows.shape[0], p, rows.shape[1] // p)


def _scaled_latent_gradient(full: Tensor, scales: Tensor, p: int, dtype: torch.dtype) -> Tensor:
    """The gradient of the unscaled weight, each of its p blocks times its scale."""
    blocks: Tensor = full.to(dtype).unflatten(0, (p, -1))
    factors = scales.to(dtype).reshape(-1, *[1] * full.dim())
    return (blocks * factors).flatten(0, 1)


class _ElementwiseConv(torch.autograd.Function):
    """A convolution with the tile, expanded; the weight gradient is the full-size one.

    x: (B, C, *S), latent: (C_out, C, *k).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, latent: Tensor, scales: Tensor, p: int, geometry: Geometry
    ) -> Tensor:
        rows = latent.shape[0] // p
        tile = tiling.tile(latent, p).reshape(rows, *latent.shape[1:]).to(x.dtype)
        no_padding = [0] * len(geometry.stride)
        y = torch.convolution(x, tile, None, *geometry, False, no_padding, 1)
        ctx.save_for_backward(x, tile, scales, y)
        ctx.p = p
        ctx.geometry = geometry
        ctx.latent_dtype = latent.dtype
        return _blocks(y, scales, p, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, tile, scales, y = ctx.saved_tensors
        p = ctx.p
        if is_channels_last(y):
            grad = grad.contiguous(memory_format=torch.channels_last)
        blocks = _as_blocks(grad, p, 1)
        grad_x = grad_latent = grad_scales = None
        if ctx.needs_input_grad[0]:
            total = _as_y(_scaled_sum(blocks, scales), y)
            grad_x = _gradients(ctx.geometry, total, x, tile, of_input=True)
        if ctx.needs_input_grad[1]:
            like = tile.expand(p, *tile.shape).flatten(0, 1)  # only its shape matters here
            full = _gradients(ctx.geometry, grad, x, like, of_input=False)
            grad_latent = _scaled_latent_gradient(full, scales, p, ctx.latent_dtype)
        if ctx.needs_input_grad[2]:
            grad_scales = _scale_gradient(blocks, _rows(y, 1), scales)
        return grad_x, grad_latent, grad_scales, None, None


def _as_y(rows: Tensor, y: Tensor) -> Tensor:
    """The inverse of _rows(y, 1), for values of y's size."""
    if is_channels_last(y):
        rows = rows.reshape(y.shape[0], *y.shape[2:], y.shape[1]).permute(0, 3, 1, 2)
    return rows.reshape(y.shape)


def _gradients(
    geometry: Geometry, grad: Tensor, x: Tensor, weight: Tensor, of_input: bool
) -> Tensor:
    """The gradient of a convolution's input, or of its weight."""
    no_padding = [0] * len(geometry.stride)
    wanted = [of_input, not of_input, False]
    found = torch.ops.aten.convolution_backward(
        grad, x, weight, None, *geometry, False, no_padding, 1, wanted
    )
    gradient: Tensor = found[0] if of_input else found[1]
    return gradient


class _ElementwiseLinear(torch.autograd.Function):
    """The matrix form of _ElementwiseConv.

    x: (M, K), latent: (C_out, K), scales: (1,) or (p,) -> (M, C_out).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, latent: Tensor, scales: Tensor, p: int) -> Tensor:
        tile = tiling.tile(latent, p).reshape(-1, x.shape[1]).to(x.dtype)
        y = x @ tile.T
        ctx.save_for_backward(x, tile, scales, y)
        ctx.p = p
        ctx.latent_dtype = latent.dtype
        return _blocks(y, scales, p, -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, tile, scales, y = ctx.saved_tensors
        blocks = _as_blocks(grad, ctx.p, -1)
        grad_x = grad_latent = grad_scales = None
        if ctx.needs_input_grad[0]:
            grad_x = _scaled_sum(blocks, scales) @ tile
        if ctx.needs_input_grad[1]:
            grad_latent = _scaled_latent_gradient(grad.T @ x, scales, ctx.p, ctx.latent_dtype)
        if ctx.needs_input_grad[2]:
            grad_scales = _scale_gradient(blocks, y, scales)
        return grad_x, grad_latent, grad_scales, None


class _Reuse(nn.Module):
    """Mixed into a layer's class before its weight is parametrized.

    Without an active parametrization that reuses its tile it changes nothing.
    """

    def _method(self) -> tuple[Tensor, Tensor, WeightBinarizer] | None:
        """(latent, scales, parametrization), or None where the plain path must serve."""
        if not parametrize.is_parametrized(self, "weight"):
            return None
        chain: Any = self.get_submodule("parametrizations.weight")
        if len(chain) != 1 or not chain[0].reuse:
            return None
        return chain.original, chain[0].scales(chain.original), chain[0]

    def _plain(self, x: Tensor) -> Tensor:
        """The forward of torch's own layer."""
        layer: Any = super()
        y: Tensor = layer.forward(x)
        return y

    def _autocast(self, x: Tensor) -> Tensor:
        device = x.device.type
        # torch raises where the meta device is asked for its autocast
        if x.is_meta or not torch.is_autocast_enabled(device):
            return x
        return x.to(torch.get_autocast_dtype(device))


class ReuseLinear(_Reuse, nn.Linear):
    """nn.Linear by tile reuse. x: (..., in_features) -> (..., out_features)."""

    def forward(self, input: Tensor) -> Tensor:  # torch's name: callers may give it by keyword
        found = self._method()
        if found is None:
            return self._plain(input)
        latent, scales, method = found
        if method.factored:
            first, second = method.factors()
            return F.linear(F.linear(input, first), second, self.bias)
        x = self._autocast(input)
        if method.elementwise and method.copies is None:
            flat = x.reshape(-1, self.in_features)
            y: Tensor = _ElementwiseLinear.apply(flat, latent, scales, method.p)
            y = y.reshape(*x.shape[:-1], self.out_features)
        else:
            y = self._features(x, latent, scales, method)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def _features(
        self, x: Tensor, latent: Tensor, scales: Tensor, method: WeightBinarizer
    ) -> Tensor:
        copies = method.copies
        tile = method.training_tile(latent)
        if copies is None:
            tile = tile.reshape(-1, self.in_features).to(x.dtype)
            return _blocks(F.linear(x, tile), scales, method.p, -1)
        tile = tile.reshape(copies.tile_shape).to(x.dtype)
        y = mixed_copies.linear(x, tile, scales, copies)
        if method.elementwise:
            y = mixed_copies.elementwise(y, latent, x, scales, copies)
        return y


class _ReuseConv(_Reuse):
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    padding_mode: Any  # "zeros", "reflect", ...
    bias: Tensor | None
    _reversed_padding_repeated_twice: list[int]

    def forward(self, input: Tensor) -> Tensor:  # torch's name: callers may give it by keyword
        found = self._method()
        if found is None:
            return self._plain(input)
        latent, scales, method = found
        if method.factored:
            first, second = method.factors()
            return self._two_steps(input, first, second)
        spatial = len(self.kernel_size)
        is_unbatched = input.dim() == spatial + 1
        x = self._autocast(input.unsqueeze(0) if is_unbatched else input)
        x, padding = self._pad(x)
        geometry = Geometry(self.stride, padding, self.dilation)
        if method.elementwise and method.copies is None:
            y: Tensor = _ElementwiseConv.apply(x, latent, scales, method.p, geometry)
        else:
            y = self._features(x, latent, scales, method, geometry)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype).reshape(-1, *[1] * spatial)
        return y.squeeze(0) if is_unbatched else y

    def _two_steps(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """A convolution to s channels, then a 1 x 1 one.

        first: (s, C_in, *k), second: (C_out, s).
        """
        x, padding = self._pad(x)
        spatial = len(self.kernel_size)
        conv = _CONV[spatial]
        mixed = conv(x, first, None, self.stride, padding, self.dilation)
        y: Tensor = conv(mixed, second.reshape(*second.shape, *[1] * spatial), self.bias)
        return y

    def _features(
        self,
        x: Tensor,
        latent: Tensor,
        scales: Tensor,
        method: WeightBinarizer,
        geometry: Geometry,
    ) -> Tensor:
        copies = method.copies
        tile = method.training_tile(latent)
        if copies is None:
            tile = tile.reshape(-1, *latent.shape[1:]).to(x.dtype)
            y: Tensor = _CONV[len(self.kernel_size)](x, tile, None, *geometry)
            return _blocks(y, scales, method.p, 1)
        if copies.kind == "shifted":  # the module's padding grew with its kernel
            pads = zip(geometry.padding, geometry.dilation, strict=True)
            own = tuple(pad - copies.reach * dilation for pad, dilation in pads)
            geometry = geometry._replace(padding=own)
        tile = tile.reshape(copies.tile_shape).to(x.dtype)
        y = mixed_copies.conv(x, tile, scales, copies, geometry)
        if method.elementwise:
            y = mixed_copies.elementwise(y, latent, x, scales, copies, geometry)
        return y

    def _pad(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """(x, padding still to do): pads x where a convolution cannot ('same', reflect, ...)."""
        if self.padding_mode == "zeros" and not isinstance(self.padding, str):
            return x, tuple(self.padding)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        padded = F.pad(x, self._reversed_padding_repeated_twice, mode=mode)
        return padded, (0,) * len(self.kernel_size)


class ReuseConv1d(_ReuseConv, nn.Conv1d):
    """nn.Conv1d by tile reuse. x: (B, C, L) or (C, L)."""


class ReuseConv2d(_ReuseConv, nn.Conv2d):
    """nn.Conv2d by tile reuse. x: (B, C, H, W) or (C, H, W)."""


_SWAP: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: ReuseLinear,
    nn.Conv1d: ReuseConv1d,
    nn.Conv2d: ReuseConv2d,
}


def reusable(module: nn.Module, method: WeightBinarizer) -> bool:
    """Whether the layer can compute fewer products.

    True for a plain Linear or Conv of one group whose weight is a product of two factors, or has
    p > 1 that divides its rows. columns needs whole rows for each scale instead.
    """
    if type(module) not in _SWAP or not method.reuse or getattr(module, "groups", 1) != 1:
        return False
    if method.factored or method.p <= 1:
        return method.factored
    kind = "aligned" if method.copies is None else method.copies.kind
    layer: Any = module
    rows: int = layer.weight.shape[0]
    if kind == "columns":
        return rows % method.num_scales(layer.weight) == 0
    return kind in ("aligned", *mixed_copies.KINDS) and rows % method.p == 0


def reuse_(module: nn.Module) -> None:
    """Swaps the class of a `reusable` module, in place, before its weight is parametrized."""
    module.__class__ = _SWAP[type(module)]
