"""ImageNet (ILSVRC2012), decoded from its files.

1,281,167 training images (10,000 of them held out) and 50,000 test images, 1,000 classes. The
official val set is the test set here, as in the literature. Layout: train/<wnid>/*.JPEG and
val/<wnid>/*.JPEG. Classes are numbered in the order of their sorted WordNet ids.

Training: RandomResizedCrop (area 0.08 to 1, ratio 3/4 to 4/3) and flip, drawn from (seed, epoch,
position) alone. Evaluation: the shorter side to `resize`, then a centre crop of `size`. A large
training image is decoded at 1/2, 1/4 or 1/8 where that still covers the crop. Batches of bytes come
from `workers` processes through shared memory (docker: --shm-size). The device normalises them.
"""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tbn_bench.data._files import opened, resized
from tbn_bench.data._images import ImageDataModule
from tbn_bench.data._order import Order
from tbn_bench.data._root import data_root, find

AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
TRIES = 10
_AGAIN = "unpack its archive again"
_SORT = (
    "move each image into the folder of its class "
    "(the script valprep.sh of soumith/imagenetloader.torch, run in it, does that)"
)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def crop_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a RandomResizedCrop (Szegedy et al., 2015, as in torchvision).

    After ten tries that do not fit, it is the middle of the image.
    """
    least, most = RATIO
    for _ in range(TRIES):
        share = rng.uniform(*AREA)
        area = width * height * share
        log_ratio = rng.uniform(math.log(least), math.log(most))
        ratio = math.exp(log_ratio)
        w = round(math.sqrt(area * ratio))
        h = round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(width - w + 1))
            top = int(rng.integers(height - h + 1))
            return left, top, left + w, top + h

    w = min(width, round(height * most))
    h = min(height, round(width / least))
    left = (width - w) // 2
    top = (height - h) // 2
    return left, top, left + w, top + h


def random_crop(path: Path, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random crop of the file, perhaps mirrored: (size, size, 3) uint8."""
    with opened(path, _AGAIN) as image:
        width, height = image.size
        box = crop_box(width, height, rng)
        left, top, right, bottom = box
        wanted_width = math.ceil(width * size / (right - left))
        wanted_height = math.ceil(height * size / (bottom - top))
        factor = 1
        # None unless it is a JPEG
        reduced = image.draft("RGB", (wanted_width, wanted_height))
        if reduced:
            _, (_, _, reduced_width, _) = reduced
            factor = width / reduced_width
        reduced_box = tuple(side / factor for side in box)
        crop = resized(image, (size, size), reduced_box)
        pixels = np.asarray(crop)
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def centre_crop(path: Path, size: int, resize: int) -> np.ndarray:
    """The middle of the file, as torchvision makes it: (size, size, 3) uint8.

    The image is first scaled so that its shorter side is `resize` pixels long.
    """
    with opened(path, _AGAIN) as image:
        short = min(image.size)
        width, height = (resize * side // short for side in image.size)
        scaled = resized(image, (width, height))
        left = round((width - size) / 2)
        top = round((height - size) / 2)
        right = left + size
        bottom = top + size
        crop = scaled.crop((left, top, right, bottom))
        return np.asarray(crop)


def _batch(images: list[np.ndarray]) -> Tensor:
    """(B, 3, H, W) of B times (H, W, 3)."""
    stacked = np.stack(images)
    channels_first = stacked.transpose(0, 3, 1, 2)
    copied = np.ascontiguousarray(channels_first)
    return torch.from_numpy(copied)


class Files:
    """Images on disk instead of a tensor (N, 3, size, size) uint8.

    Indexing decodes them and crops them in the middle.
    """

    def __init__(self, folder: Path, names: np.ndarray, size: int, resize: int):
        self.folder = folder
        self.names = names
        self.size = size
        self.resize = resize

    def __len__(self) -> int:
        return len(self.names)

    def take(self, positions: Tensor) -> "Files":
        """Only those files, undecoded. positions: (M,)."""
        chosen = positions.numpy()
        names = self.names[chosen]
        return Files(self.folder, names, self.size, self.resize)

    def path(self, position: int) -> Path:
        stored = self.names[position]
        name = os.fsdecode(stored)
        return self.folder / name

    def centre(self, position: int) -> np.ndarray:
        path = self.path(position)
        return centre_crop(path, self.size, self.resize)

    def random(self, position: int, rng: np.random.Generator) -> np.ndarray:
        path = self.path(position)
        return random_crop(path, self.size, rng)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        everything = np.arange(len(self))
        positions = everything[index]
        with ThreadPoolExecutor(_cores()) as pool:
            crops = pool.map(self.centre, positions)
            images = list(crops)
        return _batch(images)


class _Batches(Dataset):
    """Indexed by (epoch, list of positions).

    The positions carry the epoch, because workers keep their copy of this object for good.
    """

    def __init__(self, files: Files, labels: Tensor, seed: int | None):
        self.files = files
        self.labels = labels
        self.seed = seed

    def __len__(self) -> int:
        return len(self.labels)

    def _image(self, epoch: int, position: int) -> np.ndarray:
        if self.seed is None:
            return self.files.centre(position)
        rng = np.random.default_rng([self.seed, epoch, position])
        return self.files.random(position, rng)

    def __getitem__(self, index: tuple[int, list[int]]) -> tuple[Tensor, Tensor]:
        epoch, positions = index
        images = [self._image(epoch, position) for position in positions]
        x = _batch(images)
        y = self.labels[positions]
        return x, y


class _EpochOrder(Order):
    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        for positions in super().__iter__():
            yield self.epoch, positions


class _Loader(DataLoader):
    """Starts when its first batch is asked for.

    On resuming, Lightning calls iter() before it tells the sampler the epoch.
    """

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from super().__iter__()


def _class_folders(folder: Path, classes: int) -> list[str]:
    """Sorted. Raises ValueError where the images are not in folders."""
    with os.scandir(folder) as entries:
        there = sorted((entry.name, entry.is_dir()) for entry in entries)
    wnids = [name for name, is_dir in there if is_dir and not name.startswith(".")]
    if not wnids and any(name.endswith(".JPEG") for name, _ in there):
        raise ValueError(
            f"{folder} is flat, its images must lie in {classes:,} folders, "
            f"one for each class: {_SORT}"
        )
    return wnids


def _is_image(name: str) -> bool:
    is_hidden = name.startswith(".")
    return name.endswith(".JPEG") and not is_hidden


def _listing(folder: Path, classes: int, images: int) -> tuple[list[str], np.ndarray, Tensor]:
    """(class folders, files (N,) as bytes, classes (N,)), sorted.

    Raises ValueError unless there are exactly that many.
    """
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is missing; it must hold {images:,} .JPEG images in {classes:,} folders, "
            "one for each class"
        )
    wnids = _class_folders(folder, classes)
    files: list[bytes] = []
    counts = []
    for wnid in wnids:
        names = sorted(filter(_is_image, os.listdir(folder / wnid)))
        files += [os.fsencode(f"{wnid}/{name}") for name in names]
        counts.append(len(names))

    if len(wnids) != classes or len(files) != images:
        least = ""
        if counts:
            fewest = min(counts)
            least = f", the fewest ({fewest}) in {wnids[counts.index(fewest)]}"
        raise ValueError(
            f"{folder} must hold {images:,} .JPEG images in {classes:,} folders, "
            f"got {len(files):,} in {len(wnids):,}{least}; {_AGAIN}"
        )
    labels = torch.repeat_interleave(torch.arange(classes), torch.tensor(counts))
    # one array: a list of a million strings would be copied page by page into every worker
    return wnids, np.array(files), labels


class ImageNet(ImageDataModule):
    num_classes = 1_000
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    val_size = 10_000
    eval_batch_size = 128
    train_size = 1_281_167
    test_size = 50_000

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
        whole = all(isinstance(value, int) for value in (size, resize, workers))
        if not whole or size < 1 or resize < size or workers < 0:
            raise ValueError(
                "size must be 1 or more, resize at least size, workers 0 or more, whole numbers; "
                f"got {size!r}, {resize!r}, {workers!r}"
            )
        self.resize = resize
        self.workers = workers
        self.in_shape = (3, size, size)

    def read(self) -> tuple[tuple[Files, Tensor], ...]:
        """(train, val, test), with `Files` instead of images."""
        folder = self._folder()
        wnids, names, y = _listing(folder / "train", self.num_classes, self.train_size)
        others, test_names, test_y = _listing(folder / "val", self.num_classes, self.test_size)
        if wnids != others:
            odd = min(set(wnids) ^ set(others))
            raise ValueError(
                f"{folder}: train and val must have folders of the same names, "
                f"{odd} is in one alone; unpack both again"
            )
        size = self.in_shape[1]
        x = Files(folder / "train", names, size, self.resize)
        test = Files(folder / "val", test_names, size, self.resize)
        learned, held = self.held_out(len(y))
        train = (x.take(learned), y[learned])
        val = (x.take(held), y[held])
        return train, val, (test, test_y)

    def _folder(self) -> Path:
        places = ("imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC")
        folder = find([data_root() / name for name in places])
        if folder is None:
            raise ValueError(
                f"imagenet: not found under {data_root()}. Fetch ILSVRC2012_img_train.tar "
                "and ILSVRC2012_img_val.tar (image-net.org, after registration) "
                f"and unpack them in {data_root() / 'imagenet'} as train/<wnid>/*.JPEG "
                "and val/<wnid>/*.JPEG, or set TBN_BENCH_DATA to the folder that has `imagenet`"
            )
        return folder

    def _loader(self, split: str, batch_size: int, seed: int | None) -> DataLoader:
        files, labels = self.splits[split]
        crop_seed = seed if self.augment else None
        order = _EpochOrder(self.size(split), batch_size, seed)
        return _Loader(
            _Batches(files, labels, crop_seed),
            batch_size=None,
            sampler=order,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )
