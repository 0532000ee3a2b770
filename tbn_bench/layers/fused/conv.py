"""The convolution of a tile in training, in float32 on a CPU.

    y = T * x                  by lookup, because the weights are signs, or by multiply-adds
    dL/dx = T^T * dL/dy        the same
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

# ways to compute a part of a convolution
TORCH = "torch"
LOOKUP = "lookup"
SUMS = "multiply-adds"
LANES = "multiply-adds of whole vectors"  # groups share vectors of 16 channels (groups.inc)

FEWEST_CHANNELS = 16  # inputs of a position whose tables are worth building
FEWEST_OF_A_GROUP = 32
CHANNELS_OF_STRIDE_2 = 256  # larger strides leave tables of most positions unused
MOST_BACKWARDS = 64  # channels of a gradient at a larger stride that LANES sums faster than torch


@dataclass(frozen=True)
class Parts:
    """The way of each part of a convolution. level: of the native library, None without it."""

    level: str | None = None
    output: str = TORCH
    input_gradient: str = TORCH
    weight_gradient: str = TORCH

    @property
    def is_torch(self) -> bool:
        return {self.output, self.input_gradient, self.weight_gradient} == {TORCH}

    def __str__(self) -> str:
        if self.is_torch:
            return "convolution by torch"

        ways = {
            "output": self.output,
            "input gradient": self.input_gradient,
            "weight gradient": self.weight_gradient,
        }
        words = [f"{name} by {way}" for name, way in ways.items()]
        return f"{', '.join(words)}: native {self.level}"


def parts_of(x: Tensor, tile: Tensor, geometry: Geometry, groups: int) -> Parts:
    """The fastest way of each part.

    x: (B, C, H, W). tile: (groups R, C / groups, kh, kw).
    """
    if x.dtype != torch.float32 or why_not_native(x, 1):
        return Parts()

    strides, paddings, dilations = (set(numbers) for numbers in geometry)
    if len(strides) > 1 or len(paddings) > 1 or dilations != {1}:
        return Parts()

    chosen = _Choice(native.level(), x, tile, geometry, groups)
    return Parts(
        chosen.level,
        output=chosen.output(),
        input_gradient=chosen.input_gradient(),
        weight_gradient=chosen.weight_gradient(),
    )


def can_mix(tile: Tensor, groups: int, parts: Parts) -> bool:
    """Whether tile_conv can mix its output. tile: (groups R, C / groups, kh, kw)."""
    return parts.output != TORCH and training.mixes(len(tile), groups)


class _Choice:
    """Which way each part goes, by what was measured on AVX-512 (docs/kernels.md)."""

    def __init__(self, level: str, x: Tensor, tile: Tensor, geometry: Geometry, groups: int):
        self.level = level
        self.groups = groups
        self.rows = len(tile) // groups
        self.channels = tile.shape[1]
        self.is_pointwise = tile.shape[2:].numel() == 1
        self.stride = geometry.stride[0]
        reach = x.shape[3] + 2 * geometry.padding[0] - tile.shape[3]
        self.width = reach // self.stride + 1
        self.looks_up = not self.is_pointwise and training.looks_signs_up(level)

    def output(self) -> str:
        if self.is_pointwise:
            return TORCH

        is_small = self.groups > 1 and self.channels < FEWEST_OF_A_GROUP
        if is_small and training.takes_groups(self.level, self.channels, self.rows, self.groups):
            return LANES

        enough = FEWEST_CHANNELS if self.groups == 1 else FEWEST_OF_A_GROUP
        if self.stride > 1:
            enough = CHANNELS_OF_STRIDE_2 // self.groups
        return LOOKUP if self.looks_up and self.channels >= enough else TORCH

    def input_gradient(self) -> str:
        fewest = FEWEST_CHANNELS if self.groups == 1 else FEWEST_OF_A_GROUP
        if self.looks_up and self.stride == 1 and self.rows >= fewest:
            return LOOKUP

        is_worth_it = self.rows <= MOST_BACKWARDS and (self.stride > 1 or not self.is_pointwise)
        takes = training.takes_groups(self.level, self.rows, self.channels, self.groups)
        return LANES if is_worth_it and takes else TORCH

    def weight_gradient(self) -> str:
        if self.is_pointwise:
            return TORCH

        is_wide = self.width >= 16 or (self.width >= 8 and self.channels <= 32)
        takes = training.takes_group_gradient(self.level, self.channels, self.rows, self.groups)
        if is_wide and takes:
            return LANES
        return SUMS if training.takes_weight_gradient(self.channels, self.rows) else TORCH


def tile_conv(
    x: Tensor,
    tile: Tensor,
    geometry: Geometry,
    groups: int = 1,
    parts: Parts | None = None,
    mixes: bool = False,
) -> Tensor:
    """The convolution of x with a tile of +-1.

    x: (B, C, H, W), tile: (groups R, C / groups, kh, kw) -> (B, groups R, H_out, W_out).
    mixes: mixes the output of the groups by Sylvester's matrix while it is in cache. The gradient
    must then come as that of the output before.
    """
    if parts is None:
        parts = parts_of(x, tile, geometry, groups)
    if parts.is_torch:
        return torch.nn.functional.conv2d(x, tile.to(x.dtype), None, *geometry, groups)

    out: Tensor = _TileConv.apply(x, tile, geometry, groups, parts, mixes)
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


def _convolve(call: SignConvStruct, way: str, level: str, of_gradient: bool) -> None:
    """The output, or the gradient of the input."""
    run = training.group_conv if way == LANES else training.sign_conv
    run(call, level, of_gradient)


def _sum_up(call: SignConvStruct, way: str, level: str) -> None:
    """The gradient of the weight."""
    run = training.group_gradient if way == LANES else training.weight_gradient
    run(call, level)


class _TileConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        tile: Tensor,
        geometry: Geometry,
        groups: int,
        parts: Parts,
        mixes: bool,
    ) -> Tensor:
        channels_last = torch.channels_last
        signs = tile.contiguous(memory_format=channels_last)
        ctx.save_for_backward(x, signs)
        ctx.geometry = geometry
        ctx.groups = groups
        ctx.parts = parts
        if parts.output == TORCH:
            return torch.nn.functional.conv2d(x, signs, None, *geometry, groups)

        sizes = []
        for axis in (0, 1):
            reach = x.shape[2 + axis] + 2 * geometry.padding[axis] - tile.shape[2 + axis]
            sizes.append(reach // geometry.stride[axis] + 1)
        shape = (len(x), len(tile), *sizes)
        out = torch.empty(shape, dtype=x.dtype, memory_format=channels_last)
        call = _call(x, signs, (sizes[0], sizes[1]), geometry, groups)
        call.out = out.data_ptr()
        call.mixed = groups if mixes else 1
        _convolve(call, parts.output, str(parts.level), of_gradient=False)
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
        if needs_x and parts.input_gradient != TORCH:
            d_x = torch.empty_like(x)
            call.out = d_x.data_ptr()
            _convolve(call, parts.input_gradient, parts.level, of_gradient=True)
        if needs_tile and parts.weight_gradient != TORCH:
            d_tile = torch.empty_like(tile)
            call.out = d_tile.data_ptr()
            _sum_up(call, parts.weight_gradient, parts.level)
        left = [needs_x and d_x is None, needs_tile and d_tile is None, False]
        if any(left):
            found = torch.ops.aten.convolution_backward(
                gradient, x, tile, None, *ctx.geometry, False, [0, 0], ctx.groups, left
            )
            d_x = found[0] if left[0] else d_x
            d_tile = found[1] if left[1] else d_tile
        return d_x, d_tile, None, None, None, None


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
        if ctx.parts.weight_gradient != TORCH:
            gradient = gradient.contiguous(memory_format=torch.channels_last)
            full = torch.empty_like(latent, memory_format=torch.channels_last)
            height, width = gradient.shape[2:]
            call = _call(x, latent, (height, width), ctx.geometry, 1)
            call.g = gradient.data_ptr()
            call.out = full.data_ptr()
            _sum_up(call, ctx.parts.weight_gradient, ctx.parts.level)
        else:
            wanted = [False, True, False]
            found = torch.ops.aten.convolution_backward(
                gradient, x, latent, None, *ctx.geometry, False, [0, 0], 1, wanted
            )
            full = found[1].to(latent.dtype)
        blocks = full.unflatten(0, (len(scales), -1))
        blocks.mul_(scales.to(full.dtype).reshape(-1, 1, 1, 1, 1))
        return full, None, None, None, None, None
