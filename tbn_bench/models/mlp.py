"""Multilayer perceptron on flattened inputs."""

import math
from collections.abc import Sequence

from torch import nn


def mlp(
    num_classes: int = 10,
    in_shape: Sequence[int] = (1, 28, 28),
    hidden: Sequence[int] = (512, 256),
    bias: bool = True,
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes). ReLU between layers; e.g. hidden=[512, 256] on 28 x 28 is 784-512-256-10."""
    sizes = [int(math.prod(in_shape)), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for a, b in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(a, b, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes, bias=bias))
