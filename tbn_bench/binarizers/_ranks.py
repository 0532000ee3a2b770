"""The rank of each layer of low_rank, from a budget of stored bits.

A weight of a = C_out rows and b columns stores, at rank s, s (a + b) bits and a + s + C_in scales
of 32 bits. Each layer takes the largest rank that stays within b' bits per weight. b' is common to
all layers, and it is the largest whose total stays within the requested bits. A rank is at least 1
and at most min(a, b), and it stores no more than a binary layer with a scale per row would.
"""

from bisect import bisect_right
from fractions import Fraction
from math import floor

from tbn_bench.binarizers._base import Target

SCALE_BITS = 32


class Sizes:
    """The cost of ranks for one weight of shape (a, C_in, *k)."""

    def __init__(self, target: Target):
        self.name = target.name
        self.rows, self.channels = target.weight.shape[:2]
        self.numel = target.weight.numel()
        self.columns = self.numel // self.rows

    def stored(self, rank: int) -> int:
        """Bits, scales included."""
        scales = self.rows + rank + self.channels
        return rank * (self.rows + self.columns) + SCALE_BITS * scales

    @property
    def highest(self) -> int:
        return min(self.rows, self.columns)

    @property
    def useful(self) -> int:
        """The largest rank that stores no more than a binary layer with scales; at least 1."""
        binary = self.numel + SCALE_BITS * self.rows
        return max(1, min(self.highest, self._within(binary)))

    def _within(self, budget: int) -> int:
        left = budget - SCALE_BITS * (self.rows + self.channels)
        return left // (self.rows + self.columns + SCALE_BITS)

    def rank(self, bits: Fraction) -> int:
        """The largest useful rank within so many bits per weight; at least 1."""
        budget = floor(bits * self.numel)
        within = max(1, self._within(budget))
        return min(self.useful, within)


def ranks_within(layers: list[Sizes], bits: Fraction) -> list[int]:
    """The rank of each layer under the common budget.

    Raises ValueError, with the smallest possible bits, where rank 1 everywhere is too much.
    """

    def total(common: Fraction) -> int:
        return sum(layer.stored(layer.rank(common)) for layer in layers)

    budget = floor(bits * sum(layer.numel for layer in layers))
    if total(Fraction(0)) > budget:
        raise ValueError(_impossible(layers, bits, total(Fraction(0))))
    steps = sorted(_steps(layers))
    common = steps[bisect_right(steps, budget, key=total) - 1]
    return [layer.rank(common) for layer in layers]


def _steps(layers: list[Sizes]) -> set[Fraction]:
    """The common bits per weight at which some layer's rank grows, and 0."""
    found = {Fraction(0)}
    for layer in layers:
        larger = range(2, layer.useful + 1)
        found |= {Fraction(layer.stored(rank), layer.numel) for rank in larger}
    return found


def _impossible(layers: list[Sizes], bits: Fraction, smallest: int) -> str:
    weights = sum(layer.numel for layer in layers)
    least = -(-10_000 * smallest // weights) / 10_000
    named = ", ".join(layer.name for layer in layers[:3])
    if len(layers) > 3:
        named += f" and {len(layers) - 3} more"
    enough = f"use bits={least:.4f} or more, or " if least <= 1 else ""
    return (
        f"low_rank: bits={float(bits)} cannot be met: {named} take {least:.4f} bits per weight "
        f"at rank 1; {enough}raise min_layer_size"
    )
