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

    dimensions = len(shape)
    expected = struct.pack(f">HBB{dimensions}I", 0, 8, dimensions, *shape)
    head = len(expected)
    size = head + int(np.prod(shape))
    if data[:head] != expected or len(data) != size:
        raise ValueError(
            f"{path} is not an IDX file of shape {shape} (it has {len(data)} bytes); fetch it again"
        )
    values = np.frombuffer(data, np.uint8, offset=head).reshape(shape)
    return torch.from_numpy(values.copy())


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
            candidates += [raw / name, raw / f"{name}.gz"]
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
        x = read_idx(images, (n, 28, 28))
        labels = self._need(f"{prefix}-labels-idx1-ubyte")
        y = read_idx(labels, (n,))
        return x.unsqueeze(1), y.long()

    def read(self) -> tuple[Split, Split]:
        return self._split("train", 60_000), self._split("t10k", 10_000)
