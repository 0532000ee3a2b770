"""Image sets in IDX files: MNIST and its look-alikes."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tbn_bench.data._base import Split
from tbn_bench.data._images import ImageDataModule
from tbn_bench.data._root import data_root, find


def read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """An IDX file of unsigned bytes (yann.lecun.com/exdb/mnist), plain or .gz.

    Raises ValueError unless it has exactly `shape`.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is unreadable or truncated ({error}); fetch it again") from error

    head = _idx_head(shape)
    size = len(head) + int(np.prod(shape))
    if not data.startswith(head) or len(data) != size:
        raise ValueError(
            f"{path} is not an IDX file of shape {shape} (it has {len(data)} bytes); fetch it again"
        )
    values = np.frombuffer(data, np.uint8, offset=len(head))
    array = values.reshape(shape).copy()
    return torch.from_numpy(array)


def _idx_head(shape: tuple[int, ...]) -> bytes:
    """The first bytes of an IDX file of unsigned bytes (type 8) of this shape."""
    dimensions = len(shape)
    layout = f">HBB{dimensions}I"
    return struct.pack(layout, 0, 8, dimensions, *shape)


class IdxImages(ImageDataModule):
    """MNIST and its look-alikes: four IDX files, plain or .gz.

    They are under <root>/<folder>/<NAME>/raw or <root>/<NAME>/raw.

    normalise=False leaves pixels in 0 to 1, as a microcontroller gets them.
    crop_padding: training images are shifted by at most this many pixels.
    """

    num_classes = 10
    in_shape = (1, 28, 28)
    val_size = 5_000
    folder: str
    torchvision_name: str

    def __init__(
        self,
        normalise: bool = True,
        crop_padding: int = 0,
        batch_size: int = 128,
        seed: int = 0,
        split_seed: int = 0,
        val_size: int | None = None,
    ):
        super().__init__(batch_size, seed, split_seed, val_size=val_size)
        self.crop_padding = crop_padding
        if not normalise:
            self.mean = (0.0,)
            self.std = (1.0,)

    def _file(self, name: str) -> Path | None:
        candidates = []
        for root in (data_root() / self.folder, data_root()):
            raw = root / self.torchvision_name / "raw"
            plain = raw / name
            packed = raw / f"{name}.gz"
            candidates += [plain, packed]
        return find(candidates)

    def _need(self, name: str) -> Path:
        path = self._file(name)
        if path is None:
            self._download(name)
            path = self._file(name)
        if path is None:
            raise ValueError(self._missing(name))
        return path

    def _missing(self, name: str) -> str:
        title = self.torchvision_name
        place = data_root() / self.folder / title / "raw"
        return (
            f"{title}: {name}.gz not found under {data_root()}. "
            f"Fetch {name}.gz and the other three files of {title} "
            f"(torchvision.datasets.{title} lists the addresses) and put them in {place}, "
            "or set TBN_BENCH_DATA to the folder that has them"
        )

    def _download(self, name: str) -> None:
        import torchvision

        kind = getattr(torchvision.datasets, self.torchvision_name)
        try:
            kind(data_root() / self.folder, download=True)
        except (OSError, RuntimeError) as error:
            why = " ".join(str(error).split())
            raise ValueError(f"{self._missing(name)} (download failed: {why})") from error

    def _split(self, prefix: str, n: int) -> Split:
        images = self._need(f"{prefix}-images-idx3-ubyte")
        pixels = read_idx(images, (n, 28, 28))
        x = pixels.unsqueeze(1)
        labels = self._need(f"{prefix}-labels-idx1-ubyte")
        y = read_idx(labels, (n,))
        return x, y.long()

    def read(self) -> tuple[Split, Split]:
        train = self._split("train", 60_000)
        test = self._split("t10k", 10_000)
        return train, test
