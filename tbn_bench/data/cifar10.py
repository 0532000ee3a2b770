"""CIFAR-10 (Krizhevsky, 2009).

50,000 training images (5,000 of them held out) and 10,000 test images, 32 x 32 x 3.
Reads the official binary layout (cifar-10-batches-bin) or torchvision's (cifar-10-batches-py).
"""

import warnings
from pathlib import Path

import torch

from tbn_bench.data._base import Split
from tbn_bench.data._cifar import CifarDataModule, records
from tbn_bench.data._root import md5

_MD5 = {
    "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
_ARCHIVE = "cifar-10-binary.tar.gz"


def _batch(path: Path) -> Split:
    """10,000 records of one label byte and 3,072 image bytes."""
    x, labels = records(path, 10_000, 1, _ARCHIVE)
    if md5(path) != _MD5[path.stem]:
        warnings.warn(
            f"{path.name} differs from the official file (md5); results may differ slightly",
            stacklevel=2,
        )
    return x, labels[:, 0]


class CIFAR10(CifarDataModule):
    num_classes = 10
    class_names = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    mean = (0.491, 0.482, 0.447)
    std = (0.247, 0.243, 0.262)
    title = "CIFAR-10"
    own_folder = "cifar10"
    torchvision_name = "CIFAR10"
    archive = _ARCHIVE
    binary_folder = "cifar-10-batches-bin"
    python_folder = "cifar-10-batches-py"

    def _binary(self, folder: Path) -> tuple[Split, Split]:
        images = []
        labels = []
        for i in range(1, 6):
            x, y = _batch(folder / f"data_batch_{i}.bin")
            images.append(x)
            labels.append(y)
        train = (torch.cat(images), torch.cat(labels))
        return train, _batch(folder / "test_batch.bin")
