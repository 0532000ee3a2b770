"""PointNet for part segmentation (Qi et al., arXiv 1612.00593).

It follows the PyTorch code that the TBN paper builds on (yanx27/Pointnet_Pointnet2_pytorch,
models/pointnet_part_seg.py): the head sees a point's features of five depths and the cloud's.

8,303,488 weights at 50 parts and 16 categories: input T-net 797,120, feature T-net 4,997,120,
encoder 1,138,880, head 1,370,368.
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
    """x: (B, coordinates + categories, P) -> (B, num_classes, P).

    The result follows the order of the points.
    """

    def __init__(
        self,
        num_classes: int,
        coordinates: int,
        categories: int,
        feature_transform: bool,
    ):
        super().__init__()
        self.coordinates = coordinates
        self.input_tnet = TNet(coordinates, coordinates)

        a, b, c, d, e = WIDTHS
        self.layer1 = point_layers(coordinates, a)
        self.layer2 = point_layers(a, b)
        self.layer3 = point_layers(b, c)
        self.feature_tnet = TNet(c, c) if feature_transform else None
        self.layer4 = point_layers(c, d)
        self.conv5 = nn.Conv1d(d, e, 1)
        self.bn5 = nn.BatchNorm1d(e)

        features = e + categories + sum(WIDTHS)
        self.head = nn.Sequential(
            point_layers(features, 256, 256, 128),
            nn.Conv1d(128, num_classes, 1),
        )

    def logits_and_transform(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(logits (B, num_classes, P), feature transform (B, 128, 128) or None).

        The loss needs both.
        """
        points = x[:, : self.coordinates]
        category = x[:, self.coordinates :]

        one = self.layer1(transformed(points, self.input_tnet(points)))
        two = self.layer2(one)
        three = self.layer3(two)
        matrix = None
        turned = three
        if self.feature_tnet is not None:
            matrix = self.feature_tnet(three)
            turned = transformed(three, matrix)
        four = self.layer4(turned)
        five = self.bn5(self.conv5(four))

        pooled = over_points(five, self.training)
        cloud = at_every_point(pooled, x)
        features = torch.cat([cloud, category, one, two, three, four, five], 1)
        return self.head(features), matrix

    def forward(self, x: Tensor) -> Tensor:
        return self.logits_and_transform(x)[0]


def pointnet_part_seg(
    feature_transform: bool = True,
    coordinates: int = 3,
    num_classes: int = 50,
    in_shape: Sequence[int] = (19, 2048),
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes, points), in_shape = (coordinates + categories, points).

    It takes any number of points. The channels after the coordinates give the cloud's category: one
    of them is 1, and all points of a cloud have the same.
    Raises ValueError for data that are not such clouds.
    """
    channels = clouds_of(
        in_shape,
        coordinates,
        least=coordinates + 1,
        name="pointnet_part_seg",
        channels="coordinates + categories",
    )
    categories = channels - coordinates
    return PartSegmenter(num_classes, coordinates, categories, feature_transform)
