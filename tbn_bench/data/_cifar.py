"""The parts that the CIFAR sets (Krizhevsky, 2009) share: their two layouts and the augmentation.

The layouts are the official binary records and torchvision's. torchvision checks the md5 of its
files before it unpickles them. Augmentation: crop 32 after padding 4, and flip. The TBN authors pad
with black (crop_border="black"); the default here is the mean colour.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tbn_bench.data._base import Split
from tbn_bench.data._images import ImageDataModule
from tbn_bench.data._root import data_root

_PIXELS = 3 * 32 * 32
BORDERS = ("mean", "black", "reflect")


def records(path: Path, n: int, label_bytes: int, archive: str) -> tuple[Tensor, Tensor]:
    """n records of label bytes and 3,072 image bytes.

    x: (n, 3, 32, 32) uint8, labels: (n, label_bytes) int64.

    Raises ValueError naming a file that cannot be read or is of another size.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"cannot read {path}: {error.strerror}; "
            f"fetch {archive} and unpack it in {path.parent.parent}"
        ) from error
    length = label_bytes + _PIXELS
    size = n * length
    if len(data) != size:
        raise ValueError(f"{path} must have {size:,} bytes, got {len(data):,}; fetch it again")
    values = np.frombuffer(data, np.uint8)
    rows = torch.from_numpy(values.copy()).reshape(n, length)
    labels = rows[:, :label_bytes]
    pixels = rows[:, label_bytes:]
    x = pixels.reshape(-1, 3, 32, 32)
    return x, labels.long()


class CifarDataModule(ImageDataModule):
    """crop_padding: training images are shifted by at most this many pixels.

    crop_border: the pixels beyond the image: "mean" (the mean colour), "black" (as the TBN paper
    and torchvision pad), or "reflect". flip: True mirrors a random half in each epoch,
    "alternating" a random half in even epochs and the other half in odd ones.

    Subclasses give `_binary()`, the names below, num_classes, mean and std. The files are in
    <root>/<own_folder> or in <root>.
    """

    in_shape = (3, 32, 32)
    val_size = 5_000
    crop_padding = 4
    flip = True
    title: str
    own_folder: str
    binary_folder: str
    python_folder: str
    archive: str
    torchvision_name: str

    def __init__(
        self,
        crop_padding: int = 4,
        crop_border: str = "mean",
        flip: bool | str = True,
        batch_size: int = 128,
        seed: int = 0,
        split_seed: int = 0,
        augment: bool = True,
        val_size: int | None = None,
    ):
        super().__init__(batch_size, seed, split_seed, augment, val_size)
        whole = isinstance(crop_padding, int) and not isinstance(crop_padding, bool)
        if not whole or not 0 <= crop_padding < 32:
            raise ValueError(
                f"crop_padding counts pixels, a whole number from 0 to 31, got {crop_padding!r}"
            )
        if crop_border not in BORDERS:
            known = ", ".join(map(repr, BORDERS))
            raise ValueError(f"crop_border must be one of {known}, got {crop_border!r}")
        if flip not in (True, False, "alternating"):
            raise ValueError(f"flip must be True, False or 'alternating', got {flip!r}")
        self.crop_padding = crop_padding
        self.crop_border = crop_border
        self.flip = flip

    def _binary(self, folder: Path) -> tuple[Split, Split]:
        raise NotImplementedError  # abstract

    def _labels(self, dataset: Any) -> Tensor:
        """(N,) of one of torchvision's splits."""
        return torch.tensor(dataset.targets)

    def _root_with(self, folder: str) -> Path | None:
        for root in (data_root() / self.own_folder, data_root()):
            if (root / folder).exists():
                return root
        return None

    def read(self) -> tuple[Split, Split]:
        root = self._root_with(self.binary_folder)
        if root is None:
            return self._torchvision()
        return self._binary(root / self.binary_folder)

    def _torchvision(self) -> tuple[Split, Split]:
        import torchvision

        kind = getattr(torchvision.datasets, self.torchvision_name)
        found = self._root_with(self.python_folder)
        root = found or data_root() / self.own_folder
        download = found is None
        try:
            train = kind(root, train=True, download=download)
            test = kind(root, train=False, download=download)
        except (OSError, RuntimeError) as error:
            why = " ".join(str(error).split())
            raise ValueError(
                f"{self.title} not found under {data_root()} and not downloadable ({why}). "
                f"Fetch the binary version ({self.archive}) and unpack it in "
                f"{data_root() / self.own_folder}, or set TBN_BENCH_DATA to the folder that has it"
            ) from error
        return self._arrays(train), self._arrays(test)

    def _arrays(self, dataset: Any) -> Split:
        """(x, y) of one of torchvision's splits."""
        pixels = torch.from_numpy(dataset.data)
        x = pixels.permute(0, 3, 1, 2)
        y = self._labels(dataset)
        return x.contiguous(), y
