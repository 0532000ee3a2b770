import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbn_bench.format import bits


def test_order_polarity_padding_by_hand():
    """Value 0 is the least significant bit, +1 is a set bit, padding is clear."""
    assert bits.pack(np.array([1, -1, -1, 1, -1, -1, -1, -1, 1])).tolist() == [
        0b00001001,
        0b00000001,
    ]


def test_words_are_little_endian():
    """Seen as one 32-bit little-endian word, value k is bit k."""
    values = -np.ones(32)
    values[17] = 1
    assert bits.pack(values).view("<u4")[0] == 1 << 17


@given(st.lists(st.sampled_from([1, -1]), max_size=100))
def test_round_trip(values):
    """unpack(pack(x)) is x, in ceil(n / 8) bytes."""
    data = bits.pack(np.array(values, dtype=np.float32))
    assert len(data) == bits.packed_bytes(len(values))
    assert bits.unpack(data, len(values)).tolist() == values


@pytest.mark.parametrize("values", [[1, 0, -1], [0.5], [float("nan")]])
def test_only_plus_minus_one(values):
    """A third value is an error, never mapped silently."""
    with pytest.raises(ValueError, match=r"only \+1 and -1"):
        bits.pack(np.array(values))


@pytest.mark.parametrize(
    "data", [np.array([8], np.uint8), np.array([1, 0], np.uint8), np.array([1], np.int32)]
)
def test_unpack_refuses_foreign_data(data):
    """Set padding bits, a wrong length and a wrong type are refused."""
    with pytest.raises(ValueError):
        bits.unpack(data, 3)
