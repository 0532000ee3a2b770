"""The arena: one block of memory for all values.

Values that do not live at the same time share it.
"""

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass

Life = tuple[int, int]


@dataclass
class Buffer:
    """Memory in use from step `first` to step `last`, both included. start: offset in the arena."""

    key: Hashable
    first: int
    last: int
    size: int
    start: int = 0

    @property
    def end(self) -> int:
        return self.start + self.size

    def alive_with(self, other: "Buffer") -> bool:
        return self.first <= other.last and other.first <= self.last


def lifetimes(
    steps: Sequence[tuple[Iterable[int], int]], inputs: Iterable[int], kept: Collection[int]
) -> dict[int, Life]:
    """Value -> (step that makes it, last step that reads it).

    steps: (values read, value made) of each step in order. inputs: made before step 0, in step -1.
    kept: values that are needed after all steps.
    """
    lives = {value: (-1, -1) for value in inputs}
    for step, (read, made) in enumerate(steps):
        lives[made] = (step, step)
        for value in read:
            lives[value] = (lives[value][0], step)
    for value in kept:
        lives[value] = (lives[value][0], len(steps))
    return lives


def place(buffers: Iterable[Buffer]) -> None:
    """Sets the start of each buffer: the lowest offset that is free for its whole life.

    First fit by decreasing size; of equal sizes the earlier one is placed first.
    """
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.first)):
        neighbours = [other for other in placed if other.alive_with(buffer)]
        taken = sorted((other.start, other.end) for other in neighbours)
        for low, high in taken:
            if buffer.end <= low:
                break
            buffer.start = max(buffer.start, high)
        placed.append(buffer)
