"""PointNet for classification (Qi et al., arXiv 1612.00593).

It follows the PyTorch code that the TBN paper builds on (yanx27/Pointnet_Pointnet2_pytorch,
models/pointnet_cls.py): one 64-channel layer in front of the feature transform.

3,449,472 weights at 40 classes: input T-net 797,120, feature T-net 1,847,296, encoder 139,456,
head 665,600.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from tbn_bench.models._pointnet import TNet, over_points, transformed


class PointNet(nn.Module):
    """x: (B, channels, P), the coordinates of P points -> (B, num_classes).

    The order of the points does not change the result.
    """

    def __init__(self, num_classes: int, channels: int, feature_transform: bool, dropout: float):
        super().__init__()
        self.input_tnet = TNet(channels, channels)
        self.conv1 = nn.Conv1d(channels, 64, 1)
        self.bn1 = nn.BatchNorm1d(64)
        self.feature_tnet = TNet(64, 64) if feature_transform else None
        self.conv2 = nn.Conv1d(64, 128, 1)
        self.bn2 = nn.BatchNorm1d(128)
        self.conv3 = nn.Conv1d(128, 1024, 1)
        self.bn3 = nn.BatchNorm1d(1024)

        self.fc1 = nn.Linear(1024, 512)
        self.bn4 = nn.BatchNorm1d(512)
        self.fc2 = nn.Linear(512, 256)
        self.drop = nn.Dropout(dropout)
        self.bn5 = nn.BatchNorm1d(256)
        self.head = nn.Linear(256, num_classes)

    def logits_and_transform(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(logits (B, num_classes), feature transform (B, 64, 64) or None).

        The loss needs both (section 4.2, L_reg).
        """
        x = transformed(x, self.input_tnet(x))
        x = self.bn1(self.conv1(x))
        x = F.relu(x)
        matrix = None
        if self.feature_tnet is not None:
            matrix = self.feature_tnet(x)
            x = transformed(x, matrix)

        x = self.bn2(self.conv2(x))
        x = F.relu(x)
        x = self.bn3(self.conv3(x))
        x = over_points(x, self.training)

        x = self.bn4(self.fc1(x))
        x = F.relu(x)
        x = self.drop(self.fc2(x))
        x = self.bn5(x)
        x = F.relu(x)
        return self.head(x), matrix

    def forward(self, x: Tensor) -> Tensor:
        return self.logits_and_transform(x)[0]


def pointnet_cls(
    feature_transform: bool = True,
    dropout: float = 0.4,
    num_classes: int = 40,
    in_shape: Sequence[int] = (3, 1024),
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes), in_shape = (coordinates, points).

    It takes any number of points.
    Raises ValueError for data that are not clouds of points.
    """
    if len(in_shape) != 2:
        raise ValueError(
            "pointnet_cls takes clouds of shape (coordinates, points), "
            f"got {tuple(in_shape)}; use a data set of points"
        )
    return PointNet(num_classes, in_shape[0], feature_transform, dropout)
