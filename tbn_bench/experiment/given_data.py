"""Data given in Python: their form, their labels, and the share that is held out."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from tbn_bench import catalog
from tbn_bench.catalog import given
from tbn_bench.catalog.given import Make
from tbn_bench.data._given import (
    HELD_OUT,
    Data,
    Form,
    GivenData,
    Source,
    length,
    source_of,
)
from tbn_bench.experiment import identity

LABELS = 1_000  # labels that are looked at where a data set does not list them
_USUAL_BATCH = 128


@dataclass(frozen=True)
class Split:
    """What a caller says of the classes and the held-out share; None: find out."""

    num_classes: int | None
    val_size: int | None
    split_seed: int

    def held_out(self, samples: int) -> int:
        """Raises ValueError where nothing would be left to train on."""
        size = round(HELD_OUT * samples) if self.val_size is None else self.val_size
        if not 0 <= size < samples:
            raise ValueError(
                f"val_size must lie between 0 (with select='last') and {samples - 1}, got {size}"
            )
        return size


@dataclass(frozen=True)
class Held:
    """A given object: its shelf, what identifies it, and how to make it again."""

    shelf: str
    identity: dict[str, Any]
    make: Make

    @property
    def call(self) -> str:
        """As a config names the object."""
        options = [f"{key}={value!r}" for key, value in self.identity.items()]
        written = ", ".join(options)
        return catalog.canonical(f"{given.NAME}({written})")

    def open(self) -> AbstractContextManager[None]:
        """Within the block, the call makes the object."""
        return given.held(self.shelf, self.identity, self.make)


@dataclass(frozen=True)
class Samples:
    """Given data whose first samples have been read. x: (B, *in_shape), y: (B, ...)."""

    source: Source
    x: Tensor
    y: Tensor
    batch_size: int

    def held(self, split: Split, classes: int | None) -> Held:
        """The data with their held-out share."""
        source = self.source
        form = Form(tuple(self.x.shape[1:]), classes)
        found = identity.of_data(source, classes)
        val_size = 0
        if source.val is None:
            val_size = split.held_out(length(source.train))
            found |= {"val_size": val_size, "split_seed": split.split_seed}

        def make(batch_size: int, seed: int, **_: Any) -> GivenData:
            return GivenData(source, form, batch_size, seed, val_size, split.split_seed)

        return Held("data", found, make)

    def checked_classes(self, classes: int | None) -> int:
        """The number of classes: `classes`, or as the labels say.

        Raises ValueError for labels that are no whole numbers from 0 to classes - 1.
        """
        self._check_kind()
        source = self.source
        most = 0
        for name, samples in source.parts.items():
            labels = _labels(source, samples)
            low = int(labels.min())
            high = int(labels.max())
            most = max(most, high)
            _check_range(name, low, high, classes)
        found = most + 1 if classes is None else classes
        if found < 2:
            raise ValueError("data: all labels are 0; classification needs two classes or more")
        return found

    def _check_kind(self) -> None:
        y = self.y
        whole = not y.is_floating_point() and not y.is_complex()
        if y.ndim != 1 or not whole:
            raise ValueError(
                "data: labels of classification are one whole number for each sample, got "
                f"{y.dtype} of shape {tuple(y.shape)} for {len(y)} samples; task='...' names "
                "another task"
            )


def _check_range(split: str, low: int, high: int, classes: int | None) -> None:
    """low, high: the smallest and the largest label."""
    wanted = "0 or more"
    fits = low >= 0
    if classes is not None:
        wanted = f"from 0 to {classes - 1}"
        fits = fits and high < classes
    if not fits:
        raise ValueError(
            f"data: labels of {split} must be {wanted}, got {low} to {high}; "
            "the model needs one output for each class"
        )


def read(data: Any) -> Samples:
    """Raises ValueError for data of another form, and for samples that the batches cannot hold."""
    source = source_of(data)
    few = min(2, length(source.train))
    x, y = source.batch(source.train, range(few))
    if not x.is_floating_point():
        raise ValueError(
            f"data: inputs must be floating-point tensors, got {x.dtype}; for images, divide by "
            "255 and normalise in the data set's transform"
        )
    tested, _ = source.batch(source.test, [0])
    own_shape = tuple(x.shape[1:])
    test_shape = tuple(tested.shape[1:])
    if own_shape != test_shape:
        raise ValueError(
            f"data: a sample of train has shape {own_shape}, one of test {test_shape}; "
            "they must be equal"
        )
    return Samples(source, x, y, _batch_size(data))


def _batch_size(data: Any) -> int:
    """That of given loaders, else the usual one."""
    if isinstance(data, tuple | list):
        loader, _ = data
    else:
        loader = data.train_dataloader()
    if isinstance(loader, DataLoader) and loader.batch_size:
        return loader.batch_size
    return _USUAL_BATCH


def _labels(source: Source, samples: Data) -> Tensor:
    """Every label where the data set lists them, else LABELS of them, evenly spaced."""
    listed = _listed(samples)
    if listed is not None and len(listed):
        return listed
    found = []
    positions = identity.spaced(length(samples), LABELS)
    for position in positions:
        _, y = source.batch(samples, [position])
        found.append(y)
    return torch.cat(found)


def _listed(samples: Data) -> Tensor | None:
    if isinstance(samples, TensorDataset):
        return samples.tensors[-1]
    if isinstance(samples, Subset):
        inner = _listed(samples.dataset)
        return None if inner is None else inner[list(samples.indices)]
    targets = getattr(samples, "targets", None)
    if targets is None or getattr(samples, "target_transform", None) is not None:
        return None
    try:
        return torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        return None
