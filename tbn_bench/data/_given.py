"""Data that a caller gives in Python: data sets, loaders or a LightningDataModule of her own."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    default_collate,
)

from tbn_bench.catalog import names
from tbn_bench.data._base import FIXED_SAMPLES
from tbn_bench.data._order import Order, seeded

HELD_OUT = 0.1  # of the training samples, for the choice of the epoch
EXPECTED = (
    "expected data=(train, test) of two data sets or two DataLoaders, or a LightningDataModule"
)

Collate = Callable[[list[Any]], Any]
Data = Dataset[Any]


@dataclass(frozen=True)
class Source:
    """What was given: data sets, and how their samples become batches.

    val: None where some of train are to be held out. module: a LightningDataModule whose hooks see
    every batch; with a val of its own, its own loaders are used too.
    """

    train: Data
    test: Data
    val: Data | None
    collate: Collate
    workers: int
    module: pl.LightningDataModule | None = None

    @property
    def parts(self) -> dict[str, Data]:
        """The data sets that are there, by split."""
        found = {"train": self.train, "test": self.test}
        if self.val is not None:
            found["val"] = self.val
        return found

    @property
    def has_own_loaders(self) -> bool:
        return self.module is not None and self.val is not None

    def batch(self, samples: Data, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The samples at these positions as a model sees them: x (B, ...), y (B, ...).

        Raises ValueError for samples that are no pair of tensors.
        """
        items = [samples[position] for position in positions]
        batch = self._collated(items)
        x, y = _pair(batch)
        if self.module is None:
            return x, y
        seen = self.module.on_after_batch_transfer((x, y), 0)
        return _pair(seen)

    def _collated(self, items: list[Any]) -> Any:
        try:
            return self.collate(items)
        except (TypeError, RuntimeError, AttributeError) as error:
            said = str(error).partition("\n")[0]
            raise ValueError(
                f"data: samples cannot be made a batch ({said}); a sample must be (input tensor "
                "of one shape, label); images need a transform to tensors of one size"
            ) from error


def length(samples: Data) -> int:
    return len(samples)  # type: ignore[arg-type]


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    is_pair = isinstance(batch, list | tuple) and len(batch) == 2
    if is_pair and all(isinstance(part, Tensor) for part in batch):
        x, y = batch
        return x, y
    if isinstance(batch, list | tuple):
        got = f"{len(batch)} parts ({', '.join(type(part).__name__ for part in batch)})"
    else:
        got = type(batch).__name__
    raise ValueError(f"data: a batch must be (inputs, labels), two tensors, got {got}")


def source_of(data: Any) -> Source:
    """What tb.train's `data` holds. Raises ValueError that says what is expected."""
    if isinstance(data, pl.LightningDataModule):
        return _of_module(data)
    if not isinstance(data, tuple | list):
        raise ValueError(f"{EXPECTED}, got {type(data).__name__}")
    if len(data) != 2:
        raise ValueError(
            f"{EXPECTED}, got {len(data)} parts; some of train are held out for the choice of the "
            "epoch; to give these yourself, use a LightningDataModule with a val_dataloader"
        )
    train, test = data
    if isinstance(train, DataLoader) and isinstance(test, DataLoader):
        return _of_loaders(train, test)
    for part in data:
        if isinstance(part, DataLoader) or not hasattr(part, "__getitem__"):
            kinds = " and ".join(type(part).__name__ for part in data)
            raise ValueError(f"{EXPECTED}, got {kinds}")
    _check_apart("train", train, test)
    return Source(_checked(train), _checked(test), None, default_collate, 0)


def _of_loaders(train: DataLoader, test: DataLoader) -> Source:
    """Their data sets, collate function and workers. The order is the run's, by its seed."""
    own_order = (RandomSampler, SequentialSampler)
    if not isinstance(train.sampler, own_order):
        raise ValueError(
            f"data: the training loader has a {type(train.sampler).__name__}, which a held-out "
            "split would break; give a LightningDataModule with a val_dataloader, whose loaders "
            "are used as they are"
        )
    _check_batches(train)
    _check_batches(test)
    _check_apart("train", train.dataset, test.dataset)
    return Source(
        _checked(train.dataset),
        _checked(test.dataset),
        None,
        train.collate_fn,
        train.num_workers,
    )


def _of_module(module: pl.LightningDataModule) -> Source:
    module.prepare_data()
    module.setup("fit")
    module.setup("test")
    train = _loader_of(module, "train")
    test = _loader_of(module, "test")
    val = _loader_of(module, "val")
    if train is None or test is None:
        raise ValueError(
            f"data: {type(module).__name__} must have one train_dataloader and one "
            "test_dataloader, each a DataLoader; the test set is never used for the choice of "
            "the epoch"
        )
    if val is None:
        base = _of_loaders(train, test)
        return Source(base.train, base.test, None, base.collate, base.workers, module)
    for loader in (train, val, test):
        _check_batches(loader)
    _check_apart("val_dataloader", val.dataset, test.dataset)
    return Source(
        _checked(train.dataset),
        _checked(test.dataset),
        _checked(val.dataset),
        train.collate_fn,
        train.num_workers,
        module,
    )


def _loader_of(module: pl.LightningDataModule, split: str) -> DataLoader | None:
    """The one loader of a split; None where the module has none."""
    name = f"{split}_dataloader"
    if getattr(type(module), name) is getattr(pl.LightningDataModule, name):
        return None
    loader = getattr(module, name)()
    if isinstance(loader, list | tuple) and len(loader) == 1:
        (loader,) = loader
    if isinstance(loader, DataLoader):
        return loader
    if not loader:
        return None
    raise ValueError(
        f"data: {name} of {type(module).__name__} must return one DataLoader, "
        f"got {type(loader).__name__}"
    )


def _check_apart(name: str, samples: Any, test: Any) -> None:
    if samples is test:
        raise ValueError(
            f"data: {name} and test are one data set; the test set is used once, at the end, so "
            "give samples that are in neither the training nor the choice of the epoch"
        )


def _check_batches(loader: DataLoader) -> None:
    if loader.batch_sampler is None:
        raise ValueError(
            "data: a DataLoader with batch_size=None makes no batches of its samples; "
            "give batch_size=..., or the data set itself"
        )


def _checked(samples: Any) -> Data:
    if isinstance(samples, IterableDataset) or not hasattr(samples, "__len__"):
        raise ValueError(
            f"data: {type(samples).__name__} has no length; a data set must have __len__ and "
            "__getitem__, because a share is held out and every sample is counted"
        )
    if not len(samples):
        raise ValueError(f"data: {type(samples).__name__} is empty")
    found: Dataset = samples
    return found


@dataclass(frozen=True)
class Form:
    """What models and tasks may ask. in_shape: of one sample."""

    in_shape: tuple[int, ...]
    num_classes: int | None


class GivenData(pl.LightningDataModule):
    """A source as the data module of a run.

    Without validation samples of its own, val_size training samples are held out by split_seed. The
    order of the samples depends on (seed, epoch) alone, except where the source's own loaders make
    it.
    """

    eval_batch_size = 500

    def __init__(
        self,
        source: Source,
        form: Form,
        batch_size: int,
        seed: int,
        val_size: int,
        split_seed: int,
    ):
        super().__init__()
        self.source = source
        self.batch_size = batch_size
        self.seed = seed
        self.val_size = val_size
        self.split_seed = split_seed
        self.tasks = tuple(names("tasks"))
        self.in_shape = form.in_shape
        if form.num_classes is not None:
            self.num_classes = form.num_classes
        for name in (
            "parts",
            "class_weights",
            "horizon",
            "targets",
            "token_bytes",
            "mean",
            "std",
            "class_names",
        ):
            if hasattr(source.module, name):
                setattr(self, name, getattr(source.module, name))
        self.splits: dict[str, Data] = {}

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        source = self.source
        self.splits = {"train": source.train, "test": source.test}
        if source.val is not None:
            self.splits["val"] = source.val
        elif self.val_size:
            generator = seeded(self.split_seed)
            order = torch.randperm(length(source.train), generator=generator)
            positions = order.tolist()
            learned = positions[self.val_size :]
            held = positions[: self.val_size]
            self.splits["train"] = Subset(source.train, learned)
            self.splits["val"] = Subset(source.train, held)

    def size(self, split: str) -> int:
        return length(self.splits[split])

    def prepare(self, x: Tensor, training: bool = False) -> Tensor:
        """x: (B, *in_shape) of a loader -> as a model sees it: behind the source's own hook."""
        if self.source.module is None:
            return x
        samples = len(x)
        no_labels = torch.zeros(samples, dtype=torch.int64)
        module = self.source.module
        batch = module.on_after_batch_transfer((x, no_labels), 0)
        prepared, _ = _pair(batch)
        return prepared

    def first(self, split: str, n: int) -> Tensor:
        """The first n samples, (n, *in_shape), from the beginning again where there are fewer."""
        samples = self.splits[split]
        size = length(samples)
        positions = [i % size for i in range(n)]
        x, _ = self.source.batch(samples, positions)
        return x

    def fixed_batches(self, samples: int = FIXED_SAMPLES) -> Iterator[Tensor]:
        """The first training samples in order, in whole batches (batch_size, *in_shape).

        One smaller batch where there is no whole one.
        """
        split = self.splits["train"]
        used = min(samples, length(split))
        size = min(self.batch_size, used)
        last = used - size
        for start in range(0, last + 1, size):
            positions = range(start, start + size)
            x, _ = self.source.batch(split, positions)
            yield x

    def train_dataloader(self) -> Any:
        return self._loader("train", self.batch_size, self.seed)

    def val_dataloader(self) -> Any:
        """The held-out samples; no loader where there are none."""
        if "val" not in self.splits:
            return []
        return self._loader("val", self.eval_batch_size, None)

    def test_dataloader(self) -> Any:
        return self._loader("test", self.eval_batch_size, None)

    def _loader(self, split: str, batch_size: int, seed: int | None) -> Any:
        source = self.source
        if source.has_own_loaders:
            return _loader_of(source.module, split)  # type: ignore[arg-type]
        order = Order(self.size(split), batch_size, seed)
        return _SeededLoader(
            self.splits[split],
            batch_sampler=order,
            collate_fn=source.collate,
            num_workers=source.workers,
            generator=torch.Generator(),
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """The source's own hook, then a check of the pair."""
        module = self.source.module
        if module is not None:
            module.trainer = self.trainer
            batch = module.on_after_batch_transfer(batch, dataloader_idx)
        return _pair(batch)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        owner = self.source.module or super()
        return owner.transfer_batch_to_device(batch, device, dataloader_idx)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        owner = self.source.module or super()
        return owner.on_before_batch_transfer(batch, dataloader_idx)


class _SeededLoader(DataLoader):
    """Workers draw by (seed, epoch), so that a resumed run draws what an uninterrupted one does.

    It starts when its first batch is asked for, because Lightning calls iter() before it tells the
    order the epoch.
    """

    def __iter__(self) -> Iterator[Any]:
        order = self.batch_sampler
        seed = order.seed or 0
        of_epoch = seed * 100_003 + order.epoch
        self.generator.manual_seed(of_epoch)
        yield from super().__iter__()
