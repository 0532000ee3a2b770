"""In-memory sets: tensors, a seeded held-out split, whole batches indexed at once, augmentation on the device. Images among them."""

import gzip
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

Split = tuple[
    Tensor, Tensor
]  # x: (N, *in_shape) uint8 or float32, y: (N,) int64, or what the task asks for


def data_root() -> Path:
    """Where data files are looked for: $TBN_BENCH_DATA, else ./data."""
    return Path(os.environ.get("TBN_BENCH_DATA", "data"))


FIXED_SAMPLES = 5_000  # for the statistics of batch norm


class _Batches(Dataset):
    """Indexed by a list of positions, so that one index operation makes the batch. named: the positions go with it."""

    def __init__(self, split: Split, named: bool = False):
        self.split, self.named = split, named

    def __len__(self) -> int:
        return len(self.split[1])

    def __getitem__(self, index: list[int]) -> tuple[Tensor, ...]:
        batch = self.split[0][index], self.split[1][index]
        return (*batch, torch.tensor(index)) if self.named else batch


def _world() -> tuple[int, int]:
    """(number of this process, how many train together)."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return (
        (torch.distributed.get_rank(), torch.distributed.get_world_size()) if together else (0, 1)
    )


class _Order(Sampler):
    """Lists of positions; shuffled by (seed, epoch) alone, so that a resumed run sees the same order. seed None: in order, for evaluation.

    Of several processes each gets every world-th position of a batch: batch_size is that of all together. A last batch too small for
    that, or of one sample in training (batch norm needs two), joins the batch before it: all have the same number of batches.
    """

    def __init__(self, size: int, batch_size: int, seed: int | None):
        self.size, self.batch_size, self.seed, self.epoch = size, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        least = _world()[1] * (1 if self.seed is None else 2)
        joins = self.size > self.batch_size >= least and 0 < self.size % self.batch_size < least
        return -(-self.size // self.batch_size) - joins

    def __iter__(self) -> Iterator[list[int]]:
        if self.seed is None:
            order = torch.arange(self.size)
        else:
            order = torch.randperm(
                self.size, generator=torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
            )
        positions, (rank, world) = order.tolist(), _world()
        for i in range(len(self)):
            batch = positions[
                i * self.batch_size : (i + 1) * self.batch_size if i < len(self) - 1 else None
            ]
            yield batch[rank::world]


class TensorDataModule(pl.LightningDataModule):
    """Subclasses give `read()`, `prepare()` and the class attributes. val_size samples are held out of the training set by split_seed,
    unless read() gives a validation set of its own. val_size=0 trains on all of them; such a run needs `select: last`.

    tasks: the tasks that its labels are for, the first as the usual one.
    No sample is left out of an epoch, nor of an evaluation.
    """

    tasks: tuple[str, ...] = ("image_classification",)
    num_classes: int
    in_shape: tuple[int, ...]
    val_size: int
    eval_batch_size = 500
    by_position = False  # whether augmentation is a function of (seed, epoch, position): prepare_at

    def __init__(
        self,
        batch_size: int = 128,
        seed: int = 0,
        split_seed: int = 0,
        augment: bool = True,
        val_size: int | None = None,
    ):
        super().__init__()
        self.batch_size, self.seed, self.split_seed, self.augment = (
            batch_size,
            seed,
            split_seed,
            augment,
        )
        self.val_size = type(self).val_size if val_size is None else val_size
        self.splits: dict[str, Split] = {}

    def read(self) -> tuple[Split, ...]:
        """(train, test) or (train, val, test), each ((N, *in_shape), (N,)). Raises ValueError naming the file that is missing or damaged."""
        raise NotImplementedError  # abstract

    def prepare(self, x: Tensor, training: bool = False) -> Tensor:
        """x: (B, *in_shape) as read -> float32 as the model wants it, augmented when training."""
        raise NotImplementedError  # abstract

    def held_out(self, samples: int) -> tuple[Tensor, Tensor]:
        """(positions for training, held-out positions) of the training set, by split_seed.

        Raises ValueError where nothing would be left to train on.
        """
        if not 0 <= self.val_size < samples:
            raise ValueError(
                f"val_size must lie between 0 (train on every sample) and {samples - 1}, got {self.val_size}"
            )
        order = torch.randperm(samples, generator=torch.Generator().manual_seed(self.split_seed))
        return order[self.val_size :], order[: self.val_size]

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        (x, y), *held, test = self.read()
        if not held:
            train, val = self.held_out(len(y))
            (x, y), held = (x[train], y[train]), [(x[val], y[val])]
        self.splits = {"train": (x, y), "test": test}
        if len(held[0][1]):
            self.splits["val"] = held[0]

    def size(self, split: str) -> int:
        return len(self.splits[split][1])

    def first(self, split: str, n: int) -> Tensor:
        """The first n samples as a model sees them at evaluation, from the start again where the split has fewer: (n, *in_shape)."""
        return self.prepare(self.splits[split][0][torch.arange(n) % self.size(split)])

    def fixed_batches(self, samples: int = FIXED_SAMPLES) -> Iterator[Tensor]:
        """The first training samples, the same at every call, as a model sees them at evaluation: (batch_size, *in_shape)
        each. Whole batches alone, so that each weighs the same; one smaller batch where the set has no whole one."""
        x = self.splits["train"][0]
        whole = max(1, min(samples, len(x)) // self.batch_size)
        for i in range(whole):
            yield self.prepare(x[i * self.batch_size : (i + 1) * self.batch_size])

    def _loader(self, split: str, batch_size: int, seed: int | None) -> DataLoader:
        order = _Order(self.size(split), batch_size, seed)
        # its own generator: a loader draws a seed when it starts, and a resumed run starts it once less
        batches = _Batches(self.splits[split], named=split == "train" and self.by_position)
        return DataLoader(batches, batch_size=None, sampler=order, generator=torch.Generator())

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", self.batch_size, self.seed)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The held-out samples; no loader where val_size is 0."""
        if "val" not in self.splits:
            return []
        return self._loader("val", self.eval_batch_size, None)

    def test_dataloader(self) -> DataLoader:
        return self._loader("test", self.eval_batch_size, None)

    def on_after_batch_transfer(self, batch: tuple[Tensor, ...], dataloader_idx: int = 0) -> Split:
        x, y, *positions = batch
        training = self.trainer is not None and self.trainer.training
        if positions and training:
            return self.prepare_at(x, positions[0], self.trainer.current_epoch), y
        return self.prepare(x, training), y

    def prepare_at(self, x: Tensor, positions: Tensor, epoch: int) -> Tensor:
        """x: (B, *in_shape) as read, the samples at `positions`: (B,) of the training set -> augmented for `epoch`."""
        raise NotImplementedError  # abstract: where by_position


class ImageDataModule(TensorDataModule):
    """Images: normalised by mean and std (of pixels in 0 to 1), shifted and mirrored when training. x: (N, C, H, W)."""

    in_shape: tuple[int, int, int]
    mean: Sequence[float]
    std: Sequence[float]
    crop_padding = 0
    crop_border = "mean"  # what lies around an image: the mean colour (0 after normalisation), "black", or "reflect"
    flip: bool | str = (
        False  # True: a random half in every epoch; "alternating": the other half in every other epoch
    )

    def prepare(self, x: Tensor, training: bool = False) -> Tensor:
        """x: (B, C, H, W) raw -> float32, normalised, augmented when training."""
        scale = 255.0 if x.dtype == torch.uint8 else 1.0
        mean, std = (
            torch.tensor(v, device=x.device).reshape(1, -1, 1, 1) for v in (self.mean, self.std)
        )
        x = (x.float() / scale - mean) / std
        return self._augment(x) if training and self.augment else x

    def _augment(self, x: Tensor) -> Tensor:
        """Random crop after zero padding and horizontal flip, each image its own, on x's device. x: (B, C, H, W)."""
        b = len(x)
        if self.crop_padding:
            corners = torch.randint(0, 2 * self.crop_padding + 1, (2, b, 1, 1), device=x.device)
            x = self._crop(x, corners)
        if self.flip:
            flips = torch.rand(b, device=x.device) < 0.5
            x = torch.where(flips.reshape(b, 1, 1, 1), x.flip(3), x)
        return x

    def _crop(self, x: Tensor, corners: Tensor) -> Tensor:
        """x: (B, C, H, W), corners: (2, B, 1, 1), the first row and column in the padded image -> (B, C, H, W)."""
        b, _, h, w = x.shape
        (dy, dx), padded = corners, self._padded(x)
        rows = dy + torch.arange(h, device=x.device).reshape(1, h, 1)
        cols = dx + torch.arange(w, device=x.device).reshape(1, 1, w)
        images = torch.arange(b, device=x.device).reshape(b, 1, 1)
        return padded[images, :, rows, cols].permute(0, 3, 1, 2)

    def _padded(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W), normalised, with crop_padding pixels around it."""
        around = (self.crop_padding,) * 4
        if self.crop_border == "reflect":
            return F.pad(x, around, mode="reflect")
        if self.crop_border == "mean":
            return F.pad(x, around)
        mean, std = (
            torch.tensor(v, device=x.device).reshape(1, -1, 1, 1) for v in (self.mean, self.std)
        )
        black = -mean / std
        return F.pad(x - black, around) + black

    @property
    def by_position(self) -> bool:  # type: ignore[override]
        """The options that came later draw by position; the first ones keep their random stream, and so their results."""
        return self.augment and (self.flip == "alternating" or self.crop_border != "mean")

    def prepare_at(self, x: Tensor, positions: Tensor, epoch: int) -> Tensor:
        """x: (B, C, H, W) raw, the images at `positions`: (B,) of the training set -> normalised, cropped, mirrored.

        Corners are drawn by (seed, epoch), mirror images by seed (alternating) or (seed, epoch), for the whole set at once.
        """
        x, size = self.prepare(x), self.size("train")
        draws = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        if self.crop_padding:
            corners = torch.randint(0, 2 * self.crop_padding + 1, (2, size), generator=draws)
            x = self._crop(x, corners[:, positions.cpu()].to(x.device).reshape(2, -1, 1, 1))
        if not self.flip:
            return x
        if self.flip == "alternating":
            half = torch.rand(size, generator=torch.Generator().manual_seed(self.seed)) < 0.5
            flips = half ^ bool(epoch % 2)
        else:
            flips = torch.rand(size, generator=draws) < 0.5
        chosen = flips[positions.cpu()].to(x.device).reshape(-1, 1, 1, 1)
        return torch.where(chosen, x.flip(3), x)


def read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """An IDX file of unsigned bytes (yann.lecun.com/exdb/mnist), plain or .gz. Raises ValueError unless it has exactly `shape`."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is unreadable or truncated ({error}); fetch it again") from error
    head = 4 + 4 * len(shape)
    expected = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    if data[:head] != expected or len(data) != head + int(np.prod(shape)):
        raise ValueError(
            f"{path} is not an IDX file of shape {shape} (it has {len(data)} bytes); fetch it again"
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=head).reshape(shape).copy())


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def find(candidates: Sequence[Path]) -> Path | None:
    """The first candidate that exists."""
    return next((c for c in candidates if c.exists()), None)


class IdxImages(ImageDataModule):
    """MNIST and its look-alikes: four IDX files under <root>/<folder>/<NAME>/raw or <root>/<NAME>/raw, plain or .gz.

    normalise=False leaves pixels in 0 to 1, as a microcontroller gets them; crop_padding: pixels by which training images are shifted at most.
    """

    num_classes = 10
    in_shape = (1, 28, 28)
    val_size = 5_000
    folder: str
    torchvision_name: str

    def __init__(
        self, normalise: bool = True, crop_padding: int = 0, batch_size: int = 128, seed: int = 0, split_seed: int = 0,
        val_size: int | None = None,
    ):  # fmt: skip
        super().__init__(batch_size, seed, split_seed, val_size=val_size)
        self.crop_padding = crop_padding
        if not normalise:
            self.mean, self.std = (0.0,), (1.0,)

    def _file(self, name: str) -> Path | None:
        raws = [
            data_root() / self.folder / self.torchvision_name / "raw",
            data_root() / self.torchvision_name / "raw",
        ]
        return find([raw / f"{name}{end}" for raw in raws for end in ("", ".gz")])

    def _need(self, name: str) -> Path:
        path = self._file(name)
        if path is None:
            self._download(name)
            path = self._file(name)
        if path is None:
            raise ValueError(self._missing(name))
        return path

    def _missing(self, name: str) -> str:
        return (
            f"{self.torchvision_name}: {name}.gz not found under {data_root()}. Fetch {name}.gz and the other three files of "
            f"{self.torchvision_name} (torchvision.datasets.{self.torchvision_name} lists the addresses) and put them in "
            f"{data_root() / self.folder / self.torchvision_name / 'raw'}, or set TBN_BENCH_DATA to the folder that has them"
        )

    def _download(self, name: str) -> None:
        import torchvision

        try:
            getattr(torchvision.datasets, self.torchvision_name)(
                data_root() / self.folder, download=True
            )
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"{self._missing(name)} (download failed: {' '.join(str(error).split())})"
            ) from error

    def read(self) -> tuple[Split, Split]:
        def split(prefix: str, n: int) -> Split:
            x = read_idx(self._need(f"{prefix}-images-idx3-ubyte"), (n, 28, 28)).unsqueeze(1)
            return x, read_idx(self._need(f"{prefix}-labels-idx1-ubyte"), (n,)).long()

        return split("train", 60_000), split("t10k", 10_000)
