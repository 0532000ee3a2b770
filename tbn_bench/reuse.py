"""Tile reuse: layers whose weight is p scaled copies of one tile compute each distinct dot product once.

Where p divides the output rows, row block i of the weight is alpha_i * T with T: (C_out / p, ...). Then

    y = expand(T x):  y_block_i = alpha_i * (T x)          forward         1/p of the multiply-adds
    dL/dx = T^T (sum_i alpha_i * dL/dy_block_i)            input gradient  1/p
    "tile":         dL/dT = (sum_i alpha_i dL/dy_block_i) x^T       weight gradient 1/p
    "elementwise":  dL/dB_i = alpha_i dL/dy_block_i x^T             weight gradient at full cost (the authors' rule)

The numbers are those of the plain parametrized path (layer.weight), up to the order of floating-point sums.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tbn_bench import tiling


def _blocks(y: Tensor, scales: Tensor, p: int, dim: int) -> Tensor:
    """y: (..., R at `dim`, ...) -> (..., p * R, ...), block i scaled by scales[i]. scales: (1,) or (p,)."""
    y, scales = y.unsqueeze(dim - 1), scales.reshape(-1, *[1] * -dim)
    copies = y * scales if scales.shape[0] == p else (y * scales).expand(*y.shape[: dim - 1], p, *y.shape[dim:])
    return copies.flatten(dim - 1, dim)


class _ElementwiseReuse(torch.autograd.Function):
    """conv with the tile, expanded; the weight gradient is the full-size one. x: (B, C, *S), latent: (C_out, C, *k)."""

    @staticmethod
    def forward(ctx, x, latent, scales, p, stride, padding, dilation):
        rows = latent.shape[0] // p
        tile = tiling.tile(latent, p).reshape(rows, *latent.shape[1:]).to(x.dtype)
        y = torch.convolution(x, tile, None, stride, padding, dilation, False, [0] * len(stride), 1)
        ctx.save_for_backward(x, tile, scales, y)
        ctx.p, ctx.args, ctx.latent_dtype = p, (stride, padding, dilation), latent.dtype
        return _blocks(y, scales.to(y.dtype), p, -1 - len(stride))

    @staticmethod
    def backward(ctx, grad):
        x, tile, scales, y = ctx.saved_tensors
        p, args = ctx.p, (*ctx.args, False, [0] * len(ctx.args[0]), 1)
        blocks = grad.unflatten(1, (p, -1))  # (B, p, R, *S)
        scaled = blocks * scales.to(grad.dtype).reshape(1, -1, *[1] * (blocks.dim() - 2))
        grad_x = grad_latent = grad_scales = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.ops.aten.convolution_backward(scaled.sum(1), x, tile, None, *args, [True, False, False])[0]
        if ctx.needs_input_grad[1]:
            like = tile.expand(p, *tile.shape).flatten(0, 1)  # only its shape matters here
            grad_latent = torch.ops.aten.convolution_backward(scaled.flatten(1, 2), x, like, None, *args, [False, True, False])[
                1
            ].to(ctx.latent_dtype)
        if ctx.needs_input_grad[2]:
            per_tile = (blocks * y.unsqueeze(1)).sum([0, *range(2, blocks.dim())])
            grad_scales = (per_tile if scales.shape[0] == p else per_tile.sum(0, keepdim=True)).to(scales.dtype)
        return grad_x, grad_latent, grad_scales, None, None, None, None


class _Reuse:
    """Mixed into a layer class before parametrization; without an active TBN parametrization it changes nothing."""

    def _tbn(self):
        """(latent, scales, parametrization), or None where the plain path must serve."""
        if not parametrize.is_parametrized(self, "weight"):
            return None
        chain = self.parametrizations.weight
        if len(chain) != 1:
            return None
        return chain.original, chain[0].scales(chain.original), chain[0]

    def _autocast(self, x: Tensor) -> Tensor:
        device = x.device.type
        return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


class ReuseLinear(_Reuse, nn.Linear):
    """nn.Linear by tile reuse. x: (..., in_features) -> (..., out_features)."""

    def forward(self, x: Tensor) -> Tensor:
        found = self._tbn()
        if found is None:
            return super().forward(x)
        latent, scales, method = found
        x, p = self._autocast(x), method.p
        if method.gradient == "tile":
            tile = tiling.tile_ste(latent, p).reshape(-1, self.in_features).to(x.dtype)
            y = _blocks(F.linear(x, tile), scales.to(x.dtype), p, -1)
        else:
            flat = x.reshape(-1, self.in_features)
            y = _LinearElementwise.apply(flat, latent, scales, p).reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _LinearElementwise(torch.autograd.Function):
    """The matrix form of _ElementwiseReuse. x: (M, K), latent: (C_out, K), scales: (1,) or (p,) -> (M, C_out)."""

    @staticmethod
    def forward(ctx, x, latent, scales, p):
        tile = tiling.tile(latent, p).reshape(-1, x.shape[1]).to(x.dtype)
        y = x @ tile.T
        ctx.save_for_backward(x, tile, scales, y)
        ctx.p, ctx.latent_dtype = p, latent.dtype
        return _blocks(y, scales.to(y.dtype), p, -1)

    @staticmethod
    def backward(ctx, grad):
        x, tile, scales, y = ctx.saved_tensors
        blocks = grad.unflatten(1, (ctx.p, -1))  # (M, p, R)
        scaled = blocks * scales.to(grad.dtype)[:, None]
        grad_x = scaled.sum(1) @ tile if ctx.needs_input_grad[0] else None
        grad_latent = (scaled.flatten(1).T @ x).to(ctx.latent_dtype) if ctx.needs_input_grad[1] else None
        grad_scales = None
        if ctx.needs_input_grad[2]:
            per_tile = (blocks * y.unsqueeze(1)).sum((0, 2))
            grad_scales = (per_tile if scales.shape[0] == ctx.p else per_tile.sum(0, keepdim=True)).to(scales.dtype)
        return grad_x, grad_latent, grad_scales, None


class _ReuseConv(_Reuse):
    def forward(self, x: Tensor) -> Tensor:
        found = self._tbn()
        if found is None:
            return super().forward(x)
        latent, scales, method = found
        spatial = len(self.kernel_size)
        unbatched = x.dim() == spatial + 1
        x, p = self._autocast(x.unsqueeze(0) if unbatched else x), method.p
        x, padding = self._pad(x)
        if method.gradient == "tile":
            tile = tiling.tile_ste(latent, p).reshape(-1, *latent.shape[1:]).to(x.dtype)
            conv = (F.conv1d, F.conv2d)[spatial - 1]
            y = _blocks(conv(x, tile, None, self.stride, padding, self.dilation), scales.to(x.dtype), p, -1 - spatial)
        else:
            y = _ElementwiseReuse.apply(x, latent, scales, p, self.stride, padding, self.dilation)
        if self.bias is not None:
            y = y + self.bias.to(y.dtype).reshape(-1, *[1] * spatial)
        return y.squeeze(0) if unbatched else y

    def _pad(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Padding that convolution cannot do itself ('same', reflect, ...) is done here, in front of it."""
        if self.padding_mode == "zeros" and not isinstance(self.padding, str):
            return x, tuple(self.padding)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x, self._reversed_padding_repeated_twice, mode=mode), (0,) * len(self.kernel_size)


class ReuseConv1d(_ReuseConv, nn.Conv1d):
    """nn.Conv1d by tile reuse. x: (B, C, L) or (C, L)."""


class ReuseConv2d(_ReuseConv, nn.Conv2d):
    """nn.Conv2d by tile reuse. x: (B, C, H, W) or (C, H, W)."""


_SWAP = {nn.Linear: ReuseLinear, nn.Conv1d: ReuseConv1d, nn.Conv2d: ReuseConv2d}


def reusable(module: nn.Module, p: int) -> bool:
    """True where the layer can compute 1/p of the products: a plain Linear / Conv, one group, p > 1 dividing its rows."""
    if type(module) not in _SWAP or p <= 1 or getattr(module, "groups", 1) != 1:
        return False
    return module.weight.shape[0] % p == 0


def reuse_(module: nn.Module) -> None:
    """Swaps the class of a `reusable` module, in place, before its weight is parametrized."""
    module.__class__ = _SWAP[type(module)]
