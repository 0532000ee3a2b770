"""Encoder-only Transformer for time series, as in the sparse binary Transformers that preceded TBN (Gorbett, Shirazi, Ray, KDD 2023).

A window of past rows is followed by `horizon` rows of zeros, encoded as a whole, and decoded at those rows. Every sublayer's output is
normalised over TIME: a LayerNorm as long as the window, for each feature (facts: mattgorb/sparse-binary-transformers).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def positions(length: int, dim: int) -> Tensor:
    """Sines and cosines of geometrically falling frequency (Vaswani et al., arXiv 1706.03762, section 3.5): (length, dim)."""
    angle = torch.arange(length).unsqueeze(1) * torch.exp(
        torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim)
    )
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :dim]


class Attention(nn.Module):
    """Multi-head self-attention with separate projections. x: (B, T, dim) -> (B, T, dim).

    Without dropout of the attention weights: T^2 random numbers per head were half of a training step's time on a CPU.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TimeNorm(nn.Module):
    """LayerNorm over the rows of a window, each feature by itself. x: (B, T, dim)."""

    def __init__(self, window: int):
        super().__init__()
        self.norm = nn.LayerNorm(window)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Block(nn.Module):
    """Attention and MLP, each beside a shortcut and before a norm. x: (B, T, dim) -> (B, T, dim)."""

    def __init__(self, window: int, dim: int, heads: int, mlp_dim: int, dropout: float, norm: str):
        super().__init__()
        self.attn, self.drop = Attention(dim, heads), nn.Dropout(dropout)
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp_dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(mlp_dim, dim)
        )
        self.norm1, self.norm2 = (
            TimeNorm(window) if norm == "time" else nn.LayerNorm(dim) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.drop(self.attn(x)))
        return self.norm2(x + self.drop(self.mlp(x)))


class TimeSeriesTransformer(nn.Module):
    """x: (B, lookback, channels) -> (B, horizon, targets)."""

    def __init__(self, dim: int, depth: int, heads: int, mlp_dim: int, dropout: float, norm: str, relative: bool,
                 in_shape: Sequence[int], horizon: int, targets: int):  # fmt: skip
        super().__init__()
        lookback, channels = in_shape
        window = lookback + horizon
        self.horizon, self.targets, self.relative, self.scale = (
            horizon,
            targets,
            relative,
            math.sqrt(dim),
        )
        self.embed, self.drop = nn.Linear(channels, dim), nn.Dropout(dropout)
        self.register_buffer("pos", positions(window, dim), persistent=False)
        self.blocks = nn.Sequential(
            *(Block(window, dim, heads, mlp_dim, dropout, norm) for _ in range(depth))
        )
        self.head = nn.Linear(dim, targets)

    def forward(self, x: Tensor) -> Tensor:
        last = x[:, -1:]
        x = F.pad(x - last if self.relative else x, (0, 0, 0, self.horizon))
        x = self.blocks(self.drop(self.embed(x) * self.scale + self.pos))
        y = self.head(x[:, -self.horizon :])
        return y + last[..., -self.targets :] if self.relative else y


def ts_transformer(
    dim: int = 64,
    depth: int = 2,
    heads: int = 2,
    mlp_dim: int = 256,
    dropout: float = 0.1,
    norm: str = "time",
    relative: bool = False,
    in_shape: Sequence[int] = (199, 7),
    horizon: int = 1,
    targets: int = 7,
) -> nn.Module:
    """x: (B, *in_shape) -> (B, horizon, targets), in_shape = (lookback, channels). norm: over "time" (as the source) or "feature".

    relative: what is forecast is the change since the window's last row, which the network sees each row without (Zeng et al., arXiv
    2205.13504, call it NLinear): the level of a series wanders between training and test rows. The source does not.

    Raises ValueError for data that are not windows of rows, an unknown norm, or heads that do not divide dim.
    """
    if len(in_shape) != 2:
        raise ValueError(
            f"ts_transformer takes windows of shape (lookback, channels), got {tuple(in_shape)}; use a data set of series"
        )
    if norm not in ("time", "feature"):
        raise ValueError(f"norm must be 'time' or 'feature', got {norm!r}")
    if dim % heads:
        raise ValueError(f"heads must divide dim, got heads={heads} for dim={dim}")
    return TimeSeriesTransformer(
        dim, depth, heads, mlp_dim, dropout, norm, relative, in_shape, horizon, targets
    )
