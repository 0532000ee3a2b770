"""Blocks, stages and stems of the ResNets (He et al., arXiv 1512.03385) in resnet_cifar.py and resnet.py.

For networks whose activations are to be binarized, the forms that their papers use: shortcuts="conv" puts one around every 3x3
convolution (Bi-Real Net, arXiv 1808.00278), and activation= takes the place of ReLU, behind which every sign is +1.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3]}


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
        self.p, self.q = (
            nn.Parameter(torch.ones(channels, 1, 1)),
            nn.Parameter(torch.full((channels, 1, 1), 0.25)),
        )

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

    def __init__(
        self,
        c_in: int,
        width: int,
        stride: int,
        shortcut: str,
        activation: str = "relu",
        around_each: bool = False,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(c_in, width, stride, shortcut)
        self.act1, self.act2, self.around_each = (
            ACTIVATIONS[activation](width),
            ACTIVATIONS[activation](width),
            around_each,
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x))
        if self.around_each:
            out = self.act1(out + self.shortcut(x))
            return self.act2(self.bn2(self.conv2(out)) + out)
        return self.act2(self.bn2(self.conv2(self.act1(out))) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions. x: (B, c_in, H, W) -> (B, 4 width, H/stride, W/stride)."""

    expansion = 4

    def __init__(
        self,
        c_in: int,
        width: int,
        stride: int,
        shortcut: str,
        activation: str = "relu",
        around_each: bool = False,
    ):
        super().__init__()
        if activation != "relu" or around_each:
            raise ValueError(
                "a bottleneck takes activation='relu' and shortcuts='block' alone; use depth 18, 34 or 6n + 2"
            )
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
    """x: (B, C, H, W) -> (B, num_classes). stem: "cifar" (3x3) or "imagenet" (7x7 of stride 2, then a 3x3 max pool of stride 2)."""

    def __init__(self, block: type, stages: Sequence[int], width: int, shortcut: str, stem: str, classifier: str, activation: str,
                 around_each: bool, num_classes: int, c_in: int):  # fmt: skip
        super().__init__()
        small = stem == "cifar"
        self.conv1 = nn.Conv2d(
            c_in, width, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False
        )
        self.bn1, self.act1 = nn.BatchNorm2d(width), ACTIVATIONS[activation](width)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        blocks, channels = [], width
        for stage, count in enumerate(stages):
            for index in range(count):
                stride = 2 if stage and not index else 1
                blocks.append(
                    block(channels, width * 2**stage, stride, shortcut, activation, around_each)
                )
                channels = width * 2**stage * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = classifier == "conv1x1"
        self.fc = (
            nn.Conv2d(channels, num_classes, 1, bias=False)
            if self.conv_head
            else nn.Linear(channels, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.pool(self.act1(self.bn1(self.conv1(x))))).mean((2, 3), keepdim=True)
        return self.fc(x).flatten(1) if self.conv_head else self.fc(x.flatten(1))


def choice(name: str, value: str, known: Iterable[str]) -> None:
    """Raises ValueError for a value of option `name` that is not known."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")


def check_form(classifier: str, activation: str, shortcuts: str) -> None:
    """Raises ValueError for an unknown option of either family."""
    choice("classifier", classifier, ("linear", "conv1x1"))
    choice("activation", activation, ACTIVATIONS)
    choice("shortcuts", shortcuts, ("block", "conv"))


def wide(depth: int, width: int, stem: str, form: Sequence[object]) -> ResNet:
    """Depth 18, 34 or 50: four stages of width, 2, 4 and 8 width, 1x1-convolution shortcuts; 50 uses bottlenecks."""
    return ResNet(
        Bottleneck if depth == 50 else BasicBlock, STAGES[depth], width, "conv", stem, *form
    )
