"""PointNet for semantic segmentation (Qi et al., arXiv 1612.00593).

It follows the PyTorch code that the TBN paper builds on (yanx27/Pointnet_Pointnet2_pytorch,
models/pointnet_sem_seg.py): the head sees a point's 64 features and the block's 1,024.

3,507,200 weights at 9 channels and 13 classes: input T-net 797,504, feature T-net 1,847,296,
encoder 139,840, head 722,560.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tbn_bench.models._pointnet import (
    TNet,
    at_every_point,
    clouds_of,
    over_points,
    point_layers,
    transformed,
)


class SemanticSegmenter(nn.Module):
    """x: (B, channels, P) -> (B, num_classes, P). The result follows the order of the points."""

    def __init__(
        self,
        num_classes: int,
        channels: int,
        coordinates: int,
        feature_transform: bool,
    ):
        super().__init__()
        self.coordinates = coordinates
        self.input_tnet = TNet(channels, coordinates)
        self.layer1 = point_layers(channels, 64)
        self.feature_tnet = TNet(64, 64) if feature_transform else None
        self.layer2 = point_layers(64, 128)
        self.conv3 = nn.Conv1d(128, 1024, 1)
        self.bn3 = nn.BatchNorm1d(1024)
        self.head = nn.Sequential(
            point_layers(1024 + 64, 512, 256, 128),
            nn.Conv1d(128, num_classes, 1),
        )

    def logits_and_transform(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(logits (B, num_classes, P), feature transform (B, 64, 64) or None).

        The loss needs both.
        """
        position = x[:, : self.coordinates]
        turned = transformed(position, self.input_tnet(x))
        others = x[:, self.coordinates :]
        points = self.layer1(torch.cat([turned, others], 1))

        matrix = None
        if self.feature_tnet is not None:
            matrix = self.feature_tnet(points)
            points = transformed(points, matrix)

        block = self.conv3(self.layer2(points))
        block = over_points(self.bn3(block), self.training)
        features = torch.cat([at_every_point(block, x), points], 1)
        return self.head(features), matrix

    def forward(self, x: Tensor) -> Tensor:
        return self.logits_and_transform(x)[0]


def pointnet_sem_seg(
    feature_transform: bool = True,
    coordinates: int = 3,
    num_classes: int = 13,
    in_shape: Sequence[int] = (9, 4096),
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes, points), in_shape = (channels, points).

    It takes any number of points. The first channels are the coordinates. The input transform turns
    these alone, but it depends on all channels.
    Raises ValueError for data that are not such clouds.
    """
    channels = clouds_of(
        in_shape,
        coordinates,
        least=coordinates,
        name="pointnet_sem_seg",
        channels="channels",
    )
    return SemanticSegmenter(num_classes, channels, coordinates, feature_transform)
