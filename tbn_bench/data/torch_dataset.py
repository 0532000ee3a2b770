"""Any torch Dataset by its import path: torch_dataset(train='package.module:Class', ...).

Its samples are (x, label). The call runs code of that module when the data are read, as a plugin
does: read a sweep file of somebody else before you run it.
"""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import default_collate

from tbn_bench.data._given import Source
from tbn_bench.data._named import NamedData, made


class TorchDataset(NamedData):
    """train, test: 'package.module:attribute', a class or function that makes a Dataset.

    args, test_args: its keyword arguments. in_shape: of one sample. val_size training samples (a
    tenth) are held out by split_seed. workers: processes that read.
    Raises ValueError, when it is read, for a module, a class or a sample that is not as named.
    """

    def __init__(
        self,
        train: str,
        test: str,
        in_shape: Sequence[int],
        num_classes: int,
        args: dict[str, Any] | None = None,
        test_args: dict[str, Any] | None = None,
        workers: int = 0,
        batch_size: int = 128,
        seed: int = 0,
        split_seed: int = 0,
        val_size: int | None = None,
    ):
        super().__init__(in_shape, num_classes, batch_size, seed, val_size, split_seed)
        if train == test and args == test_args:
            raise ValueError("train and test name one data set; give other test_args, or test=...")
        self.train_path = train
        self.test_path = test
        self.args = args
        self.test_args = test_args
        self.workers = workers

    def named_source(self) -> Source:
        train = made(self.train_path, self.args)
        test = made(self.test_path, self.test_args)
        return Source(train, test, None, default_collate, self.workers)
