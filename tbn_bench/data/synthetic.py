"""A tiny made-up set for tests: each class is a fixed random image plus noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tbn_bench.data._base import Split
from tbn_bench.data._images import ImageDataModule


class Synthetic(ImageDataModule):
    """n training images (n // 4 held out unless val_size is given) and n // 2 test images."""

    mean = (0.0,)
    std = (1.0,)
    val_size = 16

    def __init__(
        self,
        n: int = 64,
        num_classes: int = 4,
        in_shape: Sequence[int] = (1, 8, 8),
        noise: float = 0.5,
        batch_size: int = 16,
        seed: int = 0,
    ):
        super().__init__(batch_size, seed, val_size=n // 4)
        self.n = n
        self.num_classes = num_classes
        self.in_shape = tuple(in_shape)
        self.noise = noise

    def read(self) -> tuple[Split, Split]:
        generator = torch.Generator().manual_seed(0)
        means = torch.randn(self.num_classes, *self.in_shape, generator=generator)

        train = self._split(self.n, means, generator)
        test = self._split(self.n // 2, means, generator)
        return train, test

    def _split(self, n: int, means: Tensor, generator: torch.Generator) -> Split:
        """means: (classes, *in_shape), the image of each class without noise."""
        numbers = torch.arange(n)
        y = numbers % self.num_classes
        images = means[y]
        draws = torch.randn(n, *self.in_shape, generator=generator)
        noise = self.noise * draws
        return images + noise, y
