"""Data sets of other packages, named in a call. They are imported when a run reads them.

A packed file names its data too, and reading one must not import code. So the form of the samples
is part of the call.
"""

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset, default_collate

from tbn_bench.data._given import HELD_OUT, Data, Form, GivenData, Source, length

NOTHING: Data = TensorDataset(torch.zeros(0))
LOOKED_AT = 32  # samples of a split, evenly apart, whose labels are read before training


class NamedData(GivenData):
    """Subclasses give named_source(). val_size None: a tenth of the training samples."""

    def __init__(
        self,
        in_shape: Sequence[int],
        num_classes: int,
        batch_size: int,
        seed: int,
        val_size: int | None,
        split_seed: int,
    ):
        unread = Source(NOTHING, NOTHING, None, default_collate, 0)
        shape = tuple(in_shape)
        form = Form(shape, num_classes)
        super().__init__(unread, form, batch_size, seed, 0, split_seed)
        self.asked_val_size = val_size

    def named_source(self) -> Source:
        """Imports and opens the data sets. Raises ValueError that says what is missing."""
        raise NotImplementedError  # abstract

    def setup(self, stage: str | None = None) -> None:
        """Raises ValueError for samples of another form than the call says."""
        if self.splits:
            return
        source = self.named_source()
        samples = length(source.train)
        self.val_size = round(HELD_OUT * samples)
        if self.asked_val_size is not None:
            self.val_size = self.asked_val_size
        if not 0 <= self.val_size < samples:
            raise ValueError(
                f"val_size must lie between 0 and {samples - 1}, got {self.asked_val_size}"
            )
        self._check(source)
        self.source = source
        super().setup(stage)

    def _check(self, source: Source) -> None:
        for name, samples in source.parts.items():
            x, y = source.batch(samples, _some(length(samples)))
            shape = tuple(x.shape[1:])
            if shape != self.in_shape or not x.is_floating_point():
                raise ValueError(
                    f"a sample of {name} has shape {shape}, {x.dtype}; the call says "
                    f"in_shape={list(self.in_shape)} of floating-point numbers"
                )
            for label in y.tolist():
                if not 0 <= label < self.num_classes:
                    raise ValueError(
                        f"a label of {name} is {label}; num_classes={self.num_classes} allows "
                        f"0 to {self.num_classes - 1}"
                    )


def _some(samples: int) -> list[int]:
    """Positions evenly apart, the first and the last among them."""
    wanted = min(LOOKED_AT, samples)
    return torch.linspace(0, samples - 1, wanted).long().tolist()


def imported(path: str) -> Any:
    """The object of 'package.module:attribute'. Raises ValueError where there is none."""
    module, colon, attribute = path.partition(":")
    if not colon or not module or not attribute:
        raise ValueError(f"expected 'package.module:attribute', got {path!r}")
    try:
        home = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{path}: {error}; install the package, or put its folder on PYTHONPATH"
        ) from error
    if not hasattr(home, attribute):
        raise ValueError(f"{path}: {module} has no {attribute}")
    return getattr(home, attribute)


def made(path: str, arguments: dict[str, Any] | None) -> Data:
    """The data set that a class or function makes of these arguments."""
    entry = imported(path)
    try:
        found = entry(**(arguments or {}))
    except TypeError as error:
        raise ValueError(f"{path} refuses the arguments {arguments}: {error}") from error
    if not isinstance(found, Dataset) or not hasattr(found, "__len__"):
        raise ValueError(
            f"{path} must make a torch.utils.data.Dataset with a length, got {type(found).__name__}"
        )
    if not length(found):
        raise ValueError(f"{path} made an empty data set of the arguments {arguments}")
    return found
