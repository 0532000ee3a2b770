"""Random samples in the form of another data set, without its files: smoke(of='imagenet').

They are for trying a pipeline, never for a result.
"""

import torch
from torch import Tensor

from tbn_bench import catalog
from tbn_bench.data._base import Split, TensorDataModule

SHARED = ("tasks", *catalog.OFFERS)


class Smoke(TensorDataModule):
    """n training, n // 2 validation and n // 2 test samples, with random labels.

    They have the form in which the data set would give them to a model.
    Raises ValueError for whatever the data set itself refuses, or a set that cannot be imitated.
    """

    def __init__(self, of: str, n: int = 16, batch_size: int = 8, seed: int = 0):
        super().__init__(batch_size, seed, augment=False, val_size=0)
        self.n = n
        self.inner = catalog.build("data", of, batch_size=batch_size, seed=seed)
        for name in SHARED:
            if hasattr(self.inner, name):
                setattr(self, name, getattr(self.inner, name))
        self.eval_batch_size = batch_size

    def read(self) -> tuple[Split, Split, Split]:
        generator = torch.Generator().manual_seed(0)
        train = self._samples(self.n, generator)
        val = self._samples(self.n // 2, generator)
        test = self._samples(self.n // 2, generator)
        return train, val, test

    def _samples(self, n: int, generator: torch.Generator) -> Split:
        """x: (n, *in_shape), y as the task of the set wants it."""
        if "next_token" in self.tasks:
            shape = (2, n, *self.in_shape)
            x, y = torch.randint(self.num_classes, shape, generator=generator)
            return x.float(), y
        x = torch.randn(n, *self.in_shape, generator=generator)
        if "forecasting" in self.tasks:
            rows = torch.randn(n, self.horizon, self.targets, generator=generator)
            return x, rows
        if "part_segmentation" in self.tasks:
            return self._shapes(x, generator)
        labelled = self.in_shape[1:] if "semantic_segmentation" in self.tasks else ()
        y = torch.randint(self.num_classes, (n, *labelled), generator=generator)
        return x, y

    def _shapes(self, x: Tensor, generator: torch.Generator) -> Split:
        """Categories in turn as channels, each point a part of its category. x: (n, C, P)."""
        n, _, points = x.shape
        categories = len(self.parts)
        category = torch.arange(n) % categories
        one_hot = torch.eye(categories)[category]
        x[:, -categories:] = one_hot.unsqueeze(2)

        draws = torch.rand(n, points, generator=generator)
        labels = []
        for number, row in zip(category.tolist(), draws, strict=True):
            parts = torch.tensor(self.parts[number])
            places = (row * len(parts)).long()
            labels.append(parts[places])
        return x, torch.stack(labels)

    def prepare(self, x: Tensor, training: bool = False) -> Tensor:
        """The samples are as prepared."""
        return x
