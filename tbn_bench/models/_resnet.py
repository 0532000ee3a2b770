"""Blocks, stages and stems of the ResNets (He et al., arXiv 1512.03385).

resnet_cifar.py and resnet.py build from them. Papers that binarize activations change the network
in two ways: shortcuts="conv" puts one shortcut around every 3x3 convolution (Bi-Real Net, arXiv
1808.00278), and activation= replaces ReLU, because the sign of every output of ReLU is +1.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3]}


class PadShortcut(nn.Module):
    """Subsamples the map; the new channels are zero.

    x: (B, C_in, H, W) -> (B, C_out, H/stride, W/stride).
    """

    def __init__(self, stride: int, extra: int):
        super().__init__()
        self.stride = stride
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        subsampled = x[:, :, :: self.stride, :: self.stride]
        return F.pad(subsampled, (0, 0, 0, 0, 0, self.extra))


class RPReLU(nn.Module):
    """PReLU(x - m) + n with slope, m and n per channel (ReActNet, arXiv 2003.03488, section 4.2).

    x: (B, C, H, W), as is the result.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.before = nn.Parameter(torch.zeros(channels, 1, 1))
        self.after = nn.Parameter(torch.zeros(channels, 1, 1))
        self.slope = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        shifted = x - self.before
        bent = self.slope(shifted)
        return bent + self.after


class Maxout(nn.Module):
    """p relu(x) - q relu(-x), with p and q per channel (AdaBin, arXiv 2208.08084, section 3.3).

    p starts at 1 and q at 0.25. x: (B, C, H, W), as is the result.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.p = nn.Parameter(torch.ones(channels, 1, 1))
        self.q = nn.Parameter(torch.full((channels, 1, 1), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        positive = self.p * F.relu(x)
        negative = self.q * F.relu(-x)
        return positive - negative


ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "relu": lambda channels: nn.ReLU(),
    "hardtanh": lambda channels: nn.Hardtanh(),
    "prelu": nn.PReLU,
    "rprelu": RPReLU,
    "maxout": Maxout,
}


def _shortcut(c_in: int, c_out: int, stride: int, kind: str) -> nn.Module:
    if c_in == c_out and stride == 1:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(stride, c_out - c_in)
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 1, stride, bias=False),
        nn.BatchNorm2d(c_out),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions. x: (B, c_in, H, W) -> (B, width, H/stride, W/stride).

    around_each: one shortcut around each convolution instead of one around both.
    """

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
        self.act1 = ACTIVATIONS[activation](width)
        self.act2 = ACTIVATIONS[activation](width)
        self.around_each = around_each

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x))
        if self.around_each:
            out = out + self.shortcut(x)
        middle = self.act1(out)

        out = self.bn2(self.conv2(middle))
        out = out + (middle if self.around_each else self.shortcut(x))
        return self.act2(out)


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
                "a bottleneck takes activation='relu' and shortcuts='block' alone; "
                "use depth 18, 34 or 6n + 2"
            )
        c_out = self.expansion * width
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.shortcut = _shortcut(c_in, c_out, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x)
        out = self.bn1(out)
        out = F.relu(out)

        out = self.conv2(out)
        out = self.bn2(out)
        out = F.relu(out)

        out = self.conv3(out)
        out = self.bn3(out)
        out = out + self.shortcut(x)
        return F.relu(out)


@dataclass(frozen=True)
class Form:
    """The part of a ResNet that does not depend on its depth.

    around_each: one shortcut around each convolution of a block.
    """

    classifier: str
    activation: str
    around_each: bool
    num_classes: int
    c_in: int


class ResNet(nn.Module):
    """x: (B, C, H, W) -> (B, num_classes).

    stem: "cifar" (3x3) or "imagenet" (7x7 of stride 2, then a 3x3 max pool of stride 2).
    """

    def __init__(
        self,
        block: type,
        stages: Sequence[int],
        width: int,
        shortcut: str,
        stem: str,
        form: Form,
    ):
        super().__init__()
        if stem == "cifar":
            self.conv1 = nn.Conv2d(
                form.c_in,
                width,
                kernel_size=3,
                padding=1,
                bias=False,
            )
            pool = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(
                form.c_in,
                width,
                kernel_size=7,
                stride=2,
                padding=3,
                bias=False,
            )
            pool = nn.MaxPool2d(3, 2, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = ACTIVATIONS[form.activation](width)
        self.pool = pool

        blocks: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(stages):
            inner = width * 2**stage
            for index in range(count):
                stride = 2 if stage and not index else 1
                layer = block(
                    channels,
                    inner,
                    stride,
                    shortcut,
                    form.activation,
                    form.around_each,
                )
                blocks.append(layer)
                channels = inner * block.expansion
        self.blocks = nn.Sequential(*blocks)

        self.conv_head = form.classifier == "conv1x1"
        if self.conv_head:
            self.fc = nn.Conv2d(channels, form.num_classes, 1, bias=False)
        else:
            self.fc = nn.Linear(channels, form.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.bn1(x)
        x = self.act1(x)
        x = self.pool(x)

        x = self.blocks(x)
        x = x.mean((2, 3), keepdim=True)
        if self.conv_head:
            return self.fc(x).flatten(1)
        return self.fc(x.flatten(1))


def choice(name: str, value: str, known: Iterable[str]) -> None:
    """Raises ValueError for a value of option `name` that is not known."""
    if value not in known:
        listed = ", ".join(map(repr, known))
        raise ValueError(f"{name} must be one of {listed}, got {value!r}")


def check_form(classifier: str, activation: str, shortcuts: str) -> None:
    """Raises ValueError for an unknown value of an option that both families have."""
    choice("classifier", classifier, ("linear", "conv1x1"))
    choice("activation", activation, ACTIVATIONS)
    choice("shortcuts", shortcuts, ("block", "conv"))


def wide(depth: int, width: int, stem: str, form: Form) -> ResNet:
    """Depth 18, 34 or 50: four stages of width, 2, 4 and 8 width, with 1x1-convolution shortcuts.

    Depth 50 uses bottlenecks.
    """
    block = Bottleneck if depth == 50 else BasicBlock
    return ResNet(block, STAGES[depth], width, "conv", stem, form)
