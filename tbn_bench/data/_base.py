"""In-memory sets of tensors, images among them.

A seeded split holds samples out, one index operation makes a whole batch, and the device augments.
"""

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

# x: (N, *in_shape) uint8 or float32, y: (N,) int64, or the labels that the task asks for
Split = tuple[Tensor, Tensor]


def data_root() -> Path:
    """The folder of the data files: $TBN_BENCH_DATA, else ./data."""
    return Path(os.environ.get("TBN_BENCH_DATA", "data"))


FIXED_SAMPLES = 5_000  # for the statistics of batch norm


class _Batches(Dataset):
    """Indexed by a list of positions, so that one index operation makes the batch.

    named: the batch also has the positions.
    """

    def __init__(self, split: Split, named: bool = False):
        self.split = split
        self.named = named

    def __len__(self) -> int:
        return len(self.split[1])

    def __getitem__(self, index: list[int]) -> tuple[Tensor, ...]:
        x, y = self.split
        if not self.named:
            return x[index], y[index]
        return x[index], y[index], torch.tensor(index)


def _world() -> tuple[int, int]:
    """(number of this process, number of processes that train together)."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not together:
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class _Order(Sampler):
    """Lists of positions, shuffled by (seed, epoch) alone: a resumed run sees the same order.

    seed None: in order, for evaluation.

    Each of several processes gets every world-th position of a batch: batch_size is that of all
    together. A last batch that is too small for that joins the batch before it. So does a last
    batch of one sample in training, because batch norm needs two. All processes have the same
    number of batches.
    """

    def __init__(self, size: int, batch_size: int, seed: int | None):
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        _, world = _world()
        per_process = 1 if self.seed is None else 2
        least = world * per_process
        whole, rest = divmod(self.size, self.batch_size)
        if rest == 0:
            return whole
        joins = self.size > self.batch_size >= least > rest
        return whole if joins else whole + 1

    def _positions(self) -> list[int]:
        if self.seed is None:
            return list(range(self.size))
        generator = _seeded(self.seed * 100_003 + self.epoch)
        return torch.randperm(self.size, generator=generator).tolist()

    def __iter__(self) -> Iterator[list[int]]:
        positions = self._positions()
        rank, world = _world()
        last = len(self) - 1
        for i in range(len(self)):
            start = i * self.batch_size
            end = self.size if i == last else start + self.batch_size
            batch = positions[start:end]
            yield batch[rank::world]


class TensorDataModule(pl.LightningDataModule):
    """Subclasses give `read()`, `prepare()` and the class attributes.

    split_seed chooses val_size samples of the training set that are held out, unless read() gives a
    validation set of its own. val_size=0 trains on all of them; such a run needs `select: last`.

    tasks: the tasks that its labels are for; the first is the usual one.
    Every epoch and every evaluation uses every sample.
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
        self.batch_size = batch_size
        self.seed = seed
        self.split_seed = split_seed
        self.augment = augment
        self.val_size = type(self).val_size if val_size is None else val_size
        self.splits: dict[str, Split] = {}

    def read(self) -> tuple[Split, ...]:
        """(train, test) or (train, val, test), each ((N, *in_shape), (N,)).

        Raises ValueError naming the file that is missing or damaged.
        """
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
                f"val_size must lie between 0 (train on every sample) and {samples - 1}, "
                f"got {self.val_size}"
            )
        order = torch.randperm(samples, generator=_seeded(self.split_seed))
        return order[self.val_size :], order[: self.val_size]

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        train, *val, test = self.read()
        if not val:
            x, y = train
            learned, held = self.held_out(len(y))
            train = (x[learned], y[learned])
            val = [(x[held], y[held])]
        self.splits = {"train": train, "test": test}
        _, labels = val[0]
        if len(labels):
            self.splits["val"] = val[0]

    def size(self, split: str) -> int:
        _, y = self.splits[split]
        return len(y)

    def first(self, split: str, n: int) -> Tensor:
        """The first n samples as a model sees them at evaluation: (n, *in_shape).

        It starts again from the first sample where the split has fewer.
        """
        x, _ = self.splits[split]
        positions = torch.arange(n) % self.size(split)
        return self.prepare(x[positions])

    def fixed_batches(self, samples: int = FIXED_SAMPLES) -> Iterator[Tensor]:
        """The first training samples, as a model sees them at evaluation, the same at every call.

        Each batch is (batch_size, *in_shape). All batches are whole, so that each has the same
        weight; where the set has no whole one, there is one smaller batch.
        """
        x, _ = self.splits["train"]
        used = min(samples, len(x))
        whole = max(1, used // self.batch_size)
        for i in range(whole):
            start = i * self.batch_size
            yield self.prepare(x[start : start + self.batch_size])

    def _loader(self, split: str, batch_size: int, seed: int | None) -> DataLoader:
        order = _Order(self.size(split), batch_size, seed)
        named = split == "train" and self.by_position
        batches = _Batches(self.splits[split], named)
        # The loader has its own generator, because it draws a seed whenever it starts, and a
        # resumed run starts it one time less.
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
            epoch = self.trainer.current_epoch
            return self.prepare_at(x, positions[0], epoch), y
        return self.prepare(x, training), y

    def prepare_at(self, x: Tensor, positions: Tensor, epoch: int) -> Tensor:
        """x: (B, *in_shape) as read -> augmented for `epoch`.

        positions: (B,), the samples' places in the training set.
        """
        raise NotImplementedError  # abstract: where by_position


class ImageDataModule(TensorDataModule):
    """Images, x: (N, C, H, W): normalised by mean and std (of pixels in 0 to 1).

    Training images are also shifted and mirrored.
    """

    in_shape: tuple[int, int, int]
    mean: Sequence[float]
    std: Sequence[float]
    crop_padding = 0
    # the pixels around an image: the mean colour (0 after normalisation), "black", or "reflect"
    crop_border = "mean"
    # True: a random half in every epoch; "alternating": the other half in every other epoch
    flip: bool | str = False

    def prepare(self, x: Tensor, training: bool = False) -> Tensor:
        """x: (B, C, H, W) raw -> float32, normalised, augmented when training."""
        scale = 255.0 if x.dtype == torch.uint8 else 1.0
        mean = _per_channel(self.mean, x.device)
        std = _per_channel(self.std, x.device)
        x = (x.float() / scale - mean) / std
        if training and self.augment:
            return self._augment(x)
        return x

    def _augment(self, x: Tensor) -> Tensor:
        """Random crop after zero padding and horizontal flip, drawn for each image on x's device.

        x: (B, C, H, W).
        """
        b = len(x)
        if self.crop_padding:
            places = 2 * self.crop_padding + 1
            corners = torch.randint(0, places, (2, b, 1, 1), device=x.device)
            x = self._crop(x, corners)
        if self.flip:
            flips = torch.rand(b, device=x.device) < 0.5
            x = _mirrored(x, flips)
        return x

    def _crop(self, x: Tensor, corners: Tensor) -> Tensor:
        """x: (B, C, H, W) -> (B, C, H, W).

        corners: (2, B, 1, 1), the first row and column of each crop in the padded image.
        """
        b, _, h, w = x.shape
        device = x.device
        dy, dx = corners
        padded = self._padded(x)
        rows = dy + torch.arange(h, device=device).reshape(1, h, 1)
        cols = dx + torch.arange(w, device=device).reshape(1, 1, w)
        images = torch.arange(b, device=device).reshape(b, 1, 1)
        cropped = padded[images, :, rows, cols]
        return cropped.permute(0, 3, 1, 2)

    def _padded(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W), normalised, with crop_padding pixels around it."""
        around = (self.crop_padding,) * 4
        if self.crop_border == "reflect":
            return F.pad(x, around, mode="reflect")
        if self.crop_border == "mean":
            return F.pad(x, around)
        mean = _per_channel(self.mean, x.device)
        std = _per_channel(self.std, x.device)
        black = -mean / std
        return F.pad(x - black, around) + black

    @property
    def by_position(self) -> bool:  # type: ignore[override]
        """The newer options draw by position; the older ones keep their random stream."""
        return self.augment and (self.flip == "alternating" or self.crop_border != "mean")

    def prepare_at(self, x: Tensor, positions: Tensor, epoch: int) -> Tensor:
        """x: (B, C, H, W) raw -> normalised, cropped, mirrored.

        positions: (B,), the images' places in the training set. All draws are for the whole set at
        once: corners by (seed, epoch), mirror images by seed (alternating) or by (seed, epoch).
        """
        x = self.prepare(x)
        size = self.size("train")
        positions = positions.cpu()
        draws = _seeded(self.seed * 100_003 + epoch)
        if self.crop_padding:
            places = 2 * self.crop_padding + 1
            corners = torch.randint(0, places, (2, size), generator=draws)
            chosen = corners[:, positions].to(x.device)
            x = self._crop(x, chosen.reshape(2, -1, 1, 1))

        if not self.flip:
            return x
        if self.flip == "alternating":
            half = torch.rand(size, generator=_seeded(self.seed)) < 0.5
            flips = half ^ bool(epoch % 2)
        else:
            flips = torch.rand(size, generator=draws) < 0.5
        return _mirrored(x, flips[positions].to(x.device))


def _per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    """(1, C, 1, 1), to be used with images (B, C, H, W)."""
    return torch.tensor(values, device=device).reshape(1, -1, 1, 1)


def _mirrored(x: Tensor, flips: Tensor) -> Tensor:
    """x: (B, C, H, W), flips: (B,), True for the images that are mirrored."""
    chosen = flips.reshape(-1, 1, 1, 1)
    return torch.where(chosen, x.flip(3), x)


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


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def find(candidates: Sequence[Path]) -> Path | None:
    """The first candidate that exists."""
    return next((c for c in candidates if c.exists()), None)


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
