"""Tiny ImageNet (Stanford CS231n, 2015): 200 classes, 64 x 64 x 3.

100,000 training images (10,000 of them held out) and 10,000 test images. The published test set has
no labels, so the official val set is the test set here, as in the literature. Classes are numbered
in the order of their sorted WordNet ids. Reads the unpacked tiny-imagenet-200; greyscale images
become RGB. The decoded images are kept in images.safetensors beside the data, so that only the
first start decodes. Augmentation: crop 64 after padding 8, horizontal flip.
"""

import hashlib
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tbn_bench.data._base import Split
from tbn_bench.data._files import opened, rgb
from tbn_bench.data._images import ImageDataModule
from tbn_bench.data._root import data_root, find

ADDRESS = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
CACHE = "images.safetensors"
_AGAIN = "fetch tiny-imagenet-200.zip again"
_CHUNK = 256

Listing = list[tuple[str, int]]  # file inside the folder, class


def _decode(path: Path, shape: tuple[int, ...]) -> Tensor:
    """An image file as RGB: (3, H, W) uint8.

    Raises ValueError naming a file that is damaged or of another size.
    """
    with opened(path, _AGAIN) as image:
        pixels = np.array(rgb(image))
    x = torch.from_numpy(pixels).permute(2, 0, 1)
    if x.shape != shape:
        raise ValueError(
            f"{path} must be {shape[1]} x {shape[2]} pixels, "
            f"got {x.shape[1]} x {x.shape[2]}; {_AGAIN}"
        )
    return x


def _decode_all(folder: Path, names: list[str], shape: tuple[int, ...]) -> Tensor:
    """(N, *shape) uint8, by a pool of threads: decoding releases the interpreter's lock."""
    x = torch.empty(len(names), *shape, dtype=torch.uint8)

    def chunk(first: int) -> None:
        last = min(first + _CHUNK, len(names))
        for i in range(first, last):
            name = names[i]
            path = folder / name
            x[i] = _decode(path, shape)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(chunk, range(0, len(names), _CHUNK)):
            pass
    return x


def _fingerprint(folder: Path, names: list[str]) -> str:
    """A digest of the list of files in order, with their sizes."""
    lines = []
    for name in names:
        file = folder / name
        size = file.stat().st_size
        lines.append(f"{name} {size}")
    text = "\n".join(lines)
    digest = hashlib.sha256(text.encode())
    return digest.hexdigest()


def _cached(path: Path, shape: tuple[int, ...], fingerprint: str) -> Tensor | None:
    """The images of an intact file of exactly these sources, else None."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("fingerprint") != fingerprint:
                return None
            x: Tensor = file.get_tensor("images")
    except (OSError, SafetensorError):
        return None
    intact = x.dtype == torch.uint8 and x.shape == shape
    return x if intact else None


def _keep(path: Path, x: Tensor, fingerprint: str) -> None:
    """Writes a file beside `path` and renames it, so that no reader sees half a file."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file({"images": x}, part, {"fingerprint": fingerprint})
        part.replace(path)
    except (OSError, SafetensorError) as error:
        warnings.warn(
            f"{path} cannot be written ({error}): the images are decoded again at every start",
            stacklevel=2,
        )
    finally:
        part.unlink(missing_ok=True)


class TinyImageNet(ImageDataModule):
    num_classes = 200
    in_shape = (3, 64, 64)
    mean = (0.4802, 0.4481, 0.3975)
    std = (0.2770, 0.2691, 0.2821)
    val_size = 10_000
    crop_padding = 8
    flip = True
    per_class = 500
    test_size = 10_000

    def read(self) -> tuple[Split, Split]:
        roots = (data_root() / "tiny_imagenet", data_root())
        folder = find([root / "tiny-imagenet-200" for root in roots])
        if folder is None:
            raise ValueError(
                f"tiny_imagenet: tiny-imagenet-200 not found under {data_root()}. "
                f"Fetch tiny-imagenet-200.zip ({ADDRESS}) and unpack it in {data_root()}, "
                "or set TBN_BENCH_DATA to the folder that has it"
            )
        classes = self._classes(folder)
        train = self._train(folder, classes)
        test = self._test(folder, classes)
        both = train + test
        x = self._images(folder, [name for name, _ in both])
        y = torch.tensor([label for _, label in both])
        n = len(train)
        return (x[:n], y[:n]), (x[n:], y[n:])

    def _images(self, folder: Path, names: list[str]) -> Tensor:
        """(N, 3, 64, 64) uint8: from the cache, else decoded and cached."""
        shape = (len(names), *self.in_shape)
        fingerprint = _fingerprint(folder, names)
        x = _cached(folder / CACHE, shape, fingerprint)
        if x is None:
            x = _decode_all(folder, names, self.in_shape)
            _keep(folder / CACHE, x, fingerprint)
        return x

    def _classes(self, folder: Path) -> list[str]:
        path = folder / "wnids.txt"
        wnids = sorted(set(_lines(path)))
        if len(wnids) != self.num_classes:
            raise ValueError(
                f"{path} must list {self.num_classes} classes, got {len(wnids)}; {_AGAIN}"
            )
        return wnids

    def _train(self, folder: Path, classes: list[str]) -> Listing:
        found = []
        for label, wnid in enumerate(classes):
            place = folder / "train" / wnid / "images"
            names = sorted(path.name for path in place.glob("[!.]*.JPEG"))
            if len(names) != self.per_class:
                raise ValueError(
                    f"{place} must hold {self.per_class} .JPEG images, got {len(names)}; {_AGAIN}"
                )
            found += [(f"train/{wnid}/images/{name}", label) for name in names]
        return found

    def _test(self, folder: Path, classes: list[str]) -> Listing:
        """val_annotations.txt: file, class and box of every image, separated by tabs."""
        listing = folder / "val" / "val_annotations.txt"
        place = folder / "val" / "images"
        number = {wnid: label for label, wnid in enumerate(classes)}
        rows = {}
        for line in _lines(listing):
            name, *others = line.split("\t")
            rows[name] = others[0] if others else ""
        unknown = [name for name, wnid in rows.items() if wnid not in number]
        if unknown or len(rows) != self.test_size:
            why = f"{unknown[0]} has none" if unknown else f"got {len(rows):,}"
            raise ValueError(
                f"{listing} must give {self.test_size:,} images a class of wnids.txt, "
                f"{why}; {_AGAIN}"
            )
        there = {path.name for path in place.glob("[!.]*.JPEG")}
        if there != set(rows):
            raise ValueError(
                f"{place} must hold the {self.test_size:,} images of {listing.name}, "
                f"got {len(there):,}; {_AGAIN}"
            )
        return [(f"val/images/{name}", number[wnid]) for name, wnid in rows.items()]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; {_AGAIN}") from error
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line]
