"""The parts that the PointNets share: transforms and pooling (Qi et al., arXiv 1612.00593)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def over_points(x: Tensor, training: bool) -> Tensor:
    """The maximum over the points. x: (B, C, P) -> (B, C).

    The two ways give the same numbers, and each is the faster one in its mode. amax is vectorised,
    but its gradient counts ties, which costs as much as a convolution. The pool keeps one place.
    """
    if training:
        return F.adaptive_max_pool1d(x, 1).flatten(1)
    return x.amax(2)


class TNet(nn.Module):
    """A k x k matrix per cloud, near the identity at the start (section 4.2).

    x: (B, channels, P) -> (B, k, k).
    """

    def __init__(self, channels: int, k: int):
        super().__init__()
        self.k = k

        self.conv1 = nn.Conv1d(channels, 64, 1)
        self.bn1 = nn.BatchNorm1d(64)
        self.conv2 = nn.Conv1d(64, 128, 1)
        self.bn2 = nn.BatchNorm1d(128)
        self.conv3 = nn.Conv1d(128, 1024, 1)
        self.bn3 = nn.BatchNorm1d(1024)

        self.fc1 = nn.Linear(1024, 512)
        self.bn4 = nn.BatchNorm1d(512)
        self.fc2 = nn.Linear(512, 256)
        self.bn5 = nn.BatchNorm1d(256)
        self.fc3 = nn.Linear(256, k * k)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x))
        x = F.relu(x)
        x = self.bn2(self.conv2(x))
        x = F.relu(x)
        x = self.bn3(self.conv3(x))
        x = F.relu(x)
        x = over_points(x, self.training)

        x = self.bn4(self.fc1(x))
        x = F.relu(x)
        x = self.bn5(self.fc2(x))
        x = F.relu(x)
        x = self.fc3(x)

        offset = x.view(-1, self.k, self.k)
        identity = torch.eye(self.k, device=x.device, dtype=x.dtype)
        return offset + identity


def transformed(x: Tensor, matrix: Tensor) -> Tensor:
    """Every point, as a row vector, times the matrix of its cloud.

    x: (B, k, P), matrix: (B, k, k) -> (B, k, P).
    """
    return torch.bmm(matrix.transpose(1, 2), x)


def at_every_point(x: Tensor, like: Tensor) -> Tensor:
    """The features of a cloud, repeated over its points.

    x: (B, C), like: (B, _, P) -> (B, C, P).
    """
    points = like.shape[2]
    return x.unsqueeze(2).expand(-1, -1, points)


def point_layers(*widths: int) -> nn.Sequential:
    """The same layers for every point: linear, batch norm and ReLU from each width to the next.

    x: (B, widths[0], P) -> (B, widths[-1], P).
    """
    layers: list[nn.Module] = []
    for c_in, c_out in zip(widths, widths[1:], strict=False):
        layers.append(nn.Conv1d(c_in, c_out, 1))
        layers.append(nn.BatchNorm1d(c_out))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def clouds_of(
    in_shape: Sequence[int],
    coordinates: int,
    least: int,
    name: str,
    channels: str,
) -> int:
    """The number of channels of clouds of shape (channels, points).

    name: the model's, channels: its words for the channels, both for the message.
    Raises ValueError for fewer than `least` channels.
    """
    if coordinates < 1:
        raise ValueError(f"{name}: coordinates must be at least 1, got {coordinates}; 3 is usual")
    if len(in_shape) != 2 or in_shape[0] < least:
        raise ValueError(
            f"{name} takes clouds of shape ({channels}, points) with at least {least} channels, "
            f"got {tuple(in_shape)}; use a data set whose points have labels"
        )
    return in_shape[0]
