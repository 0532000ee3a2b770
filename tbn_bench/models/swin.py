"""Swin Transformer (Liu et al., arXiv 2103.14030) in the small CIFAR form of the TBN experiments.

Defaults: hidden 96, layers 2-2-6-2, heads 3-6-12-24 of 32, window 4, downscale 2-2-2-1 and MLP
ratio 4: 26,550,912 weights on 3 x 32 x 32. The ImageNet form is
swin(window=7, downscale=[4, 2, 2, 2], num_classes=1000) on 3 x 224 x 224.

Two details follow the TBN authors' code. A stage merges its patches by a single linear layer,
without the LayerNorm of the Swin paper, and qkv has no bias. Maps have the layout (B, H, W, C).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchMerging(nn.Module):
    """Every d x d patch becomes one position. x: (B, H, W, c_in) -> (B, H/d, W/d, c_out)."""

    def __init__(self, d: int, c_in: int, c_out: int):
        super().__init__()
        self.d = d
        self.linear = nn.Linear(d * d * c_in, c_out)

    def forward(self, x: Tensor) -> Tensor:
        columns = x.unflatten(2, (-1, self.d))
        patches = columns.unflatten(1, (-1, self.d))  # (B, h, d, w, d, c_in)
        flat = patches.transpose(2, 3).flatten(3)
        return self.linear(flat)


def _offsets(window: Sequence[int]) -> Tensor:
    """The place of each pair's bias in a table of (2 h - 1)(2 w - 1): (T, T), T = h w positions."""
    height, width = window
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y = rows.flatten()
    x = columns.flatten()
    down = y[:, None] - y + height - 1
    right = x[:, None] - x + width - 1
    return down * (2 * width - 1) + right


def _windows(x: Tensor, size: Sequence[int], window: Sequence[int]) -> Tensor:
    """x: (B, H, W, C) -> (B, windows, T, C)."""
    height, width = size
    h, w = window
    rows = height // h
    columns = width // w
    split = x.reshape(-1, rows, h, columns, w, x.shape[-1])
    windows = split.transpose(2, 3)
    return windows.flatten(3, 4).flatten(1, 2)


def _joined(x: Tensor, size: Sequence[int], window: Sequence[int]) -> Tensor:
    """The inverse of _windows. x: (B, windows, T, C) -> (B, H, W, C)."""
    height, width = size
    h, w = window
    rows = height // h
    columns = width // w
    split = x.reshape(-1, rows, columns, h, w, x.shape[-1])
    maps = split.transpose(2, 3)
    return maps.flatten(3, 4).flatten(1, 2)


def _allowed(size: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> Tensor:
    """Which pairs of a window's positions may attend to each other: (windows, 1, T, T).

    0 where the two are neighbours in the image too, -inf where the shift wrapped one of them.
    """
    height, width = size
    dy, dx = shift
    below = torch.arange(height) >= height - dy
    right = torch.arange(width) >= width - dx
    region = 2 * below[:, None] + 1 * right

    ids = _windows(region[None, :, :, None], size, window)[0, :, :, 0]
    windows, positions = ids.shape
    apart = ids[:, :, None] != ids[:, None]
    mask = torch.zeros(windows, 1, positions, positions)
    return mask.masked_fill(apart[:, None], -torch.inf)


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias per head and relative position.

    x: (B, H, W, dim) -> (B, H, W, dim).
    Along an axis no longer than the window there is one window, and nothing to shift.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        size: Sequence[int],
        window: int,
        shifted: bool,
    ):
        super().__init__()
        self.heads = heads
        self.size = tuple(size)
        self.window = tuple(min(window, side) for side in size)
        shift = [0, 0]
        for axis, side in enumerate(size):
            if shifted and side > self.window[axis]:
                shift[axis] = self.window[axis] // 2
        self.shift = tuple(shift)

        inner = heads * head_dim
        self.qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.proj = nn.Linear(inner, dim)
        h, w = self.window
        self.table = nn.Parameter(torch.zeros(heads, (2 * h - 1) * (2 * w - 1)))
        self.register_buffer("offsets", _offsets(self.window), persistent=False)
        mask = None
        if any(self.shift):
            mask = _allowed(size, self.window, self.shift)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        dy, dx = self.shift
        if any(self.shift):
            x = torch.roll(x, (-dy, -dx), (1, 2))
        windows = _windows(x, self.size, self.window)

        qkv = self.qkv(windows)  # (B, windows, T, 3 * heads * head_dim)
        qkv = qkv.unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each (B, windows, heads, T, head_dim)

        bias = self.table[:, self.offsets]
        bias = bias[None] if self.mask is None else bias + self.mask
        out = F.scaled_dot_product_attention(q, k, v, bias)
        out = out.transpose(2, 3).flatten(3)
        out = self.proj(out)

        out = _joined(out, self.size, self.window)
        if any(self.shift):
            out = torch.roll(out, (dy, dx), (1, 2))
        return out


class Block(nn.Module):
    """Window attention and MLP, each after a LayerNorm and with its own shortcut.

    x: (B, H, W, dim) -> (B, H, W, dim).
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        size: Sequence[int],
        window: int,
        shifted: bool,
        mlp_ratio: int,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, head_dim, size, window, shifted)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp_ratio * dim),
            nn.GELU(),
            nn.Linear(mlp_ratio * dim, dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attn(self.norm1(x))
        x = x + attended
        mixed = self.mlp(self.norm2(x))
        return x + mixed


class SwinTransformer(nn.Module):
    """x: (B, C, H, W) -> (B, num_classes). Stage i has hidden * 2^i channels.

    Weights begin as trunc_normal(0.02), biases as 0.
    """

    def __init__(
        self,
        hidden: int,
        layers: Sequence[int],
        heads: Sequence[int],
        head_dim: int,
        window: int,
        sizes: Sequence[tuple[int, int]],
        downscale: Sequence[int],
        mlp_ratio: int,
        num_classes: int,
        c_in: int,
    ):
        super().__init__()
        stages: list[nn.Module] = []
        for i, (count, size) in enumerate(zip(layers, sizes, strict=True)):
            dim = hidden * 2**i
            inputs = c_in if i == 0 else dim // 2
            stages.append(PatchMerging(downscale[i], inputs, dim))
            for j in range(count):
                block = Block(
                    dim,
                    heads[i],
                    head_dim,
                    size,
                    window,
                    shifted=j % 2 == 1,
                    mlp_ratio=mlp_ratio,
                )
                stages.append(block)
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)
        for module in self.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() > 1:
                    nn.init.trunc_normal_(parameter, std=0.02)
                elif name == "bias":
                    nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = self.stages(x)
        x = x.mean((1, 2))
        x = self.norm(x)
        return self.head(x)


def _sizes(
    in_shape: Sequence[int],
    downscale: Sequence[int],
    window: int,
) -> list[tuple[int, int]]:
    """The map of each stage. Raises ValueError where a patch or a window does not divide it."""
    height = in_shape[1]
    width = in_shape[2]
    sizes = []
    for stage, d in enumerate(downscale, 1):
        if height % d or width % d:
            raise ValueError(
                f"downscale must divide the map of stage {stage}, got {d} for {height} x {width}"
            )
        height = height // d
        width = width // d
        if height % min(window, height) or width % min(window, width):
            raise ValueError(
                f"window must divide the map of stage {stage} or cover it, "
                f"got {window} for {height} x {width}"
            )
        sizes.append((height, width))
    return sizes


def swin(
    hidden: int = 96,
    layers: Sequence[int] = (2, 2, 6, 2),
    heads: Sequence[int] = (3, 6, 12, 24),
    head_dim: int = 32,
    window: int = 4,
    downscale: Sequence[int] = (2, 2, 2, 1),
    mlp_ratio: int = 4,
    num_classes: int = 10,
    in_shape: Sequence[int] = (3, 32, 32),
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes), one stage per entry of layers, heads and downscale.

    Raises ValueError where their lengths differ, or patches or windows do not divide the image.
    """
    if not len(layers) == len(heads) == len(downscale) > 0:
        raise ValueError(
            "layers, heads and downscale need one value per stage, "
            f"got {len(layers)}, {len(heads)}, {len(downscale)}"
        )
    sizes = _sizes(in_shape, downscale, window)
    return SwinTransformer(
        hidden,
        layers,
        heads,
        head_dim,
        window,
        sizes,
        downscale,
        mlp_ratio,
        num_classes,
        in_shape[0],
    )
