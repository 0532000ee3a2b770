"""CIFAR-10 (Krizhevsky, 2009): 50,000 training (5,000 of them held out) and 10,000 test images, 32 x 32 x 3.

Reads the official binary layout (cifar-10-batches-bin) or torchvision's (cifar-10-batches-py, whose md5 torchvision checks before it
unpickles). Augmentation as in the TBN paper: crop 32 after padding 4, horizontal flip.
"""

import warnings
from pathlib import Path

import numpy as np
import torch

from tbn_bench.data._base import ImageDataModule, Split, data_root, find, md5

_MD5 = {
    "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
_RECORD = 1 + 3 * 32 * 32


def _batch(path: Path) -> Split:
    """10,000 records of one label byte and 3,072 image bytes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"cannot read {path}: {error.strerror}; fetch cifar-10-binary.tar.gz and unpack it in {path.parent.parent}"
        ) from error
    if len(data) != 10_000 * _RECORD:
        raise ValueError(f"{path} must have {10_000 * _RECORD:,} bytes, got {len(data):,}; fetch it again")
    if md5(path) != _MD5[path.stem]:
        warnings.warn(f"{path.name} differs from the official file (md5); results may differ slightly", stacklevel=2)
    records = torch.from_numpy(np.frombuffer(data, np.uint8).reshape(10_000, _RECORD).copy())
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].long()


class CIFAR10(ImageDataModule):
    num_classes = 10
    in_shape = (3, 32, 32)
    mean, std = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
    val_size = 5_000
    crop_padding, flip = 4, True

    def read(self) -> tuple[Split, Split]:
        folder = find([root / "cifar-10-batches-bin" for root in (data_root() / "cifar10", data_root())])
        if folder is None:
            return self._torchvision()
        parts = [_batch(folder / f"data_batch_{i}.bin") for i in range(1, 6)]
        return (torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])), _batch(folder / "test_batch.bin")

    def _torchvision(self) -> tuple[Split, Split]:
        import torchvision

        root = find([r for r in (data_root() / "cifar10", data_root()) if (r / "cifar-10-batches-py").exists()])
        try:
            sets = [
                torchvision.datasets.CIFAR10(root or data_root() / "cifar10", train, download=root is None)
                for train in (True, False)
            ]
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"CIFAR-10 not found under {data_root()} and not downloadable ({' '.join(str(error).split())}). Fetch the binary version "
                f"(cifar-10-binary.tar.gz) and unpack it in {data_root() / 'cifar10'}, or set TBN_BENCH_DATA to the folder that has it"
            ) from error
        train, test = ((torch.from_numpy(s.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(s.targets)) for s in sets)
        return train, test
