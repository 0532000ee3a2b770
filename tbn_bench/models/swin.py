"""Swin Transformer (Liu et al., arXiv 2103.14030) in the small CIFAR form of the TBN experiments.

Defaults: hidden 96, layers 2-2-6-2, heads 3-6-12-24 of 32, window 4, downscale 2-2-2-1, MLP ratio 4: 26,550,912 weights on 3 x 32 x 32.
The ImageNet form: swin(window=7, downscale=[4, 2, 2, 2], num_classes=1000) on 3 x 224 x 224. As in the TBN authors' code a stage
merges its patches by one linear layer alone, without the LayerNorm of the Swin paper, and qkv has no bias. Maps lie as (B, H, W, C).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchMerging(nn.Module):
    """Every d x d patch becomes one position. x: (B, H, W, c_in) -> (B, H/d, W/d, c_out)."""

    def __init__(self, d: int, c_in: int, c_out: int):
        super().__init__()
        self.d, self.linear = d, nn.Linear(d * d * c_in, c_out)

    def forward(self, x: Tensor) -> Tensor:
        patches = x.unflatten(2, (-1, self.d)).unflatten(1, (-1, self.d))  # (B, h, d, w, d, c_in)
        return self.linear(patches.transpose(2, 3).flatten(3))


def _offsets(window: Sequence[int]) -> Tensor:
    """Where, in a table of (2 h - 1)(2 w - 1) places, the bias of each pair of a window's T = h w positions lies: (T, T)."""
    y, x = (i.flatten() for i in torch.meshgrid(*(torch.arange(n) for n in window), indexing="ij"))
    return (y[:, None] - y + window[0] - 1) * (2 * window[1] - 1) + x[:, None] - x + window[1] - 1


def _windows(x: Tensor, size: Sequence[int], window: Sequence[int]) -> Tensor:
    """x: (B, H, W, C) -> (B, windows, T, C)."""
    (height, width), (h, w) = size, window
    return (
        x.reshape(-1, height // h, h, width // w, w, x.shape[-1])
        .transpose(2, 3)
        .flatten(3, 4)
        .flatten(1, 2)
    )


def _allowed(size: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> Tensor:
    """0 where two positions of a window are neighbours in the image too, -inf where the shift wrapped one around: (windows, 1, T, T)."""
    (height, width), (dy, dx) = size, shift
    wrapped = 2 * (torch.arange(height) >= height - dy)[:, None] + 1 * (
        torch.arange(width) >= width - dx
    )
    ids = _windows(wrapped[None, :, :, None], size, window)[0, :, :, 0]
    return torch.zeros(ids.shape[0], 1, ids.shape[1], ids.shape[1]).masked_fill(
        (ids[:, :, None] != ids[:, None])[:, None], -torch.inf
    )


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias per head and relative position. x: (B, H, W, dim) -> (B, H, W, dim).

    Along an axis no longer than the window there is one window, and nothing to shift.
    """

    def __init__(
        self, dim: int, heads: int, head_dim: int, size: Sequence[int], window: int, shifted: bool
    ):
        super().__init__()
        self.heads, self.size = heads, tuple(size)
        self.window = tuple(min(window, n) for n in size)
        self.shift = tuple(
            w // 2 if shifted and n > w else 0 for n, w in zip(size, self.window, strict=True)
        )
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.proj = nn.Linear(heads * head_dim, dim)
        self.table = nn.Parameter(
            torch.zeros(heads, (2 * self.window[0] - 1) * (2 * self.window[1] - 1))
        )
        self.register_buffer("offsets", _offsets(self.window), persistent=False)
        mask = _allowed(size, self.window, self.shift) if any(self.shift) else None
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        (height, width), (h, w), (dy, dx) = self.size, self.window, self.shift
        shifted = torch.roll(x, (-dy, -dx), (1, 2)) if any(self.shift) else x
        qkv = self.qkv(
            _windows(shifted, self.size, self.window)
        )  # (B, windows, T, 3 * heads * head_dim)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(
            3, 0, 1, 4, 2, 5
        )  # each (B, windows, heads, T, head_dim)
        bias = self.table[:, self.offsets]
        out = F.scaled_dot_product_attention(
            q, k, v, bias[None] if self.mask is None else bias + self.mask
        )
        out = self.proj(out.transpose(2, 3).flatten(3))
        out = (
            out.reshape(-1, height // h, width // w, h, w, out.shape[-1])
            .transpose(2, 3)
            .flatten(3, 4)
            .flatten(1, 2)
        )
        return torch.roll(out, (dy, dx), (1, 2)) if any(self.shift) else out


class Block(nn.Module):
    """Window attention and MLP, each behind a LayerNorm and beside a shortcut. x: (B, H, W, dim) -> (B, H, W, dim)."""

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
        self.norm1, self.attn = (
            nn.LayerNorm(dim),
            WindowAttention(dim, heads, head_dim, size, window, shifted),
        )
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp_ratio * dim), nn.GELU(), nn.Linear(mlp_ratio * dim, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SwinTransformer(nn.Module):
    """x: (B, C, H, W) -> (B, num_classes). Stage i has hidden * 2^i channels; weights begin as trunc_normal(0.02), biases as 0."""

    def __init__(self, hidden: int, layers: Sequence[int], heads: Sequence[int], head_dim: int, window: int,
                 sizes: Sequence[tuple[int, int]], downscale: Sequence[int], mlp_ratio: int, num_classes: int, c_in: int):  # fmt: skip
        super().__init__()
        stages: list[nn.Module] = []
        for i, (count, size) in enumerate(zip(layers, sizes, strict=True)):
            dim = hidden * 2**i
            stages.append(PatchMerging(downscale[i], c_in if i == 0 else dim // 2, dim))
            stages += [
                Block(dim, heads[i], head_dim, size, window, j % 2 == 1, mlp_ratio)
                for j in range(count)
            ]
        self.stages = nn.Sequential(*stages)
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, num_classes)
        for module in self.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() > 1:
                    nn.init.trunc_normal_(parameter, std=0.02)
                elif name == "bias":
                    nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stages(x.permute(0, 2, 3, 1)).mean((1, 2))))


def _sizes(in_shape: Sequence[int], downscale: Sequence[int], window: int) -> list[tuple[int, int]]:
    """The map of each stage. Raises ValueError where a patch or a window does not divide it."""
    size, sizes = (in_shape[1], in_shape[2]), []
    for stage, d in enumerate(downscale, 1):
        if size[0] % d or size[1] % d:
            raise ValueError(
                f"downscale must divide the map of stage {stage}, got {d} for {size[0]} x {size[1]}"
            )
        size = (size[0] // d, size[1] // d)
        if any(n % min(window, n) for n in size):
            raise ValueError(
                f"window must divide the map of stage {stage} or cover it, got {window} for {size[0]} x {size[1]}"
            )
        sizes.append(size)
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
            f"layers, heads and downscale need one value per stage, got {len(layers)}, {len(heads)}, {len(downscale)}"
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
