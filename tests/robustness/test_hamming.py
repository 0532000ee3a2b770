"""Guards the Hamming code: one error per block is corrected, and its bits are counted."""

import numpy as np
import pytest

from tbn_bench.robustness.hamming import Hamming, num_checks


@pytest.mark.parametrize(("block", "checks"), [(1, 2), (4, 3), (11, 4), (26, 5), (57, 6), (64, 7)])
def test_check_bits_are_those_of_the_textbook(block, checks):
    """(7, 4), (15, 11), (31, 26), (63, 57), and 7 for 64 data bits."""
    assert num_checks(block) == checks


@pytest.mark.parametrize("size", [1, 11, 12, 50])
def test_every_single_error_is_corrected(size):
    """In a data bit or a check bit, of a whole block or of the short last one."""
    code = Hamming(11)
    data = np.random.default_rng(0).integers(0, 2, size).astype(np.uint8)
    checks = code.encode(data)
    assert checks.size == code.added(size)
    stored = np.concatenate([data, checks.reshape(-1)])
    for at in range(stored.size):
        read = stored.copy()
        read[at] ^= 1
        found = code.correct(read[:size], read[size:].reshape(checks.shape))
        assert np.array_equal(found, data), at


def test_one_error_in_each_block_is_corrected():
    code = Hamming(11)
    data = np.random.default_rng(0).integers(0, 2, 44).astype(np.uint8)
    read = data.copy()
    read[[0, 12, 30, 43]] ^= 1
    assert np.array_equal(code.correct(read, code.encode(data)), data)


def test_two_errors_in_a_block_are_not_corrected():
    """The code would need one more bit to see them."""
    code = Hamming(11)
    data = np.zeros(11, np.uint8)
    read = data.copy()
    read[[2, 7]] ^= 1
    assert not np.array_equal(code.correct(read, code.encode(data)), data)


def test_a_block_holds_something():
    with pytest.raises(ValueError, match="at least 1 data bit, got 0"):
        Hamming(0)
