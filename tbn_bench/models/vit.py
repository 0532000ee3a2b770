"""Vision Transformer (Dosovitskiy et al., arXiv 2010.11929).

It has the small CIFAR form of the TBN experiments.

Defaults: patch 4, dim 512, depth 6, 8 heads of 64, MLP 512, dropout 0.1, class token and
pre-normalisation: 9,466,880 weights.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention. x: (B, T, dim) -> (B, T, dim)."""

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        inner = heads * head_dim
        self.qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.proj = nn.Linear(inner, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, head_dim)

        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        out = out.transpose(1, 2).flatten(2)
        out = self.proj(out)
        return self.drop(out)


class Block(nn.Module):
    """Attention and MLP, each after a LayerNorm and with its own shortcut.

    x: (B, T, dim) -> (B, T, dim).
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        mlp_dim: int,
        dropout: float,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, head_dim, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(mlp_dim, dim),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attn(self.norm1(x))
        x = x + attended
        mixed = self.mlp(self.norm2(x))
        return x + mixed


class VisionTransformer(nn.Module):
    """x: (B, C, H, W) -> (B, num_classes)."""

    def __init__(
        self,
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        head_dim: int,
        mlp_dim: int,
        dropout: float,
        num_classes: int,
        in_shape: Sequence[int],
    ):
        super().__init__()
        channels, height, width = in_shape
        patches = height * width // patch**2

        self.patch = patch
        self.patch_embed = nn.Linear(channels * patch * patch, dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, patches + 1, dim))
        self.drop = nn.Dropout(dropout)

        blocks = [Block(dim, heads, head_dim, mlp_dim, dropout) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        columns = x.unfold(2, self.patch, self.patch)
        patches = columns.unfold(3, self.patch, self.patch)  # (B, C, h, w, patch, patch)
        patches = patches.permute(0, 2, 3, 4, 5, 1).flatten(3)
        x = self.patch_embed(patches.flatten(1, 2))

        token = self.cls_token.expand(x.shape[0], -1, -1)
        x = torch.cat([token, x], 1)
        x = x + self.pos_embed
        x = self.drop(x)
        x = self.blocks(x)
        x = self.norm(x[:, 0])
        return self.head(x)


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
    """x: (B, *in_shape) -> (B, num_classes).

    Raises ValueError where patch does not divide the image.
    """
    if in_shape[1] % patch or in_shape[2] % patch:
        raise ValueError(
            f"patch must divide the image, got patch={patch} for {in_shape[1]} x {in_shape[2]}"
        )
    return VisionTransformer(
        patch, dim, depth, heads, head_dim, mlp_dim, dropout, num_classes, in_shape
    )
