"""A data set as Lightning's trainer takes it."""

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader


def for_trainer(data: Any) -> pl.LightningDataModule:
    """A data set as Trainer takes it; one that is Lightning's already stays as it is."""
    if isinstance(data, pl.LightningDataModule):
        return data
    return LightningData(data)


class LightningData(pl.LightningDataModule):
    """Loaders and preparation of a data set (data/_base.py), under Lightning's names."""

    def __init__(self, data: Any):
        super().__init__()
        self.data = data

    def setup(self, stage: str | None = None) -> None:
        self.data.setup()

    def train_dataloader(self) -> DataLoader[Any]:
        loader: DataLoader[Any] = self.data.train_dataloader()
        return loader

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """The held-out samples; no loader where the data set holds none out."""
        loaders: DataLoader[Any] | list[DataLoader[Any]] = self.data.val_dataloader()
        return loaders

    def test_dataloader(self) -> DataLoader[Any]:
        loader: DataLoader[Any] = self.data.test_dataloader()
        return loader

    def on_after_batch_transfer(self, batch: tuple[Tensor, ...], dataloader_idx: int) -> Any:
        epoch = None
        if self.trainer is not None and self.trainer.training:
            epoch = self.trainer.current_epoch
        return self.data.prepared(batch, epoch)

    def fixed_batches(self) -> Iterator[Tensor]:
        """The training samples for the statistics of batch norm: (B, *in_shape) each."""
        batches: Iterator[Tensor] = self.data.fixed_batches()
        return batches
