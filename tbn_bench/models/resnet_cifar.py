"""ResNets for small images (He et al., arXiv 1512.03385).

Depths 8, 14, 20, ... 110 (6n + 2): three stages of `width`, 2 width, 4 width (width 16), parameter-free shortcuts (section 4.2, option A).
Depths 18, 34, 50: the ImageNet stages with a 3x3 stem (width 64), 1x1-convolution shortcuts; 50 uses bottlenecks.

For networks whose activations are to be binarized, the forms that their papers use: shortcuts="conv" puts one around every 3x3
convolution (Bi-Real Net, arXiv 1808.00278), and activation= takes the place of ReLU, behind which every sign is +1.
"""

from collections.abc import Callable, Sequence

import torch
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


class RPReLU(nn.Module):
    """PReLU(x - m) + n with slope, m and n per channel, x: (B, C, H, W) (ReActNet, arXiv 2003.03488, section 4.2)."""

    def __init__(self, channels: int):
        super().__init__()
        self.before, self.after = (nn.Parameter(torch.zeros(channels, 1, 1)) for _ in range(2))
        self.slope = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.slope(x - self.before) + self.after


class Maxout(nn.Module):
    """p relu(x) - q relu(-x), p (1 at first) and q (0.25) per channel, x: (B, C, H, W) (AdaBin, arXiv 2208.08084, section 3.3)."""

    def __init__(self, channels: int):
        super().__init__()
        self.p, self.q = nn.Parameter(torch.ones(channels, 1, 1)), nn.Parameter(torch.full((channels, 1, 1), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return self.p * F.relu(x) - self.q * F.relu(-x)


ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "relu": lambda channels: nn.ReLU(), "hardtanh": lambda channels: nn.Hardtanh(), "prelu": nn.PReLU, "rprelu": RPReLU, "maxout": Maxout,
}  # fmt: skip


def _shortcut(c_in: int, c_out: int, stride: int, kind: str) -> nn.Module:
    if c_in == c_out and stride == 1:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(stride, c_out - c_in)
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions. x: (B, c_in, H, W) -> (B, width, H/stride, W/stride). around_each: a shortcut around either of them."""

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int, shortcut: str, activation: str = "relu", around_each: bool = False):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(c_in, width, stride, shortcut)
        self.act1, self.act2, self.around_each = ACTIVATIONS[activation](width), ACTIVATIONS[activation](width), around_each

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x))
        if self.around_each:
            out = self.act1(out + self.shortcut(x))
            return self.act2(self.bn2(self.conv2(out)) + out)
        return self.act2(self.bn2(self.conv2(self.act1(out))) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions. x: (B, c_in, H, W) -> (B, 4 width, H/stride, W/stride)."""

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int, shortcut: str, activation: str = "relu", around_each: bool = False):
        super().__init__()
        if activation != "relu" or around_each:
            raise ValueError("a bottleneck takes activation='relu' and shortcuts='block' alone; use depth 18, 34 or 6n + 2")
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

    def __init__(self, block: type, stages: Sequence[int], width: int, shortcut: str, classifier: str, activation: str,
                 around_each: bool, num_classes: int, c_in: int):  # fmt: skip
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 3, 1, 1, bias=False)
        self.bn1, self.act1 = nn.BatchNorm2d(width), ACTIVATIONS[activation](width)
        blocks, channels = [], width
        for stage, count in enumerate(stages):
            for index in range(count):
                stride = 2 if stage and not index else 1
                blocks.append(block(channels, width * 2**stage, stride, shortcut, activation, around_each))
                channels = width * 2**stage * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = classifier == "conv1x1"
        self.fc = nn.Conv2d(channels, num_classes, 1, bias=False) if self.conv_head else nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act1(self.bn1(self.conv1(x)))).mean((2, 3), keepdim=True)
        return self.fc(x).flatten(1) if self.conv_head else self.fc(x.flatten(1))


def resnet_cifar(
    depth: int = 20,
    width: int | None = None,
    classifier: str = "linear",
    activation: str = "relu",
    shortcuts: str = "block",
    num_classes: int = 10,
    in_shape: Sequence[int] = (3, 32, 32),
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes). classifier: "linear" or "conv1x1" (as the TBN authors, no bias).

    activation: "relu", "hardtanh", "prelu", "rprelu" or "maxout"; shortcuts: around every "block" of two convolutions or every "conv".
    Raises ValueError for a depth that is neither 18, 34, 50 nor 6n + 2, or an unknown option.
    """
    for name, value, known in (("activation", activation, ACTIVATIONS), ("shortcuts", shortcuts, ("block", "conv"))):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    form = (classifier, activation, shortcuts == "conv", num_classes, in_shape[0])
    if classifier not in ("linear", "conv1x1"):
        raise ValueError(f"classifier must be 'linear' or 'conv1x1', got {classifier!r}")
    if depth in _STAGES:
        block = Bottleneck if depth == 50 else BasicBlock
        return ResNet(block, _STAGES[depth], width or 64, "conv", *form)
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 18, 34, 50 or 6n + 2 (8, 14, 20, 32, 44, 56, 110), got {depth}")
    return ResNet(BasicBlock, [(depth - 2) // 6] * 3, width or 16, "pad", *form)
