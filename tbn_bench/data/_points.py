"""In-memory sets of point clouds: (N, 3, points) float32.

They are augmented as in the PointNet code that the TBN paper builds on.
"""

from typing import Any

import torch
from torch import Tensor

from tbn_bench.data._base import TensorDataModule

# yanx27/Pointnet_Pointnet2_pytorch, provider.py
MAX_DROPOUT = 0.875
SCALES = (0.8, 1.25)
MAX_SHIFT = 0.1


def drop_points(x: Tensor) -> Tensor:
    """Each cloud loses a share of its points, drawn from 0 to 87.5 %. x: (B, 3, P).

    The first point replaces them.
    """
    clouds, _, size = x.shape
    device = x.device
    share = MAX_DROPOUT * torch.rand(clouds, 1, 1, device=device)
    draws = torch.rand(clouds, 1, size, device=device)
    dropped = draws <= share
    first = x[:, :, :1]
    return torch.where(dropped, first, x)


def subset(x: Tensor, points: int) -> Tensor:
    """Each cloud keeps `points` of its points, drawn without replacement.

    x: (B, 3, P) -> (B, 3, points).
    """
    clouds, channels, size = x.shape
    draws = torch.rand(clouds, size, device=x.device)
    _, kept = draws.topk(points, 1)
    by_channel = kept.unsqueeze(1)
    places = by_channel.expand(-1, channels, -1)
    return x.gather(2, places)


def scale_and_shift(x: Tensor) -> Tensor:
    """Each cloud times a factor of 0.8 to 1.25, then moved by up to 0.1 along each axis.

    x: (B, 3, P).
    """
    clouds, channels, _ = x.shape
    device = x.device
    low, high = SCALES
    share = torch.rand(clouds, 1, 1, device=device)
    scale = low + (high - low) * share
    draws = torch.rand(clouds, channels, 1, device=device)
    direction = 2 * draws - 1
    shift = MAX_SHIFT * direction
    return x * scale + shift


class PointDataModule(TensorDataModule):
    """Clouds of `points` points. x: (N, 3, points) float32, y: (N,) int64.

    train_points: training batches keep that many points of each cloud, drawn anew for every batch,
    instead of the recipe's random point dropout. None is the recipe. This option is ours: a step on
    fewer points takes less time. Evaluation always sees all points.
    Raises ValueError for an impossible number of points.
    """

    tasks = ("point_classification", "image_classification")
    in_shape: tuple[int, int]

    def __init__(self, points: int = 1024, train_points: int | None = None, **options: Any):
        super().__init__(**options)
        if not isinstance(points, int) or points < 1:
            raise ValueError(f"points must be a whole number of at least 1, got {points!r}")
        if train_points is not None:
            fits = isinstance(train_points, int) and 0 < train_points <= points
            if not fits:
                raise ValueError(
                    f"train_points must lie between 1 and points={points} "
                    f"(or be None: all of them), got {train_points!r}"
                )
        self.in_shape = (3, points)
        self.train_points = train_points
        # 16 MB at 1,024 channels; malloc no longer recycles twice that
        self.eval_batch_size = max(1, 4096 // points)

    def prepare(self, x: Tensor, training: bool = False) -> Tensor:
        """x: (B, 3, points) -> the same, augmented when training.

        Where train_points is given, the result is (B, 3, train_points) when training.
        """
        if not training:
            return x
        if self.train_points is not None:
            x = subset(x, self.train_points)
        if not self.augment:
            return x
        if self.train_points is None:
            x = drop_points(x)
        return scale_and_shift(x)
