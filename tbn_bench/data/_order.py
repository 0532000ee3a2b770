"""The order of the samples: shuffled by a seed and the epoch, shared among processes."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


def world_place() -> tuple[int, int]:
    """(number of this process, number of processes that train together)."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not together:
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Order(Sampler):
    """Lists of positions, shuffled by only (seed, epoch): a resumed run sees the same order.

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
        _, world = world_place()
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
        generator = seeded(self.seed * 100_003 + self.epoch)
        return torch.randperm(self.size, generator=generator).tolist()

    def __iter__(self) -> Iterator[list[int]]:
        positions = self._positions()
        rank, world = world_place()
        last = len(self) - 1
        for i in range(len(self)):
            start = i * self.batch_size
            end = self.size if i == last else start + self.batch_size
            batch = positions[start:end]
            yield batch[rank::world]
