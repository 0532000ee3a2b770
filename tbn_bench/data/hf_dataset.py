"""Labelled images of a Hugging Face data set: hf_dataset(name='mnist', in_shape=[1, 28, 28], ...).

It needs the package `datasets`, which this package does not install.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Resampling
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from tbn_bench.data._given import Source
from tbn_bench.data._named import NamedData

_MODES = {1: "L", 3: "RGB"}


class _Images(Dataset):
    """Rows of a split as (x: (C, H, W) float32, normalised; label)."""

    def __init__(self, rows: Any, owner: "HfDataset"):
        self.rows = rows
        self.columns = (owner.image, owner.label)
        self.in_shape = owner.in_shape
        mean = torch.tensor(owner.mean)
        std = torch.tensor(owner.std)
        self.mean = mean.reshape(-1, 1, 1)
        self.std = std.reshape(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        row = self.rows[position]
        image, label = self.columns
        x = self._pixels(row[image])
        normalised = (x - self.mean) / self.std
        return normalised, int(row[label])

    def _pixels(self, image: Any) -> Tensor:
        """(C, H, W), from 0 to 1."""
        channels, height, width = self.in_shape
        mode = _MODES[channels]
        own = image.convert(mode)
        size = (width, height)
        scaled = own.resize(size, Resampling.BILINEAR)
        values = np.asarray(scaled, dtype=np.float32)
        tensor = torch.from_numpy(values / 255)
        pixels = tensor.reshape(height, width, channels)
        return pixels.permute(2, 0, 1)


class HfDataset(NamedData):
    """name, config: as datasets.load_dataset takes them, so a local folder is a name, too.

    in_shape: images are scaled to it.

    image, label: columns. train_split, test_split: names of splits. mean, std: of pixels in 0 to 1,
    one for each channel. val_size training samples (a tenth) are held out by split_seed.
    Raises ValueError, when it is read, without the package, the data or a column.
    """

    def __init__(
        self,
        name: str,
        in_shape: Sequence[int],
        num_classes: int,
        config: str | None = None,
        image: str = "image",
        label: str = "label",
        train_split: str = "train",
        test_split: str = "test",
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
        workers: int = 0,
        batch_size: int = 128,
        seed: int = 0,
        split_seed: int = 0,
        val_size: int | None = None,
    ):
        super().__init__(in_shape, num_classes, batch_size, seed, val_size, split_seed)
        if len(in_shape) != 3 or in_shape[0] not in _MODES:
            raise ValueError(f"in_shape must be [1 or 3, height, width], got {list(in_shape)}")
        if train_split == test_split:
            raise ValueError(f"train_split and test_split are both {test_split!r}; name two splits")
        self.name = name
        self.config = config
        self.image = image
        self.label = label
        self.split_names = (train_split, test_split)
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.workers = workers

    def named_source(self) -> Source:
        train_split, test_split = self.split_names
        train = self._split(train_split)
        test = self._split(test_split)
        return Source(train, test, None, default_collate, self.workers)

    def _split(self, split: str) -> _Images:
        try:
            import datasets
        except ImportError as error:
            raise ValueError(
                "hf_dataset needs the package datasets: pip install datasets"
            ) from error
        try:
            rows = datasets.load_dataset(self.name, self.config, split=split)
        except Exception as error:
            said = " ".join(str(error).split())[:300]
            raise ValueError(
                f"hf_dataset: split {split!r} of {self.name!r} cannot be loaded "
                f"({type(error).__name__}: {said}); name other splits by train_split= and "
                "test_split=; without a network the data must be in a local folder or in the cache"
            ) from error
        missing = {self.image, self.label} - set(rows.column_names)
        if missing:
            raise ValueError(
                f"hf_dataset: {self.name!r} has no column {', '.join(sorted(missing))}; it has "
                f"{', '.join(rows.column_names)}; name them by image= and label="
            )
        return _Images(rows, self)
