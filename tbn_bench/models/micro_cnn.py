"""A convolutional network for microcontrollers.

It has few channels, a first layer with a stride because its map is the largest, and no biases
except those of batch norm.
"""

from collections.abc import Sequence

from torch import nn


def micro_cnn(
    channels: Sequence[int] = (12, 24, 64),
    num_classes: int = 10,
    in_shape: Sequence[int] = (1, 28, 28),
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes).

    A 5x5 convolution of stride 2, then 3x3 convolutions, each followed by a 2x2 max pool. Batch
    norm and ReLU follow every convolution. One linear layer ends it. 22,476 weights by default.

    Raises ValueError for an image that the pools leave nothing of.
    """
    c_in, height, width = in_shape
    least = 2 ** len(channels)
    if min(height, width) < least:
        raise ValueError(
            f"micro_cnn with {len(channels)} convolutions takes {least} x {least} pixels or more, "
            f"got {height} x {width}"
        )

    layers: list[nn.Module] = []
    for index, c_out in enumerate(channels):
        first = index == 0
        if first:
            conv = nn.Conv2d(
                c_in,
                c_out,
                kernel_size=5,
                stride=2,
                padding=2,
                bias=False,
            )
            height = (height + 1) // 2
            width = (width + 1) // 2
        else:
            conv = nn.Conv2d(
                c_in,
                c_out,
                kernel_size=3,
                padding=1,
                bias=False,
            )
            height = height // 2
            width = width // 2
        layers += [conv, nn.BatchNorm2d(c_out), nn.ReLU()]
        if not first:
            layers.append(nn.MaxPool2d(2))
        c_in = c_out

    features = c_in * height * width
    head = nn.Linear(features, num_classes, bias=False)
    return nn.Sequential(*layers, nn.Flatten(), head)
