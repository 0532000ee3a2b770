"""CIFAR-100 (Krizhevsky, 2009): 50,000 training (5,000 of them held out) and 10,000 test images, 32 x 32 x 3, 100 classes.

coarse=True gives the 20 superclasses instead. Reads the official binary layout (cifar-100-binary: a coarse and a fine label byte, then
3,072 image bytes) or torchvision's (cifar-100-python). Augmentation as for CIFAR-10.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tbn_bench.data._base import Split
from tbn_bench.data._cifar import CifarDataModule, records

_COARSE, _FINE = 20, 100


class CIFAR100(CifarDataModule):
    num_classes = _FINE
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    title, own_folder, torchvision_name, archive = (
        "CIFAR-100",
        "cifar100",
        "CIFAR100",
        "cifar-100-binary.tar.gz",
    )
    binary_folder, python_folder = "cifar-100-binary", "cifar-100-python"
    train_size, test_size = 50_000, 10_000

    def __init__(
        self,
        coarse: bool = False,
        crop_padding: int = 4,
        crop_border: str = "mean",
        flip: bool | str = True,
        batch_size: int = 128,
        seed: int = 0,
        split_seed: int = 0,
        augment: bool = True,
        val_size: int | None = None,
    ):
        super().__init__(
            crop_padding, crop_border, flip, batch_size, seed, split_seed, augment, val_size
        )
        if not isinstance(coarse, bool):
            raise ValueError(
                f"coarse must be True (20 superclasses) or False (100 classes), got {coarse!r}"
            )
        self.coarse, self.num_classes = coarse, _COARSE if coarse else _FINE

    def _binary(self, folder: Path) -> tuple[Split, Split]:
        return self._records(folder / "train.bin", self.train_size), self._records(
            folder / "test.bin", self.test_size
        )

    def _records(self, path: Path, n: int) -> Split:
        x, labels = records(path, n, 2, self.archive)
        if bool((labels >= torch.tensor([_COARSE, _FINE])).any()):
            raise ValueError(
                f"{path} must hold coarse labels below {_COARSE} and fine ones below {_FINE}; fetch it again"
            )
        return x, labels[:, 0 if self.coarse else 1]

    def _labels(self, dataset: Any) -> Tensor:
        """torchvision keeps the fine labels alone; the coarse ones lie in the same file, whose md5 it has just checked."""
        if not self.coarse:
            return super()._labels(dataset)
        ((name, _),) = dataset.train_list if dataset.train else dataset.test_list
        content = (Path(dataset.root) / dataset.base_folder / name).read_bytes()
        return torch.tensor(pickle.loads(content, encoding="latin1")["coarse_labels"])
