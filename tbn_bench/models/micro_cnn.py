"""A convolutional network for microcontrollers.

It has few channels, a first layer with a stride because its map is the largest, and no biases
except those of batch norm.
"""

from collections.abc import Sequence

from torch import nn


def micro_cnn(
    channels: Sequence[int] = (12, 24, 64),
    depthwise: bool = False,
    num_classes: int = 10,
    in_shape: Sequence[int] = (1, 28, 28),
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes).

    A 5x5 convolution of stride 2, then 3x3 convolutions, each followed by a 2x2 max pool. Batch
    norm and ReLU follow every convolution. One linear layer ends it. 22,476 weights by default.

    depthwise: instead of the 3x3 convolutions, pairs of a depthwise one of stride 2 and a 1x1 one.
    No map is larger than the first one's, so less RAM is needed.

    Raises ValueError for an image that the pools leave nothing of.
    """
    c_in, height, width = in_shape
    least = 2 ** len(channels)
    if min(height, width) < least:
        raise ValueError(
            f"micro_cnn with {len(channels)} convolutions takes {least} x {least} pixels or more, "
            f"got {height} x {width}"
        )

    first, *others = channels
    start = nn.Conv2d(
        c_in,
        first,
        kernel_size=5,
        stride=2,
        padding=2,
        bias=False,
    )
    layers = _with_norm(start)
    height = (height + 1) // 2
    width = (width + 1) // 2
    c_in = first
    for c_out in others:
        if depthwise:
            layers += _separable(c_in, c_out)
            height = (height + 1) // 2
            width = (width + 1) // 2
        else:
            layers += _pooled(c_in, c_out)
            height = height // 2
            width = width // 2
        c_in = c_out

    features = c_in * height * width
    head = nn.Linear(features, num_classes, bias=False)
    return nn.Sequential(*layers, nn.Flatten(), head)


def _with_norm(conv: nn.Conv2d) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU()]


def _pooled(c_in: int, c_out: int) -> list[nn.Module]:
    conv = nn.Conv2d(
        c_in,
        c_out,
        kernel_size=3,
        padding=1,
        bias=False,
    )
    return [*_with_norm(conv), nn.MaxPool2d(2)]


def _separable(c_in: int, c_out: int) -> list[nn.Module]:
    each = nn.Conv2d(
        c_in,
        c_in,
        kernel_size=3,
        stride=2,
        padding=1,
        groups=c_in,
        bias=False,
    )
    mix = nn.Conv2d(
        c_in,
        c_out,
        kernel_size=1,
        bias=False,
    )
    return [*_with_norm(each), *_with_norm(mix)]
