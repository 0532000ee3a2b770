"""What the PointNets share (Qi et al., arXiv 1612.00593): the transforms and the maximum over points."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def over_points(x: Tensor, training: bool) -> Tensor:
    """The maximum over points, by whichever of two ways is quicker: amax is vectorised, but its gradient counts ties at the price of a
    convolution; the pool keeps one place. x: (B, C, P) -> (B, C)."""
    return F.adaptive_max_pool1d(x, 1).flatten(1) if training else x.amax(2)


class TNet(nn.Module):
    """A k x k matrix per cloud, near the identity at the start (section 4.2). x: (B, channels, P) -> (B, k, k)."""

    def __init__(self, channels: int, k: int):
        super().__init__()
        self.k = k
        self.conv1, self.bn1 = nn.Conv1d(channels, 64, 1), nn.BatchNorm1d(64)
        self.conv2, self.bn2 = nn.Conv1d(64, 128, 1), nn.BatchNorm1d(128)
        self.conv3, self.bn3 = nn.Conv1d(128, 1024, 1), nn.BatchNorm1d(1024)
        self.fc1, self.bn4 = nn.Linear(1024, 512), nn.BatchNorm1d(512)
        self.fc2, self.bn5 = nn.Linear(512, 256), nn.BatchNorm1d(256)
        self.fc3 = nn.Linear(256, k * k)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = over_points(F.relu(self.bn3(self.conv3(x))), self.training)
        x = F.relu(self.bn4(self.fc1(x)))
        x = F.relu(self.bn5(self.fc2(x)))
        return self.fc3(x).view(-1, self.k, self.k) + torch.eye(
            self.k, device=x.device, dtype=x.dtype
        )


def transformed(x: Tensor, matrix: Tensor) -> Tensor:
    """Every point times the matrix of its cloud, as a row vector. x: (B, k, P), matrix: (B, k, k) -> (B, k, P)."""
    return torch.bmm(matrix.transpose(1, 2), x)


def at_every_point(x: Tensor, like: Tensor) -> Tensor:
    """What a cloud has, repeated over its points. x: (B, C), like: (B, _, P) -> (B, C, P)."""
    return x.unsqueeze(2).expand(-1, -1, like.shape[2])


def point_layers(*widths: int) -> nn.Sequential:
    """The same layers for every point: linear, batch norm, ReLU from each width to the next. (B, widths[0], P) -> (B, widths[-1], P)."""
    layers = [
        (nn.Conv1d(a, b, 1), nn.BatchNorm1d(b), nn.ReLU())
        for a, b in zip(widths, widths[1:], strict=False)
    ]
    return nn.Sequential(*(module for layer in layers for module in layer))


def clouds_of(
    in_shape: Sequence[int], coordinates: int, least: int, name: str, channels: str
) -> int:
    """The number of channels of clouds of shape (channels, points). Raises ValueError where there are fewer than `least`."""
    if coordinates < 1:
        raise ValueError(f"{name}: coordinates must be at least 1, got {coordinates}; 3 is usual")
    if len(in_shape) != 2 or in_shape[0] < least:
        raise ValueError(
            f"{name} takes clouds of shape ({channels}, points) with at least {least} channels, got {tuple(in_shape)}; "
            "use a data set whose points have labels"
        )
    return in_shape[0]
