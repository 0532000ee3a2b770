"""Vision Transformer (Dosovitskiy et al., arXiv 2010.11929) in the small CIFAR form of the TBN experiments.

Defaults: patch 4, dim 512, depth 6, 8 heads of 64, MLP 512, dropout 0.1, class token, pre-normalisation: 9,466,880 weights.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention. x: (B, T, dim) -> (B, T, dim)."""

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.proj = nn.Linear(heads * head_dim, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each (B, heads, T, head_dim)
        out = F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.dropout if self.training else 0.0
        )
        return self.drop(self.proj(out.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and beside a shortcut. x: (B, T, dim) -> (B, T, dim)."""

    def __init__(self, dim: int, heads: int, head_dim: int, mlp_dim: int, dropout: float):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), Attention(dim, heads, head_dim, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(mlp_dim, dim),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """x: (B, C, H, W) -> (B, num_classes)."""

    def __init__(self, patch: int, dim: int, depth: int, heads: int, head_dim: int, mlp_dim: int, dropout: float,
                 num_classes: int, in_shape: Sequence[int]):  # fmt: skip
        super().__init__()
        channels, height, width = in_shape
        self.patch = patch
        self.patch_embed = nn.Linear(channels * patch * patch, dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, height * width // patch**2 + 1, dim))
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(Block(dim, heads, head_dim, mlp_dim, dropout) for _ in range(depth))
        )
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        patches = x.unfold(2, self.patch, self.patch).unfold(
            3, self.patch, self.patch
        )  # (B, C, h, w, patch, patch)
        x = self.patch_embed(patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2))
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(self.drop(x))[:, 0]))


def vit(
    patch: int = 4,
    dim: int = 512,
    depth: int = 6,
    heads: int = 8,
    head_dim: int = 64,
    mlp_dim: int = 512,
    dropout: float = 0.1,
    num_classes: int = 10,
    in_shape: Sequence[int] = (3, 32, 32),
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes). Raises ValueError where patch does not divide the image."""
    if in_shape[1] % patch or in_shape[2] % patch:
        raise ValueError(
            f"patch must divide the image, got patch={patch} for {in_shape[1]} x {in_shape[2]}"
        )
    return VisionTransformer(
        patch, dim, depth, heads, head_dim, mlp_dim, dropout, num_classes, in_shape
    )
