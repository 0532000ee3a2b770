"""Parts for sets with a label for every point.

Samples are cut when they are asked for, and categories become channels.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tbn_bench.data._base import Split
from tbn_bench.data._order import Order
from tbn_bench.data._points import PointDataModule, scale_and_shift


class Cut(Dataset):
    """Samples that are made when they are asked for, by a list of positions.

    One index operation makes the batch.
    """

    def __len__(self) -> int:
        raise NotImplementedError  # abstract

    def __getitem__(self, index: list[int]) -> Split:
        """x: (B, C, points), y: (B, points) int64."""
        raise NotImplementedError  # abstract


class Half:
    """x (which = 0) or y (1) of such samples.

    It can be indexed and split as the tensor that they would fill.
    """

    def __init__(self, samples: Cut, which: int):
        self.samples = samples
        self.which = which

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Tensor:
        everything = torch.arange(len(self))
        chosen = everything[index].reshape(-1)
        positions = chosen.tolist()
        batch = self.samples[positions]
        return batch[self.which]

    def split(self, size: int) -> Iterator[Tensor]:
        for start in range(0, len(self), size):
            end = start + size
            yield self[start:end]


def halves(samples: Cut) -> Split:
    """The two halves, which `splits` has instead of (x, y)."""
    return Half(samples, 0), Half(samples, 1)


class SegmentationDataModule(PointDataModule):
    """Clouds with a label for every point. x: (N, C, points) float32, y: (N, points) int64.

    Both are tensors or halves of Cut samples.
    """

    def _loader(self, split: str, batch_size: int, seed: int | None) -> DataLoader:
        x, y = self.splits[split]
        if not isinstance(x, Half):
            return super()._loader(split, batch_size, seed)
        order = Order(len(y), batch_size, seed)
        return DataLoader(
            x.samples,
            batch_size=None,
            sampler=order,
            generator=torch.Generator(),
        )


def with_category(x: Tensor, categories: int, augmented: bool) -> Tensor:
    """Coordinates and category number -> coordinates and one channel per category.

    x: (B, 4, P), the fourth channel 0 to categories - 1 -> (B, 3 + categories, P).
    augmented: the coordinates are scaled and shifted.
    """
    points = x[:, :3]
    if augmented:
        points = scale_and_shift(points)
    number = x[:, 3].long()
    one_hot = F.one_hot(number, categories)
    channels = one_hot.transpose(1, 2).to(x.dtype)
    return torch.cat([points, channels], 1)
