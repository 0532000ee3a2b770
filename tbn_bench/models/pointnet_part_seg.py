"""PointNet for part segmentation (Qi et al., arXiv 1612.00593), laid out as the PyTorch code that the TBN paper builds on
(yanx27/Pointnet_Pointnet2_pytorch, models/pointnet_part_seg.py): every point's features of five depths beside the cloud's.

8,303,488 weights at 50 parts and 16 categories: input T-net 797,120, feature T-net 4,997,120, encoder 1,138,880, head 1,370,368.
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

WIDTHS = (64, 128, 128, 512, 2048)


class PartSegmenter(nn.Module):
    """x: (B, coordinates + categories, P) -> (B, num_classes, P). The result follows the order of the points."""

    def __init__(
        self, num_classes: int, coordinates: int, categories: int, feature_transform: bool
    ):
        super().__init__()
        self.coordinates = coordinates
        self.input_tnet = TNet(coordinates, coordinates)
        a, b, c, d, e = WIDTHS
        self.layer1, self.layer2, self.layer3 = (
            point_layers(coordinates, a),
            point_layers(a, b),
            point_layers(b, c),
        )
        self.feature_tnet = TNet(c, c) if feature_transform else None
        self.layer4 = point_layers(c, d)
        self.conv5, self.bn5 = nn.Conv1d(d, e, 1), nn.BatchNorm1d(e)
        self.head = nn.Sequential(
            point_layers(e + categories + sum(WIDTHS), 256, 256, 128),
            nn.Conv1d(128, num_classes, 1),
        )

    def logits_and_transform(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(logits (B, num_classes, P), feature transform (B, 128, 128) or None): the loss needs both."""
        points, category = x[:, : self.coordinates], x[:, self.coordinates :]
        one = self.layer1(transformed(points, self.input_tnet(points)))
        two = self.layer2(one)
        three = self.layer3(two)
        matrix = None if self.feature_tnet is None else self.feature_tnet(three)
        four = self.layer4(three if matrix is None else transformed(three, matrix))
        five = self.bn5(self.conv5(four))
        cloud = at_every_point(over_points(five, self.training), x)
        return self.head(torch.cat([cloud, category, one, two, three, four, five], 1)), matrix

    def forward(self, x: Tensor) -> Tensor:
        return self.logits_and_transform(x)[0]


def pointnet_part_seg(
    feature_transform: bool = True,
    coordinates: int = 3,
    num_classes: int = 50,
    in_shape: Sequence[int] = (19, 2048),
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes, points), in_shape = (coordinates + categories, points); it takes any number of points.

    The channels behind the coordinates say the cloud's category, one of them 1, alike for all its points.
    Raises ValueError for data that are not such clouds.
    """
    channels = clouds_of(
        in_shape, coordinates, coordinates + 1, "pointnet_part_seg", "coordinates + categories"
    )
    return PartSegmenter(num_classes, coordinates, channels - coordinates, feature_transform)
