"""A Hamming code over the bits of a tile: it corrects one wrong bit per block. numpy alone.

R. W. Hamming, Error detecting and error correcting codes, Bell System Technical Journal 29 (1950).

A block has k data bits and r check bits, r being the smallest number with 2^r >= k + r + 1: 7 for
64. Each bit has a number, its column. That of check bit i is 2^i; those of the data bits are the
other numbers from 3 on. The check bits make the exclusive or of the columns of all set bits 0.
After one error it is the column of the wrong bit. Two errors in a block are not corrected, and may
make a third.
"""

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]  # of 0 and 1


def num_checks(block: int) -> int:
    """Check bits of a block. Raises ValueError for an empty block."""
    if block < 1:
        raise ValueError(f"a block needs at least 1 data bit, got {block}")
    r = 2
    while 2**r < block + r + 1:
        r += 1
    return r


class Hamming:
    """block: data bits per block, k."""

    def __init__(self, block: int = 64):
        self.block = block
        self.checks = num_checks(block)
        numbers = np.arange(1, block + self.checks + 1)
        is_power = (numbers & (numbers - 1)) == 0
        self._columns = numbers[~is_power]
        places = np.arange(self.checks)
        planes = self._columns[:, None] >> places
        self._matrix = (planes & 1).astype(np.float32)
        self._worth = 1 << places

    def blocks(self, size: int) -> int:
        """Blocks that hold `size` data bits; the last may be shorter."""
        return -(-size // self.block)

    def added(self, size: int) -> int:
        """Check bits that `size` data bits need."""
        return self.blocks(size) * self.checks

    def encode(self, data: Bits) -> Bits:
        """data: (n,) of 0 and 1 -> its check bits: (blocks, r)."""
        return self._parities(self._divided(data))

    def correct(self, data: Bits, checks: Bits) -> Bits:
        """data: (n,), checks: (blocks, r), as read -> (n,), the data after correction."""
        divided = self._divided(data)
        syndromes = self._parities(divided) ^ checks
        wrong = syndromes.astype(np.int64) @ self._worth
        is_wrong = wrong[:, None] == self._columns
        corrected = divided ^ is_wrong
        return corrected.reshape(-1)[: data.size]

    def _divided(self, data: Bits) -> Bits:
        """(n,) -> (blocks, k); a short last block is filled with zeros, which are not stored."""
        full = np.zeros(self.blocks(data.size) * self.block, np.uint8)
        full[: data.size] = data
        return full.reshape(-1, self.block)

    def _parities(self, divided: Bits) -> Bits:
        sums = divided.astype(np.float32) @ self._matrix  # exact: at most k ones
        return (sums.astype(np.int64) & 1).astype(np.uint8)
