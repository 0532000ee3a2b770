"""In-memory sets of tensors.

A seeded split holds samples out, and one index operation makes a whole batch.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tbn_bench.data._order import Order, seeded

# x: (N, *in_shape) uint8 or float32, y: (N,) int64, or the labels that the task asks for
Split = tuple[Tensor, Tensor]
FIXED_SAMPLES = 5_000  # for the statistics of batch norm


class Batches(Dataset):
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
        inputs = x[index]
        labels = y[index]
        if not self.named:
            return inputs, labels
        positions = torch.tensor(index)
        return inputs, labels, positions


class TensorDataModule:
    """Subclasses give `read()`, `prepare()` and the class attributes.

    Plans ask for shapes and labels, so nothing here needs Lightning; experiment/lightning_data.py
    gives a data set to its trainer.

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
        held = self.val_size
        most = samples - 1
        if not 0 <= held <= most:
            raise ValueError(
                f"val_size must lie between 0 (train on every sample) and {most}, got {held}"
            )
        generator = seeded(self.split_seed)
        order = torch.randperm(samples, generator=generator)
        return order[held:], order[:held]

    def setup(self) -> None:
        """Reads the files and divides the samples, once."""
        if self.splits:
            return
        train, *given, test = self.read()
        if given:
            (val,) = given
        else:
            train, val = self._divided(train)
        self.splits = {"train": train, "test": test}
        _, labels = val
        if len(labels):
            self.splits["val"] = val

    def _divided(self, split: Split) -> tuple[Split, Split]:
        """(the samples for training, the held-out ones)."""
        x, y = split
        samples = len(y)
        learned, held = self.held_out(samples)
        train = (x[learned], y[learned])
        val = (x[held], y[held])
        return train, val

    def size(self, split: str) -> int:
        _, y = self.splits[split]
        return len(y)

    def first(self, split: str, n: int) -> Tensor:
        """The first n samples as a model sees them at evaluation: (n, *in_shape).

        It starts again from the first sample where the split has fewer.
        """
        x, _ = self.splits[split]
        size = self.size(split)
        positions = torch.arange(n) % size
        samples = x[positions]
        return self.prepare(samples)

    def fixed_batches(self, samples: int = FIXED_SAMPLES) -> Iterator[Tensor]:
        """The first training samples, as a model sees them at evaluation, the same at every call.

        Each batch is (batch_size, *in_shape). All batches are whole, so that each has the same
        weight; where the set has no whole one, there is one smaller batch.
        """
        x, _ = self.splits["train"]
        size = self.batch_size
        used = min(samples, len(x))
        whole = max(1, used // size)
        for i in range(whole):
            start = i * size
            batch = x[start : start + size]
            yield self.prepare(batch)

    def order(self, split: str, batch_size: int, seed: int | None) -> Order:
        """The positions of each batch. seed None: in order, for evaluation."""
        return Order(self.size(split), batch_size, seed)

    def _loader(self, split: str, batch_size: int, seed: int | None) -> DataLoader:
        order = self.order(split, batch_size, seed)
        is_training = split == "train"
        named = is_training and self.by_position
        samples = self.splits[split]
        batches = Batches(samples, named)
        # The loader has its own generator, because it draws a seed whenever it starts, and a
        # resumed run starts it one time less.
        own = torch.Generator()
        return DataLoader(batches, batch_size=None, sampler=order, generator=own)

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", self.batch_size, self.seed)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The held-out samples; no loader where val_size is 0."""
        if "val" not in self.splits:
            return []
        return self._loader("val", self.eval_batch_size, None)

    def test_dataloader(self) -> DataLoader:
        return self._loader("test", self.eval_batch_size, None)

    def prepared(self, batch: tuple[Tensor, ...], epoch: int | None = None) -> Split:
        """A batch of a loader as the model wants it, on the batch's device.

        epoch: that is trained; None: the batch is evaluated, and nothing is augmented.
        """
        x, y, *named = batch
        if not named or epoch is None:
            is_training = epoch is not None
            return self.prepare(x, is_training), y
        (positions,) = named
        return self.prepare_at(x, positions, epoch), y

    def prepare_at(self, x: Tensor, positions: Tensor, epoch: int) -> Tensor:
        """x: (B, *in_shape) as read -> augmented for `epoch`.

        positions: (B,), the samples' places in the training set.
        """
        raise NotImplementedError  # abstract: where by_position
