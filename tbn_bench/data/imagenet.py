"""ImageNet (ILSVRC2012): 1,281,167 training (10,000 of them held out) and 50,000 test images, 1,000 classes, decoded from their files.

The official val set is the test set here, as in the literature. Layout: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG; classes are numbered
in the order of their sorted WordNet ids. Training: RandomResizedCrop (area 0.08 to 1, ratio 3/4 to 4/3) and flip, drawn from (seed,
epoch, position) alone; evaluation: the shorter side to `resize`, centre crop of `size`. A large training image is decoded at 1/2, 1/4 or
1/8 where that still covers the crop. Batches of bytes come from `workers` processes through shared memory (docker: --shm-size) and are
normalised on the device.
"""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Resampling
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tbn_bench.data._base import ImageDataModule, _Order, data_root, find
from tbn_bench.data._files import opened, rgb

AREA, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
_AGAIN = "unpack its archive again"
_SORT = "move each image into the folder of its class (the script valprep.sh of soumith/imagenetloader.torch, run in it, does that)"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def crop_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a RandomResizedCrop (Szegedy et al., 2015, as in torchvision): ten tries, else the middle."""
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    for _ in range(TRIES):
        area, ratio = width * height * rng.uniform(*AREA), math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def random_crop(path: Path, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random crop of the file, perhaps mirrored: (size, size, 3) uint8."""
    with opened(path, _AGAIN) as image:
        width, height = image.size
        box = crop_box(width, height, rng)
        wanted = (
            math.ceil(width * size / (box[2] - box[0])),
            math.ceil(height * size / (box[3] - box[1])),
        )
        reduced = image.draft("RGB", wanted)  # None unless it is a JPEG
        factor = width / reduced[1][2] if reduced else 1
        pixels = np.asarray(
            rgb(image).resize(
                (size, size), Resampling.BILINEAR, tuple(side / factor for side in box)
            )
        )
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def centre_crop(path: Path, size: int, resize: int) -> np.ndarray:
    """The middle of the file after its shorter side was made `resize` long, as torchvision does it: (size, size, 3) uint8."""
    with opened(path, _AGAIN) as image:
        short = min(image.size)
        width, height = (resize * side // short for side in image.size)
        scaled = rgb(image).resize((width, height), Resampling.BILINEAR)
        left, top = round((width - size) / 2), round((height - size) / 2)
        return np.asarray(scaled.crop((left, top, left + size, top + size)))


def _batch(images: list[np.ndarray]) -> Tensor:
    """(B, 3, H, W) of B times (H, W, 3)."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))


class Files:
    """Images on disk in place of a tensor (N, 3, size, size): indexing decodes, cropped in the middle, uint8."""

    def __init__(self, folder: Path, names: np.ndarray, size: int, resize: int):
        self.folder, self.names, self.size, self.resize = folder, names, size, resize

    def __len__(self) -> int:
        return len(self.names)

    def take(self, positions: Tensor) -> "Files":
        """Those files alone, undecoded. positions: (M,)."""
        return Files(self.folder, self.names[positions.numpy()], self.size, self.resize)

    def path(self, position: int) -> Path:
        return self.folder / os.fsdecode(self.names[position])

    def centre(self, position: int) -> np.ndarray:
        return centre_crop(self.path(position), self.size, self.resize)

    def random(self, position: int, rng: np.random.Generator) -> np.ndarray:
        return random_crop(self.path(position), self.size, rng)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        with ThreadPoolExecutor(_cores()) as pool:
            return _batch(list(pool.map(self.centre, np.arange(len(self))[index])))


class _Batches(Dataset):
    """Indexed by (epoch, list of positions): the epoch travels with the positions, since workers keep their copy of this for good."""

    def __init__(self, files: Files, labels: Tensor, seed: int | None):
        self.files, self.labels, self.seed = files, labels, seed

    def __len__(self) -> int:
        return len(self.labels)

    def _image(self, epoch: int, position: int) -> np.ndarray:
        if self.seed is None:
            return self.files.centre(position)
        return self.files.random(position, np.random.default_rng([self.seed, epoch, position]))

    def __getitem__(self, index: tuple[int, list[int]]) -> tuple[Tensor, Tensor]:
        epoch, positions = index
        return _batch([self._image(epoch, position) for position in positions]), self.labels[
            positions
        ]


class _EpochOrder(_Order):
    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        return ((self.epoch, positions) for positions in super().__iter__())


class _Loader(DataLoader):
    """Starts when its first batch is asked for: on resuming, Lightning calls iter() before it tells the sampler the epoch."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from super().__iter__()


def _listing(folder: Path, classes: int, images: int) -> tuple[list[str], np.ndarray, Tensor]:
    """(class folders, files (N,) as bytes, classes (N,)), sorted. Raises ValueError unless there are just that many."""
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is missing; it must hold {images:,} .JPEG images in {classes:,} folders, one for each class"
        )
    with os.scandir(folder) as entries:
        there = sorted((entry.name, entry.is_dir()) for entry in entries)
    wnids = [name for name, is_dir in there if is_dir and not name.startswith(".")]
    if not wnids and any(name.endswith(".JPEG") for name, _ in there):
        raise ValueError(
            f"{folder} is flat, its images must lie in {classes:,} folders, one for each class: {_SORT}"
        )
    found = [
        sorted(n for n in os.listdir(folder / w) if n.endswith(".JPEG") and not n.startswith("."))
        for w in wnids
    ]
    counts = [len(names) for names in found]
    if len(wnids) != classes or sum(counts) != images:
        least = (
            f", the fewest ({min(counts)}) in {wnids[counts.index(min(counts))]}" if counts else ""
        )
        raise ValueError(
            f"{folder} must hold {images:,} .JPEG images in {classes:,} folders, got {sum(counts):,} in {len(wnids):,}{least}; {_AGAIN}"
        )
    # one array: a list of a million strings would be copied page by page into every worker
    names = np.array(
        [
            os.fsencode(f"{wnid}/{name}")
            for wnid, part in zip(wnids, found, strict=True)
            for name in part
        ]
    )
    return wnids, names, torch.repeat_interleave(torch.arange(classes), torch.tensor(counts))


class ImageNet(ImageDataModule):
    num_classes = 1_000
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    val_size = 10_000
    eval_batch_size = 128
    train_size, test_size = 1_281_167, 50_000

    def __init__(
        self,
        size: int = 224,
        resize: int | None = None,
        workers: int | None = None,
        batch_size: int = 256,
        seed: int = 0,
        split_seed: int = 0,
        augment: bool = True,
        val_size: int | None = None,
    ):
        super().__init__(batch_size, seed, split_seed, augment, val_size)
        resize = round(size * 256 / 224) if resize is None else resize
        workers = _cores() if workers is None else workers
        if (
            not all(isinstance(v, int) for v in (size, resize, workers))
            or size < 1
            or resize < size
            or workers < 0
        ):
            raise ValueError(
                f"size must be 1 or more, resize at least size, workers 0 or more, whole numbers; got {size!r}, {resize!r}, {workers!r}"
            )
        self.resize, self.workers = resize, workers
        self.in_shape = (3, size, size)

    def read(self) -> tuple[tuple[Files, Tensor], ...]:
        """(train, val, test), with `Files` in place of images."""
        folder = find(
            [data_root() / name for name in ("imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC")]
        )
        if folder is None:
            place = data_root() / "imagenet"
            raise ValueError(
                f"imagenet: not found under {data_root()}. Fetch ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (image-net.org, after "
                f"registration) and unpack them in {place} as train/<wnid>/*.JPEG and val/<wnid>/*.JPEG, or set TBN_BENCH_DATA to the "
                "folder that has `imagenet`"
            )
        (wnids, names, y), (others, test_names, test_y) = (
            _listing(folder / part, self.num_classes, n)
            for part, n in (("train", self.train_size), ("val", self.test_size))
        )
        if wnids != others:
            odd = min(set(wnids) ^ set(others))
            raise ValueError(
                f"{folder}: train and val must have folders of the same names, {odd} is in one alone; unpack both again"
            )
        size, resize = self.in_shape[1], self.resize
        train, held = self.held_out(len(y))
        x, test = (
            Files(folder / "train", names, size, resize),
            Files(folder / "val", test_names, size, resize),
        )
        return (x.take(train), y[train]), (x.take(held), y[held]), (test, test_y)

    def _loader(self, split: str, batch_size: int, seed: int | None) -> DataLoader:
        files, labels = self.splits[split]
        return _Loader(
            _Batches(files, labels, seed if self.augment else None),
            batch_size=None,
            sampler=_EpochOrder(self.size(split), batch_size, seed),
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )
