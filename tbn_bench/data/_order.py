"""The order of the samples: shuffled by a seed and the epoch, shared among processes."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


def world_place() -> tuple[int, int]:
    """(number of this process, number of processes that train together)."""
    group = torch.distributed
    together = group.is_available() and group.is_initialized()
    if not together:
        return 0, 1
    rank = group.get_rank()
    world = group.get_world_size()
    return rank, world


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Order(Sampler):
    """Lists of positions, shuffled by only (seed, epoch): a resumed run sees the same order.

    seed None: in order, for evaluation.
    pool: the positions are drawn from so many, with replacement; None: each of `size` comes once.

    Each of several processes gets every world-th position of a batch: batch_size is that of all
    together. A last batch that is too small for that joins the batch before it. So does a last
    batch of one sample in training, because batch norm needs two. All processes have the same
    number of batches.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int | None,
        pool: int | None = None,
    ):
        self.size = size
        self.pool = pool
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
        has_others = self.size > self.batch_size
        joins = has_others and self.batch_size >= least > rest
        if joins:
            return whole
        return whole + 1

    def _positions(self) -> list[int]:
        if self.seed is None:
            return list(range(self.size))
        generator = seeded(self.seed * 100_003 + self.epoch)
        if self.pool is None:
            order = torch.randperm(self.size, generator=generator)
        else:
            order = torch.randint(self.pool, (self.size,), generator=generator)
        return order.tolist()

    def __iter__(self) -> Iterator[list[int]]:
        positions = self._positions()
        rank, world = world_place()
        count = len(self)
        for i in range(count):
            start = i * self.batch_size
            end = start + self.batch_size
            if i == count - 1:
                end = self.size
            batch = positions[start:end]
            yield batch[rank::world]
