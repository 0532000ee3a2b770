"""MLP-Mixer (Tolstikhin et al., arXiv 2105.01601) in the small CIFAR form of the TBN experiments.

Defaults: patch 4, dim 512, depth 6, token MLP 64-256-64 (convolutions of kernel 1 over the
patches), channel MLP 512-256-512: 1,799,168 weights on 3 x 32 x 32.
"""

from collections.abc import Sequence

from torch import Tensor, nn


class MixerBlock(nn.Module):
    """An MLP over patches and one over channels, each after a LayerNorm, with a shortcut around it.

    x: (B, T, dim) -> (B, T, dim).
    """

    def __init__(self, patches: int, dim: int, token_dim: int, channel_dim: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.tokens = nn.Sequential(
            nn.Conv1d(patches, token_dim, 1),
            nn.GELU(),
            nn.Conv1d(token_dim, patches, 1),
        )
        self.channels = nn.Sequential(
            nn.Linear(dim, channel_dim),
            nn.GELU(),
            nn.Linear(channel_dim, dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        across_patches = self.tokens(self.norm1(x))
        x = x + across_patches
        across_channels = self.channels(self.norm2(x))
        return x + across_channels


class Mixer(nn.Module):
    """x: (B, C, H, W) -> (B, num_classes)."""

    def __init__(
        self,
        patch: int,
        dim: int,
        depth: int,
        token_dim: int,
        channel_dim: int,
        num_classes: int,
        in_shape: Sequence[int],
    ):
        super().__init__()
        channels, height, width = in_shape
        patches = height * width // patch**2
        self.patch = patch
        self.patch_embed = nn.Linear(channels * patch * patch, dim)
        blocks = [MixerBlock(patches, dim, token_dim, channel_dim) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        columns = x.unfold(2, self.patch, self.patch)
        patches = columns.unfold(3, self.patch, self.patch)  # (B, C, h, w, patch, patch)
        patches = patches.permute(0, 2, 3, 4, 5, 1).flatten(3)

        x = self.patch_embed(patches.flatten(1, 2))
        x = self.blocks(x)
        x = self.norm(x)
        x = x.mean(1)
        return self.head(x)


def mlp_mixer(
    patch: int = 4,
    dim: int = 512,
    depth: int = 6,
    token_dim: int = 256,
    channel_dim: int = 256,
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
    return Mixer(patch, dim, depth, token_dim, channel_dim, num_classes, in_shape)
