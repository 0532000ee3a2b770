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
    if len(scales) == 1:
        total = blocks.sum(1)
        return total.mul_(scales)
    typed = scales.to(blocks.dtype)
    factors = typed.expand(len(blocks), 1, -1)
    products = torch.bmm(factors, blocks)
    return products.squeeze(1)


def _scale_gradient(blocks: Tensor, y: Tensor, scales: Tensor) -> Tensor:
    """dL/dscales from dL/dout as blocks: (M, p, n) and the unscaled y: (M, n)."""
    if tiling.sum_type(y.dtype) == y.dtype:
        products = torch.bmm(blocks, y.unsqueeze(2))
        per_block = products.sum(0).reshape(-1)
    else:
        row = y.unsqueeze(1)
        per_block = mixed_copies.inner_products(blocks, row)
    if len(scales) == 1:
        per_block = per_block.sum(0, keepdim=True)
    return per_block.to(scales.dtype)


class _Expand(torch.autograd.Function):
    """y: (M, n) -> (M, p, n), block i scaled by scales[i]. scales: (1,) or (p,)."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, scales: Tensor, p: int) -> Tensor:
        ctx.save_for_backward(y, scales)
        column = scales.to(y.dtype).reshape(-1, 1)
        factors = column.expand(p, 1)
        return y.unsqueeze(1) * factors

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, scales = ctx.saved_tensors
        needs_y, needs_scales, _ = ctx.needs_input_grad
        grad_y = grad_scales = None
        if needs_y:
            grad_y = _scaled_sum(grad, scales)
        if needs_scales:
            grad_scales = _scale_gradient(grad, y, scales)
        return grad_y, grad_scales, None


def _rows(y: Tensor, channel: int) -> Tensor:
    """y as (M, n) in the order of its memory: a view where y is dense.

    y: (..., R at `channel` (-1 or 1), ...); R is inside n.
    """
    if channel == 1 and is_channels_last(y):
        y = y.permute(0, 2, 3, 1)
        channel = -1
    if channel == -1:
        count = y.shape[:-1].numel()
        return y.reshape(count, y.shape[-1])
    return y.flatten(1)


def _blocks(y: Tensor, scales: Tensor, p: int, channel: int) -> Tensor:
    """p copies of y along `channel` (-1 or 1), copy i scaled by scales[i]; keeps y's memory format.

    y: (..., R, ...) -> (..., p * R, ...).
    """
    flat = _rows(y, channel)
    out: Tensor = _Expand.apply(flat, scales, p)
    if channel == -1:
        *batch, rows = y.shape
        return out.reshape(*batch, p * rows)
    b, rows, *sizes = y.shape
    if is_channels_last(y):
        by_pixel = out.reshape(b, *sizes, p * rows)
        return by_pixel.permute(0, 3, 1, 2)
    return out.reshape(b, p * rows, *sizes)


def _as_blocks(grad: Tensor, p: int, channel: int) -> Tensor:
    """The inverse view. grad: (..., p * R, ...) -> (M, p, n)."""
    rows = _rows(grad, channel)
    count, width = rows.shape
    return rows.reshape(count, p, width // p)


def _scaled_latent_gradient(full: Tensor, scales: Tensor, p: int, dtype: torch.dtype) -> Tensor:
    """The gradient of the unscaled weight, each of its p blocks times its scale."""
    typed = full.to(dtype)
    blocks: Tensor = typed.unflatten(0, (p, -1))
    factors = scales.to(dtype)
    by_block = factors.reshape(-1, *[1] * full.dim())
    scaled = blocks * by_block
    return scaled.flatten(0, 1)


class _ElementwiseConv(torch.autograd.Function):
    """A convolution with the tile, expanded; the weight gradient is the full-size one.

    x: (B, C, *S), latent: (C_out, C, *k).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, latent: Tensor, scales: Tensor, p: int, geometry: Geometry
    ) -> Tensor:
        rows, *others = latent.shape
        values = tiling.tile(latent, p)
        tile = values.reshape(rows // p, *others).to(x.dtype)
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
        geometry = ctx.geometry
        needs_x, needs_latent, needs_scales, _, _ = ctx.needs_input_grad
        if is_channels_last(y):
            grad = grad.contiguous(memory_format=torch.channels_last)
        blocks = _as_blocks(grad, p, 1)
        grad_x = grad_latent = grad_scales = None
        if needs_x:
            rows = _scaled_sum(blocks, scales)
            total = _as_y(rows, y)
            grad_x = _gradients(geometry, total, x, tile, of_input=True)
        if needs_latent:
            copies = tile.expand(p, *tile.shape)
            like = copies.flatten(0, 1)  # only its shape matters here
            full = _gradients(geometry, grad, x, like, of_input=False)
            grad_latent = _scaled_latent_gradient(full, scales, p, ctx.latent_dtype)
        if needs_scales:
            products = _rows(y, 1)
            grad_scales = _scale_gradient(blocks, products, scales)
        return grad_x, grad_latent, grad_scales, None, None


def _as_y(rows: Tensor, y: Tensor) -> Tensor:
    """The inverse of _rows(y, 1), for values of y's size."""
    if not is_channels_last(y):
        return rows.reshape(y.shape)
    batch, channels, *sizes = y.shape
    by_pixel = rows.reshape(batch, *sizes, channels)
    return by_pixel.permute(0, 3, 1, 2)


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
        columns = x.shape[1]
        values = tiling.tile(latent, p)
        tile = values.reshape(-1, columns).to(x.dtype)
        y = x @ tile.T
        ctx.save_for_backward(x, tile, scales, y)
        ctx.p = p
        ctx.latent_dtype = latent.dtype
        return _blocks(y, scales, p, -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, tile, scales, y = ctx.saved_tensors
        p = ctx.p
        needs_x, needs_latent, needs_scales, _ = ctx.needs_input_grad
        blocks = _as_blocks(grad, p, -1)
        grad_x = grad_latent = grad_scales = None
        if needs_x:
            total = _scaled_sum(blocks, scales)
            grad_x = total @ tile
        if needs_latent:
            full = grad.T @ x
            grad_latent = _scaled_latent_gradient(full, scales, p, ctx.latent_dtype)
        if needs_scales:
            grad_scales = _scale_gradient(blocks, y, scales)
        return grad_x, grad_latent, grad_scales, None


class _Reuse(nn.Module):
    """Mixed into a layer's class before its weight is parametrized.

    Without an active parametrization that reuses its tile it changes nothing.
    """

    def _reuse_inputs(self) -> tuple[Tensor, Tensor, WeightBinarizer] | None:
        """(latent, scales, parametrization), or None where the plain path must serve."""
        if not parametrize.is_parametrized(self, "weight"):
            return None
        chain: Any = self.get_submodule("parametrizations.weight")
        if len(chain) != 1:
            return None
        method = chain[0]
        if not method.reuse:
            return None
        latent = chain.original
        scales = method.scales(latent)
        return latent, scales, method

    def _plain(self, x: Tensor) -> Tensor:
        """The forward of torch's own layer."""
        layer: Any = super()
        y: Tensor = layer.forward(x)
        return y

    def _cast_for_autocast(self, x: Tensor) -> Tensor:
        device = x.device.type
        # torch raises where the meta device is asked for its autocast
        if x.is_meta or not torch.is_autocast_enabled(device):
            return x
        return x.to(torch.get_autocast_dtype(device))


class ReuseLinear(_Reuse, nn.Linear):
    """nn.Linear by tile reuse. x: (..., in_features) -> (..., out_features)."""

    def forward(self, input: Tensor) -> Tensor:  # torch's name: callers may give it by keyword
        found = self._reuse_inputs()
        if found is None:
            return self._plain(input)
        latent, scales, method = found
        if method.factored:
            first, second = method.factors()
            mixed = F.linear(input, first)
            return F.linear(mixed, second, self.bias)
        x = self._cast_for_autocast(input)
        if method.elementwise and method.copies is None:
            y = self._elementwise(x, latent, scales, method.p)
        else:
            y = self._tile_products(x, latent, scales, method)
        if self.bias is None:
            return y
        return y + self.bias.to(y.dtype)

    def _elementwise(self, x: Tensor, latent: Tensor, scales: Tensor, p: int) -> Tensor:
        *batch, columns = x.shape
        flat = x.reshape(-1, columns)
        y: Tensor = _ElementwiseLinear.apply(flat, latent, scales, p)
        return y.reshape(*batch, self.out_features)

    def _tile_products(
        self, x: Tensor, latent: Tensor, scales: Tensor, method: WeightBinarizer
    ) -> Tensor:
        copies = method.copies
        tile = method.training_tile(latent)
        if copies is None:
            tile = tile.reshape(-1, self.in_features).to(x.dtype)
            products = F.linear(x, tile)
            return _blocks(products, scales, method.p, -1)
        tile = tile.reshape(copies.tile_shape).to(x.dtype)
        y = mixed_copies.linear(x, tile, scales, copies)
        if not method.elementwise:
            return y
        return mixed_copies.with_elementwise_gradient(y, latent, x, scales, copies)


class _ReuseConv(_Reuse):
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    padding_mode: Any  # "zeros", "reflect", ...
    bias: Tensor | None
    _reversed_padding_repeated_twice: list[int]

    def forward(self, input: Tensor) -> Tensor:  # torch's name: callers may give it by keyword
        found = self._reuse_inputs()
        if found is None:
            return self._plain(input)
        latent, scales, method = found
        if method.factored:
            first, second = method.factors()
            return self._two_steps(input, first, second)
        spatial = len(self.kernel_size)
        is_unbatched = input.dim() == spatial + 1
        batch = input.unsqueeze(0) if is_unbatched else input
        x = self._cast_for_autocast(batch)
        x, padding = self._pad(x)
        geometry = Geometry(self.stride, padding, self.dilation)
        if method.elementwise and method.copies is None:
            y: Tensor = _ElementwiseConv.apply(x, latent, scales, method.p, geometry)
        else:
            y = self._tile_products(x, latent, scales, method, geometry)
        if self.bias is not None:
            bias = self.bias.to(y.dtype)
            y = y + bias.reshape(-1, *[1] * spatial)
        return y.squeeze(0) if is_unbatched else y

    def _two_steps(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """A convolution to s channels, then a 1 x 1 one.

        first: (s, C_in, *k), second: (C_out, s).
        """
        x, padding = self._pad(x)
        spatial = len(self.kernel_size)
        ones = [1] * spatial
        pointwise = second.reshape(*second.shape, *ones)
        conv = _CONV[spatial]
        mixed = conv(x, first, None, self.stride, padding, self.dilation)
        y: Tensor = conv(mixed, pointwise, self.bias)
        return y

    def _tile_products(
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
            y = mixed_copies.with_elementwise_gradient(y, latent, x, scales, copies, geometry)
        return y

    def _pad(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """(x, padding still to do): pads x where a convolution cannot ('same', reflect, ...)."""
        mode = self.padding_mode
        if mode == "zeros":
            if not isinstance(self.padding, str):
                return x, tuple(self.padding)
            mode = "constant"
        both_sides = self._reversed_padding_repeated_twice
        padded = F.pad(x, both_sides, mode=mode)
        no_padding = (0,) * len(self.kernel_size)
        return padded, no_padding


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
    groups = getattr(module, "groups", 1)
    if type(module) not in _SWAP or not method.reuse or groups != 1:
        return False
    if method.factored:
        return True
    if method.p <= 1:
        return False
    layer: Any = module
    rows = len(layer.weight)
    kind = "aligned" if method.copies is None else method.copies.kind
    if kind == "columns":
        k = method.num_scales(layer.weight)
        return rows % k == 0
    known = ("aligned", *mixed_copies.KINDS)
    return kind in known and rows % method.p == 0


def reuse_(module: nn.Module) -> None:
    """Swaps the class of a `reusable` module, in place, before its weight is parametrized."""
    module.__class__ = _SWAP[type(module)]
