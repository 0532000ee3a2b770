"""ConvMixer (Trockman, Kolter; arXiv 2201.09792) in the small CIFAR form of the TBN experiments.

Defaults: dim 256, depth 16, kernel 8, patch 1: 1,314,048 weights on three channels.
"""

from collections.abc import Sequence

from torch import Tensor, nn


def _normalised(conv: nn.Module, dim: int) -> list[nn.Module]:
    return [
        conv,
        nn.GELU(),
        nn.BatchNorm2d(dim),
    ]


class ConvMixerBlock(nn.Module):
    """A depthwise convolution with a shortcut around it, then a 1x1 convolution.

    x: (B, dim, H, W) -> (B, dim, H, W).
    """

    def __init__(self, dim: int, kernel: int):
        super().__init__()
        # padding="same", by hand: torch warns where an even kernel needs uneven padding
        uneven = [nn.ZeroPad2d((0, 1, 0, 1))] if kernel % 2 == 0 else []
        padding = (kernel - 1) // 2
        depthwise = nn.Conv2d(dim, dim, kernel, padding=padding, groups=dim)
        self.depthwise = nn.Sequential(*uneven, *_normalised(depthwise, dim))

        pointwise = nn.Conv2d(dim, dim, 1)
        self.pointwise = nn.Sequential(*_normalised(pointwise, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.depthwise(x)
        return self.pointwise(x)


def conv_mixer(
    dim: int = 256,
    depth: int = 16,
    kernel: int = 8,
    patch: int = 1,
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
    stem = _normalised(nn.Conv2d(in_shape[0], dim, patch, patch), dim)
    blocks = [ConvMixerBlock(dim, kernel) for _ in range(depth)]
    return nn.Sequential(
        *stem,
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(dim, num_classes),
    )
