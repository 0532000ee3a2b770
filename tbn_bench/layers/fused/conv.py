"""The convolution of a tile in training: signs by table lookup, in float32 on a CPU.

    y = T * x                  by lookup: the weights are signs
    dL/dx = T^T * dL/dy        by lookup, for stride 1; else by torch
    dL/dT = sum dL/dy x        by multiply-adds, as is the full gradient of the "elementwise" rule

Each part is used where it was measured to be faster than torch's convolution (docs/kernels.md). All
are exact in float32, up to the order of sums.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tbn_bench import native
from tbn_bench.layers.fused.norm import why_not_native
from tbn_bench.layers.mixed_copies import Geometry
from tbn_bench.native import training
from tbn_bench.native.abi import SignConvStruct

FEWEST_CHANNELS = 16  # inputs of a position whose tables are worth building
FEWEST_OF_A_GROUP = 32
CHANNELS_OF_STRIDE_2 = 256  # larger strides leave tables of most positions unused


@dataclass(frozen=True)
class Parts:
    """What the native library does of a convolution. level: None where it does nothing."""

    level: str | None = None
    forward: bool = False
    input_gradient: bool = False
    weight_gradient: bool = False

    def __str__(self) -> str:
        named = {
            "output": self.forward,
            "input gradient": self.input_gradient,
        }
        looked_up = [name for name, used in named.items() if used]
        words = [f"{' and '.join(looked_up)} by lookup"] if looked_up else []
        if self.weight_gradient:
            words.append("weight gradient")
        if not words:
            return "convolution by torch"
        return f"{', '.join(words)}: native {self.level}"


def parts_of(x: Tensor, tile: Tensor, geometry: Geometry, groups: int) -> Parts:
    """The parts that the native library does.

    x: (B, C, H, W). tile: (groups R, C / groups, kh, kw).
    """
    if x.dtype != torch.float32 or why_not_native(x, 1):
        return Parts()
    strides, paddings, dilations = (set(numbers) for numbers in geometry)
    if len(strides) > 1 or len(paddings) > 1 or dilations != {1}:
        return Parts()
    level = native.level()
    rows = len(tile) // groups
    channels = tile.shape[1]
    taps = tile.shape[2] * tile.shape[3]
    (stride,) = strides
    looks_up = taps > 1 and training.looks_signs_up(level)
    fewest = FEWEST_CHANNELS if groups == 1 else FEWEST_OF_A_GROUP
    enough = CHANNELS_OF_STRIDE_2 // groups if stride > 1 else fewest
    return Parts(
        level,
        forward=looks_up and channels >= enough,
        input_gradient=looks_up and stride == 1 and rows >= fewest,
        weight_gradient=taps > 1 and training.takes_weight_gradient(channels, rows),
    )


def tile_conv(
    x: Tensor, tile: Tensor, geometry: Geometry, groups: int = 1, parts: Parts | None = None
) -> Tensor:
    """The convolution of x with a tile of +-1.

    x: (B, C, H, W), tile: (groups R, C / groups, kh, kw) -> (B, groups R, H_out, W_out).
    """
    if parts is None:
        parts = parts_of(x, tile, geometry, groups)
    if parts == Parts(parts.level):
        return torch.nn.functional.conv2d(x, tile.to(x.dtype), None, *geometry, groups)
    out: Tensor = _TileConv.apply(x, tile, geometry, groups, parts)
    return out


def _call(
    x: Tensor, tile: Tensor, sizes: tuple[int, int], geometry: Geometry, groups: int
) -> SignConvStruct:
    """sizes: height and width of the output. tile is in channels-last memory."""
    batch, _, height, width = x.shape
    rows, channels, kh, kw = tile.shape
    return SignConvStruct(
        x=x.data_ptr(),
        tile=tile.data_ptr(),
        images=batch,
        H=height,
        W=width,
        C=channels,
        Ho=sizes[0],
        Wo=sizes[1],
        R=rows // groups,
        kh=kh,
        kw=kw,
        stride=geometry.stride[0],
        pad=geometry.padding[0],
        groups=groups,
        threads=torch.get_num_threads(),
    )


class _TileConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, tile: Tensor, geometry: Geometry, groups: int, parts: Parts
    ) -> Tensor:
        channels_last = torch.channels_last
        signs = tile.contiguous(memory_format=channels_last)
        ctx.save_for_backward(x, signs)
        ctx.geometry = geometry
        ctx.groups = groups
        ctx.parts = parts
        if not parts.forward:
            return torch.nn.functional.conv2d(x, signs, None, *geometry, groups)
        sizes = []
        for axis in (0, 1):
            reach = x.shape[2 + axis] + 2 * geometry.padding[axis] - tile.shape[2 + axis]
            sizes.append(reach // geometry.stride[axis] + 1)
        out = x.new_empty((len(x), len(tile), *sizes)).contiguous(memory_format=channels_last)
        call = _call(x, signs, (sizes[0], sizes[1]), geometry, groups)
        call.out = out.data_ptr()
        training.sign_conv(call, str(parts.level), of_gradient=False)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, tile = ctx.saved_tensors
        parts = ctx.parts
        needs_x, needs_tile, *_ = ctx.needs_input_grad
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        height, width = gradient.shape[2:]
        call = _call(x, tile, (height, width), ctx.geometry, ctx.groups)
        call.g = gradient.data_ptr()
        d_x = d_tile = None
        if needs_x and parts.input_gradient:
            d_x = torch.empty_like(x)
            call.out = d_x.data_ptr()
            training.sign_conv(call, parts.level, of_gradient=True)
        if needs_tile and parts.weight_gradient:
            d_tile = torch.empty_like(tile)
            call.out = d_tile.data_ptr()
            training.weight_gradient(call, parts.level)
        left = [needs_x and d_x is None, needs_tile and d_tile is None, False]
        if any(left):
            found = torch.ops.aten.convolution_backward(
                gradient, x, tile, None, *ctx.geometry, False, [0, 0], ctx.groups, left
            )
            d_x = found[0] if left[0] else d_x
            d_tile = found[1] if left[1] else d_tile
        return d_x, d_tile, None, None, None


def full_gradient(
    t: Tensor, x: Tensor, latent: Tensor, scales: Tensor, geometry: Geometry, parts: Parts
) -> Tensor:
    """Zeros whose gradient becomes that of the latent weight, by the authors' rule (tiling.py).

    t: (B, R, H, W), what the tile gives. latent: (C_out, C, kh, kw) -> (B, C_out, H, W).
    """
    out: Tensor = _FullGradient.apply(latent, t, x.detach(), scales.detach(), geometry, parts)
    return out


class _FullGradient(torch.autograd.Function):
    """dL/dB_i = alpha_i sum dL/dy_i x, at full cost."""

    @staticmethod
    def forward(
        ctx: Any,
        latent: Tensor,
        t: Tensor,
        x: Tensor,
        scales: Tensor,
        geometry: Geometry,
        parts: Parts,
    ) -> Tensor:
        ctx.save_for_backward(latent, x, scales)
        ctx.geometry = geometry
        ctx.parts = parts
        batch, _, *sizes = t.shape
        return t.new_zeros(()).expand(batch, len(latent), *sizes)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        latent, x, scales = ctx.saved_tensors
        if ctx.parts.weight_gradient:
            gradient = gradient.contiguous(memory_format=torch.channels_last)
            full = torch.empty_like(latent, memory_format=torch.channels_last)
            height, width = gradient.shape[2:]
            call = _call(x, latent, (height, width), ctx.geometry, 1)
            call.g = gradient.data_ptr()
            call.out = full.data_ptr()
            training.weight_gradient(call, ctx.parts.level)
        else:
            wanted = [False, True, False]
            found = torch.ops.aten.convolution_backward(
                gradient, x, latent, None, *ctx.geometry, False, [0, 0], 1, wanted
            )
            full = found[1].to(latent.dtype)
        blocks = full.unflatten(0, (len(scales), -1))
        blocks.mul_(scales.to(full.dtype).reshape(-1, 1, 1, 1, 1))
        return full, None, None, None, None, None
