"""ResNets for small images (He et al., arXiv 1512.03385).

Depths 8, 14, 20, ... 110 (6n + 2): three stages of `width`, 2 width, 4 width (width 16), parameter-free shortcuts (section 4.2, option A).
Depths 18, 34, 50: the ImageNet stages with a 3x3 stem (width 64), 1x1-convolution shortcuts; 50 uses bottlenecks.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

_STAGES = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3]}


class PadShortcut(nn.Module):
    """x: (B, C_in, H, W) -> (B, C_out, H/stride, W/stride): subsampled, new channels zero."""

    def __init__(self, stride: int, extra: int):
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


def _shortcut(c_in: int, c_out: int, stride: int, kind: str) -> nn.Module:
    if c_in == c_out and stride == 1:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(stride, c_out - c_in)
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions. x: (B, c_in, H, W) -> (B, width, H/stride, W/stride)."""

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(c_in, width, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions. x: (B, c_in, H, W) -> (B, 4 width, H/stride, W/stride)."""

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = _shortcut(c_in, 4 * width, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class ResNet(nn.Module):
    """x: (B, C, H, W) -> (B, num_classes)."""

    def __init__(
        self, block: type, stages: Sequence[int], width: int, shortcut: str, classifier: str, num_classes: int, c_in: int
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks, channels = [], width
        for stage, count in enumerate(stages):
            for index in range(count):
                stride = 2 if stage and not index else 1
                blocks.append(block(channels, width * 2**stage, stride, shortcut))
                channels = width * 2**stage * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = classifier == "conv1x1"
        self.fc = nn.Conv2d(channels, num_classes, 1, bias=False) if self.conv_head else nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn1(self.conv1(x)))).mean((2, 3), keepdim=True)
        return self.fc(x).flatten(1) if self.conv_head else self.fc(x.flatten(1))


def resnet_cifar(
    depth: int = 20,
    width: int | None = None,
    classifier: str = "linear",
    num_classes: int = 10,
    in_shape: Sequence[int] = (3, 32, 32),
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes). classifier: "linear" or "conv1x1" (as the TBN authors, no bias).

    Raises ValueError for a depth that is neither 18, 34, 50 nor 6n + 2, or an unknown classifier.
    """
    if classifier not in ("linear", "conv1x1"):
        raise ValueError(f"classifier must be 'linear' or 'conv1x1', got {classifier!r}")
    if depth in _STAGES:
        block = Bottleneck if depth == 50 else BasicBlock
        return ResNet(block, _STAGES[depth], width or 64, "conv", classifier, num_classes, in_shape[0])
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 18, 34, 50 or 6n + 2 (8, 14, 20, 32, 44, 56, 110), got {depth}")
    return ResNet(BasicBlock, [(depth - 2) // 6] * 3, width or 16, "pad", classifier, num_classes, in_shape[0])
