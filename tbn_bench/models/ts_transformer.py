"""Encoder-only Transformer for time series.

The sparse binary Transformers that preceded TBN have this form (Gorbett, Shirazi, Ray, KDD 2023).

A window is its past rows and then `horizon` rows of zeros. The network encodes the whole window and
decodes the rows that were zeros. Every sublayer's output is normalised over TIME: a LayerNorm as
long as the window, for each feature (facts: mattgorb/sparse-binary-transformers).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def positions(length: int, dim: int) -> Tensor:
    """Sines and cosines of geometrically falling frequency: (length, dim).

    Vaswani et al., arXiv 1706.03762, section 3.5.
    """
    step = -math.log(10_000.0) / dim
    even = torch.arange(0, dim, 2)
    frequency = torch.exp(even * step)

    place = torch.arange(length)
    angle = place.unsqueeze(1) * frequency
    pairs = torch.stack([angle.sin(), angle.cos()], -1)
    interleaved = pairs.flatten(1)
    return interleaved[:, :dim]


class Attention(nn.Module):
    """Multi-head self-attention with separate projections. x: (B, T, dim) -> (B, T, dim).

    The attention weights have no dropout: its T^2 random numbers per head took half of a training
    step's time on a CPU.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def _heads(self, x: Tensor) -> Tensor:
        """x: (B, T, dim) -> (B, heads, T, dim / heads)."""
        shape = (self.heads, -1)
        split = x.unflatten(-1, shape)
        return split.transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q = self._heads(self.q(x))
        k = self._heads(self.k(x))
        v = self._heads(self.v(x))
        out = F.scaled_dot_product_attention(q, k, v)
        out = out.transpose(1, 2).flatten(2)
        return self.proj(out)


class TimeNorm(nn.Module):
    """LayerNorm over the rows of a window, each feature by itself. x: (B, T, dim)."""

    def __init__(self, window: int):
        super().__init__()
        self.norm = nn.LayerNorm(window)

    def forward(self, x: Tensor) -> Tensor:
        columns = x.transpose(1, 2)
        normalised = self.norm(columns)
        return normalised.transpose(1, 2)


class Block(nn.Module):
    """Attention and MLP, each with a shortcut around it and a norm after it.

    x: (B, T, dim) -> (B, T, dim).
    """

    def __init__(
        self,
        window: int,
        dim: int,
        heads: int,
        mlp_dim: int,
        dropout: float,
        norm: str,
    ):
        super().__init__()
        self.attn = Attention(dim, heads)
        self.drop = nn.Dropout(dropout)
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(mlp_dim, dim),
        )
        if norm == "time":
            self.norm1 = TimeNorm(window)
            self.norm2 = TimeNorm(window)
        else:
            self.norm1 = nn.LayerNorm(dim)
            self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attn(x)
        attended = self.drop(attended)
        x = self.norm1(x + attended)

        mixed = self.mlp(x)
        mixed = self.drop(mixed)
        return self.norm2(x + mixed)


class TimeSeriesTransformer(nn.Module):
    """x: (B, lookback, channels) -> (B, horizon, targets)."""

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        mlp_dim: int,
        dropout: float,
        norm: str,
        relative: bool,
        in_shape: Sequence[int],
        horizon: int,
        targets: int,
    ):
        super().__init__()
        lookback, channels = in_shape
        window = lookback + horizon
        self.horizon = horizon
        self.targets = targets
        self.relative = relative
        self.scale = math.sqrt(dim)

        self.embed = nn.Linear(channels, dim)
        self.drop = nn.Dropout(dropout)
        self.register_buffer("pos", positions(window, dim), persistent=False)
        blocks = [Block(window, dim, heads, mlp_dim, dropout, norm) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(dim, targets)

    def forward(self, x: Tensor) -> Tensor:
        last = x[:, -1:]
        if self.relative:
            x = x - last
        x = F.pad(x, (0, 0, 0, self.horizon))

        x = self.embed(x) * self.scale
        x = self.drop(x + self.pos)
        x = self.blocks(x)

        y = self.head(x[:, -self.horizon :])
        if self.relative:
            y = y + last[..., -self.targets :]
        return y


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
    """x: (B, *in_shape) -> (B, horizon, targets), in_shape = (lookback, channels).

    norm: over "time", as the source has it, or over "feature".
    relative: the network forecasts the change since the window's last row, and that row is
    subtracted from the rows it sees, because the level of a series wanders between training and
    test rows. Zeng et al., arXiv 2205.13504, call it NLinear. The source does not do this.

    Raises ValueError for data that are not windows of rows, an unknown norm, or heads that do not
    divide dim.
    """
    if len(in_shape) != 2:
        raise ValueError(
            "ts_transformer takes windows of shape (lookback, channels), "
            f"got {tuple(in_shape)}; use a data set of series"
        )
    if norm not in ("time", "feature"):
        raise ValueError(f"norm must be 'time' or 'feature', got {norm!r}")
    if dim % heads:
        raise ValueError(f"heads must divide dim, got heads={heads} for dim={dim}")
    return TimeSeriesTransformer(
        dim, depth, heads, mlp_dim, dropout, norm, relative, in_shape, horizon, targets
    )
