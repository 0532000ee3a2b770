"""What sets with a label for every point share: samples cut when they are asked for, and categories as channels."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tbn_bench.data._base import Split, _Order
from tbn_bench.data._points import PointDataModule, scale_and_shift


class Cut(Dataset):
    """Samples that are made when they are asked for, by a list of positions: one index operation makes the batch."""

    def __len__(self) -> int:
        raise NotImplementedError  # abstract

    def __getitem__(self, index: list[int]) -> Split:
        """x: (B, C, points), y: (B, points) int64."""
        raise NotImplementedError  # abstract


class Half:
    """x (which = 0) or y (1) of such samples, to be indexed and split as the tensor that they would fill."""

    def __init__(self, samples: Cut, which: int):
        self.samples, self.which = samples, which

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Tensor:
        return self.samples[torch.arange(len(self))[index].reshape(-1).tolist()][self.which]

    def split(self, size: int) -> Iterator[Tensor]:
        return (self[start : start + size] for start in range(0, len(self), size))


def halves(samples: Cut) -> Split:
    """The place of (x, y) in `splits`."""
    return Half(samples, 0), Half(samples, 1)


class SegmentationDataModule(PointDataModule):
    """Clouds with a label for every point. x: (N, C, points) float32, y: (N, points) int64, as tensors or as halves of Cut samples."""

    def _loader(self, split: str, batch_size: int, seed: int | None) -> DataLoader:
        x, y = self.splits[split]
        if not isinstance(x, Half):
            return super()._loader(split, batch_size, seed)
        return DataLoader(
            x.samples,
            batch_size=None,
            sampler=_Order(len(y), batch_size, seed),
            generator=torch.Generator(),
        )


def with_category(x: Tensor, categories: int, augmented: bool) -> Tensor:
    """Coordinates and category number -> coordinates, scaled and shifted where asked, and one channel per category.

    x: (B, 4, P), the fourth channel 0 to categories - 1 -> (B, 3 + categories, P).
    """
    points = scale_and_shift(x[:, :3]) if augmented else x[:, :3]
    return torch.cat([points, F.one_hot(x[:, 3].long(), categories).transpose(1, 2).to(x.dtype)], 1)
