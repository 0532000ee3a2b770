"""In-memory sets of point clouds: (N, 3, points) float32, augmented as the PointNet code the TBN paper builds on does."""

from typing import Any

import torch
from torch import Tensor

from tbn_bench.data._base import TensorDataModule

MAX_DROPOUT, SCALES, MAX_SHIFT = (
    0.875,
    (0.8, 1.25),
    0.1,
)  # yanx27/Pointnet_Pointnet2_pytorch, provider.py


def drop_points(x: Tensor) -> Tensor:
    """Each cloud loses a share of its points, drawn from 0 to 87.5 %: the first point stands in for them. x: (B, 3, P)."""
    share = MAX_DROPOUT * torch.rand(len(x), 1, 1, device=x.device)
    dropped = torch.rand(len(x), 1, x.shape[2], device=x.device) <= share
    return torch.where(dropped, x[:, :, :1], x)


def subset(x: Tensor, points: int) -> Tensor:
    """Each cloud keeps `points` of its points, drawn without replacement. x: (B, 3, P) -> (B, 3, points)."""
    kept = torch.rand(len(x), x.shape[2], device=x.device).topk(points, 1).indices
    return x.gather(2, kept.unsqueeze(1).expand(-1, x.shape[1], -1))


def scale_and_shift(x: Tensor) -> Tensor:
    """Each cloud times a factor of 0.8 to 1.25, then moved by up to 0.1 along each axis. x: (B, 3, P)."""
    low, high = SCALES
    scale = low + (high - low) * torch.rand(len(x), 1, 1, device=x.device)
    shift = MAX_SHIFT * (2 * torch.rand(len(x), x.shape[1], 1, device=x.device) - 1)
    return x * scale + shift


class PointDataModule(TensorDataModule):
    """Clouds of `points` points. x: (N, 3, points) float32, y: (N,) int64.

    train_points: training batches keep that many points of each cloud, drawn anew for every batch, in the place of the recipe's random
    point dropout (ours: it costs so much less time as points are fewer); None is the recipe. Evaluation always sees all points.
    Raises ValueError for an impossible number of points.
    """

    tasks = ("point_classification", "image_classification")
    in_shape: tuple[int, int]

    def __init__(self, points: int = 1024, train_points: int | None = None, **options: Any):
        super().__init__(**options)
        if not isinstance(points, int) or points < 1:
            raise ValueError(f"points must be a whole number of at least 1, got {points!r}")
        if train_points is not None and not (
            isinstance(train_points, int) and 0 < train_points <= points
        ):
            raise ValueError(
                f"train_points must lie between 1 and points={points} (or be None: all of them), got {train_points!r}"
            )
        self.in_shape, self.train_points = (3, points), train_points
        self.eval_batch_size = max(
            1, 4096 // points
        )  # 16 MB at 1,024 channels; twice that is no longer recycled by malloc

    def prepare(self, x: Tensor, training: bool = False) -> Tensor:
        """x: (B, 3, points) -> the same, augmented when training; (B, 3, train_points) then, where that is given."""
        if not training:
            return x
        if self.train_points is not None:
            x = subset(x, self.train_points)
        if not self.augment:
            return x
        return scale_and_shift(x if self.train_points else drop_points(x))
