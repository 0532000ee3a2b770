"""CIFAR-100 (Krizhevsky, 2009).

50,000 training images (5,000 of them held out) and 10,000 test images, 32 x 32 x 3, 100 classes.
coarse=True gives the 20 superclasses instead. Reads the official binary layout (cifar-100-binary: a
coarse and a fine label byte, then 3,072 image bytes) or torchvision's (cifar-100-python). The
augmentation is CIFAR-10's.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tbn_bench.data._base import Split
from tbn_bench.data._cifar import CifarDataModule, records

_COARSE = 20
_FINE = 100


class CIFAR100(CifarDataModule):
    num_classes = _FINE
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
    title = "CIFAR-100"
    own_folder = "cifar100"
    torchvision_name = "CIFAR100"
    archive = "cifar-100-binary.tar.gz"
    binary_folder = "cifar-100-binary"
    python_folder = "cifar-100-python"
    train_size = 50_000
    test_size = 10_000

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
        self.coarse = coarse
        self.num_classes = _COARSE if coarse else _FINE

    def _binary(self, folder: Path) -> tuple[Split, Split]:
        train_file = folder / "train.bin"
        test_file = folder / "test.bin"
        train = self._records(train_file, self.train_size)
        test = self._records(test_file, self.test_size)
        return train, test

    def _records(self, path: Path, n: int) -> Split:
        x, labels = records(path, n, 2, self.archive)
        classes = torch.tensor([_COARSE, _FINE])
        beyond = labels >= classes
        if bool(beyond.any()):
            raise ValueError(
                f"{path} must hold coarse labels below {_COARSE} and fine ones below {_FINE}; "
                "fetch it again"
            )
        coarse, fine = labels.unbind(1)
        if self.coarse:
            return x, coarse
        return x, fine

    def _labels(self, dataset: Any) -> Tensor:
        """torchvision keeps only the fine labels.

        The coarse ones are in the same file, and torchvision has just checked its md5.
        """
        if not self.coarse:
            return super()._labels(dataset)
        ((name, _),) = dataset.train_list if dataset.train else dataset.test_list
        path = Path(dataset.root) / dataset.base_folder / name
        content = pickle.loads(path.read_bytes(), encoding="latin1")
        return torch.tensor(content["coarse_labels"])
