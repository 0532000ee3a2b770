"""A convolutional network for microcontrollers: few channels, a strided first layer (its map is the largest), no biases beside batch norm's."""

from collections.abc import Sequence

from torch import nn


def micro_cnn(
    channels: Sequence[int] = (12, 24, 64),
    num_classes: int = 10,
    in_shape: Sequence[int] = (1, 28, 28),
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes). A 5x5 convolution of stride 2, then 3x3 ones each followed by a 2x2 max pool, batch norm and
    ReLU after each, one linear layer. 22,476 weights by default.

    Raises ValueError for an image that the pools leave nothing of.
    """
    c_in, height, width = in_shape
    least = 2 ** len(channels)
    if min(height, width) < least:
        raise ValueError(
            f"micro_cnn with {len(channels)} convolutions takes {least} x {least} pixels or more, got {height} x {width}"
        )
    layers: list[nn.Module] = []
    for index, c_out in enumerate(channels):
        kernel, stride = (5, 2) if index == 0 else (3, 1)
        layers += [
            nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
        ]
        layers += [nn.MaxPool2d(2)] if index else []
        height, width = ((n // 2 if index else -(-n // 2)) for n in (height, width))
        c_in = c_out
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(c_in * height * width, num_classes, bias=False)
    )
