"""Random samples in the form of another data set, without its files: smoke(of='imagenet'). For trying a pipeline, never for a result."""

import torch
from torch import Tensor

from tbn_bench import catalog
from tbn_bench.data._base import Split, TensorDataModule

SHARED = ("tasks", "num_classes", "in_shape", "parts", "class_weights", "horizon", "targets")


class Smoke(TensorDataModule):
    """n training, n // 2 validation and n // 2 test samples as the data set would give them to a model, labels at random.

    Raises ValueError for whatever the data set itself refuses, or a set that cannot be imitated.
    """

    def __init__(self, of: str, n: int = 16, batch_size: int = 8, seed: int = 0):
        super().__init__(batch_size, seed, augment=False, val_size=0)
        self.n, self.inner = n, catalog.build("data", of, batch_size=batch_size, seed=seed)
        for name in SHARED:
            if hasattr(self.inner, name):
                setattr(self, name, getattr(self.inner, name))
        self.eval_batch_size = batch_size

    def read(self) -> tuple[Split, Split, Split]:
        generator = torch.Generator().manual_seed(0)
        train, val, test = (self._samples(n, generator) for n in (self.n, self.n // 2, self.n // 2))
        return train, val, test

    def _samples(self, n: int, generator: torch.Generator) -> Split:
        """x: (n, *in_shape), y as the task of the set wants it."""
        x = torch.randn(n, *self.in_shape, generator=generator)
        if "forecasting" in self.tasks:
            return x, torch.randn(n, self.horizon, self.targets, generator=generator)
        if "part_segmentation" in self.tasks:
            return self._shapes(x, generator)
        points = self.in_shape[1:] if "semantic_segmentation" in self.tasks else ()
        return x, torch.randint(self.num_classes, (n, *points), generator=generator)

    def _shapes(self, x: Tensor, generator: torch.Generator) -> Split:
        """Categories in turn as channels, each point a part of its category. x: (n, C, P)."""
        n, categories = len(x), len(self.parts)
        x[:, -categories:] = torch.eye(categories)[torch.arange(n) % categories].unsqueeze(2)
        draws = torch.rand(n, x.shape[2], generator=generator)
        y = [
            torch.tensor(self.parts[i % categories])[(row * len(self.parts[i % categories])).long()]
            for i, row in enumerate(draws)
        ]
        return x, torch.stack(y)

    def prepare(self, x: Tensor, training: bool = False) -> Tensor:
        """The samples are as prepared."""
        return x
