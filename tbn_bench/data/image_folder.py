"""Your own images in folders: image_folder(path='photos', size=64). Decoded during training.

PATH/CLASS/*.png, or PATH/train/CLASS/* and PATH/test/CLASS/* (also PATH/val). Without PATH/test a
fifth of the images is the test set; without PATH/val a tenth of the others is held out; both by
split_seed. A training image is a random crop, perhaps mirrored; all others are cropped in the
middle, as in imagenet.py.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor

from tbn_bench.data._files import opened, rgb
from tbn_bench.data._given import HELD_OUT
from tbn_bench.data._order import seeded
from tbn_bench.data._root import data_root, find
from tbn_bench.data.imagenet import Files, ImageNet
from tbn_bench.models.from_timm import preprocessing

ENDINGS = (".png", ".jpg", ".jpeg")
MEASURED = 1_000  # training images, for mean and std
LOOKED_AT = 5_000  # images of a split whose headers are read
_TEST_SHARE = 0.2
USUAL_SIZE = 64
_LAYOUT = "expected PATH/CLASS/*.png or PATH/train/CLASS/*.png with at least two classes"

Split = tuple[Files, Tensor]


@dataclass(frozen=True)
class Form:
    """How images become samples. filter: PIL's, for images that are cropped in the middle."""

    size: int
    resize: int
    channels: int
    filter: Resampling


class FolderFiles(Files):
    """Images on disk, (N, channels, size, size) uint8 when indexed."""

    def __init__(self, folder: Path, names: np.ndarray, form: "Form"):
        super().__init__(folder, names, form.size, form.resize)
        self.form = form
        self.channels = form.channels

    def take(self, positions: Tensor) -> "FolderFiles":
        numbers = positions.numpy()
        chosen = self.names[numbers]
        return FolderFiles(self.folder, chosen, self.form)

    def centre(self, position: int) -> np.ndarray:
        """The middle of the image, (size, size, channels), after its shorter side is `resize`."""
        path = self.path(position)
        with opened(path, "replace it or remove it") as image:
            crop = self._middle(image)
        pixels = np.asarray(crop)
        return pixels[..., : self.channels]

    def _middle(self, image: Image.Image) -> Image.Image:
        size = self.size
        width, height = image.size
        shorter = min(width, height)
        new_width = self.resize * width // shorter
        new_height = self.resize * height // shorter
        coloured = rgb(image)
        scaled = coloured.resize((new_width, new_height), self.form.filter)
        left = (new_width - size) // 2
        top = (new_height - size) // 2
        right = left + size
        bottom = top + size
        return scaled.crop((left, top, right, bottom))

    def random(self, position: int, rng: np.random.Generator) -> np.ndarray:
        pixels = super().random(position, rng)
        return pixels[..., : self.channels]


class ImageFolder(ImageNet):
    """timm: a model of timm whose own size, mean, std and interpolation are used.

    size: side of the images (64). resize: of their shorter side before a crop in the middle.

    mean, std: of pixels in 0 to 1, one for each channel; by default those of the training images.
    val_size, test_size: numbers of images, where folders do not say. workers: processes that
    decode.

    Raises ValueError for a folder that is missing or has other contents, and, when it is read, for
    an image that cannot be decoded or has other channels than the first one.
    """

    eval_batch_size = 128

    def __init__(
        self,
        path: str,
        size: int | None = None,
        resize: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        timm: str | None = None,
        test_size: int | None = None,
        workers: int | None = None,
        batch_size: int = 128,
        seed: int = 0,
        split_seed: int = 0,
        augment: bool = True,
        val_size: int | None = None,
    ):
        own: dict[str, Any] = {"interpolation": "bilinear"}
        if timm is not None:
            own = preprocessing(timm)
        size = own.get("size", USUAL_SIZE) if size is None else size
        if resize is None and size == own.get("size"):
            resize = own["resize"]
        if mean is None and std is None:
            mean = own.get("mean")
            std = own.get("std")
        super().__init__(size, resize, workers, batch_size, seed, split_seed, augment, val_size)
        self.asked_val_size = val_size
        self.test_size = test_size  # type: ignore[assignment]
        self.folder = _existing(path)
        train = self.folder / "train"
        self.train_folder = train if train.is_dir() else self.folder
        self.class_names = _classes(self.train_folder)
        self.num_classes = len(self.class_names)
        self.channels = _channels(_first_image(self.train_folder, self.class_names))
        self.in_shape = (self.channels, size, size)
        self.form = Form(size, self.resize, self.channels, _filter(own["interpolation"]))
        if (mean is None) != (std is None):
            raise ValueError("give mean and std, or neither")
        self.asked_mean = _for_channels("mean", mean, self.channels)
        self.asked_std = _for_channels("std", std, self.channels)

    def read(self) -> tuple[Split, Split, Split]:  # type: ignore[override]
        """(train, val, test), with files instead of images."""
        train = self._listed(self.train_folder)
        test = self._of_folder("test")
        val = self._of_folder("val")
        if test is None:
            train, test = self._parted(train, self.test_size, _TEST_SHARE, "test_size")
        if val is None:
            train, val = self._parted(train, self.asked_val_size, HELD_OUT, "val_size")
        self._measure(train)
        return train, val, test

    def _of_folder(self, split: str) -> Split | None:
        """A split that has a folder of its own."""
        folder = self.folder / split
        if not folder.is_dir():
            return None
        return self._listed(folder)

    def _listed(self, folder: Path) -> Split:
        """Every image below a folder, in order. Raises ValueError for what does not fit."""
        if _classes(folder) != self.class_names:
            raise ValueError(
                f"{folder} must have the class folders of {self.train_folder}: "
                f"{', '.join(self.class_names)}"
            )
        files: list[bytes] = []
        labels: list[int] = []
        for number, name in enumerate(self.class_names):
            images = _images(folder / name)
            if not images:
                raise ValueError(f"{folder / name} has no image ({', '.join(ENDINGS)})")
            files += [os.fsencode(f"{name}/{image}") for image in images]
            labels += [number] * len(images)
        names = np.array(files)
        found = FolderFiles(folder, names, self.form)
        self._check_channels(found)
        return found, torch.tensor(labels)

    def _check_channels(self, files: FolderFiles) -> None:
        step = max(1, len(files) // LOOKED_AT)
        for position in range(0, len(files), step):
            path = files.path(position)
            channels = _channels(path)
            if channels != self.channels:
                first = _first_image(self.train_folder, self.class_names)
                raise ValueError(
                    f"{path} has {channels} channel(s), {first} has {self.channels}; "
                    "convert all images to RGB, or all to grey"
                )

    def _parted(
        self, split: Split, asked: int | None, share: float, option: str
    ) -> tuple[Split, Split]:
        """(the rest, the part that is set aside) by split_seed. Parts of each class are random."""
        files, labels = split
        samples = len(labels)
        size = max(1, round(share * samples)) if asked is None else asked
        if not 0 <= size < samples:
            raise ValueError(f"{option} must lie between 0 and {samples - 1}, got {size}")
        generator = seeded(self.split_seed)
        order = torch.randperm(samples, generator=generator)
        aside = order[:size]
        rest = order[size:]
        kept = (files.take(rest), labels[rest])
        parted = (files.take(aside), labels[aside])
        return kept, parted

    def _measure(self, train: Split) -> None:
        """Sets mean and std: given, or of up to MEASURED training images."""
        if self.asked_mean is not None and self.asked_std is not None:
            self.mean = self.asked_mean
            self.std = self.asked_std
            return
        files, _ = train
        step = max(1, len(files) // MEASURED)
        positions = torch.arange(0, len(files), step)
        images = files[positions]
        pixels = images.double() / 255
        of_channel = (0, 2, 3)
        mean = pixels.mean(of_channel)
        std = pixels.std(of_channel)
        wide = std.clamp(min=1e-3)
        self.mean = tuple(mean.tolist())
        self.std = tuple(wide.tolist())


def _filter(interpolation: str) -> Resampling:
    """PIL's filter of that name; bilinear for a word that PIL lacks (timm's "random")."""
    found = getattr(Resampling, interpolation.upper(), None)
    return Resampling.BILINEAR if found is None else found


def _existing(path: str) -> Path:
    places = [Path(path), data_root() / path]
    folder = find(places)
    if folder is None or not folder.is_dir():
        raise ValueError(f"image_folder: no folder {path} here or under {data_root()}; {_LAYOUT}")
    return folder


def _classes(folder: Path) -> list[str]:
    """Names of the class folders, sorted. Raises ValueError for fewer than two."""
    there = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    found = sorted(name for name in there if not name.startswith("."))
    if len(found) < 2:
        got = f"one class folder, {found[0]}" if found else "no class folder"
        raise ValueError(f"{folder} has {got}; {_LAYOUT}")
    return found


def _images(folder: Path) -> list[str]:
    names = sorted(os.listdir(folder))
    return [name for name in names if name.lower().endswith(ENDINGS) and not name.startswith(".")]


def _first_image(folder: Path, classes: list[str]) -> Path:
    for name in classes:
        images = _images(folder / name)
        if images:
            return folder / name / images[0]
    raise ValueError(f"{folder} has no image ({', '.join(ENDINGS)}); {_LAYOUT}")


def _channels(path: Path) -> int:
    """1 for a grey image, else 3. Raises ValueError naming a file that is no image."""
    try:
        with Image.open(path) as image:
            return 1 if image.mode in ("1", "L", "I", "I;16", "LA") else 3
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is no readable image; replace it or remove it") from error


def _for_channels(
    option: str, values: Sequence[float] | None, channels: int
) -> tuple[float, ...] | None:
    if values is None:
        return None
    if len(values) != channels:
        raise ValueError(f"{option} must have {channels} value(s), one per channel, got {values}")
    return tuple(values)
