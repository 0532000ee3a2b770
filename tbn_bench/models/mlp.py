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
    """x: (B, *in_shape) -> (B, num_classes), with ReLU between layers.

    For example, hidden=[512, 256] on 28 x 28 is 784-512-256-10.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = int(math.prod(in_shape))
    for outputs in hidden:
        layers.append(nn.Linear(inputs, outputs, bias=bias))
        layers.append(nn.ReLU())
        inputs = outputs
    head = nn.Linear(inputs, num_classes, bias=bias)
    return nn.Sequential(*layers, head)
