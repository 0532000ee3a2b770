"""The stored form of a weight: every code by hand and back, sizes to the bit, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbn_bench.format.form import Form
from tbn_bench.format.layouts import Copies


def i8(*values):
    return np.array(values, np.int8)


def f32(*values):
    return np.array(values, np.float32)


def u8(*values):
    return np.array(values, np.uint8)


def test_signs_by_hand():
    """Two tiles of three signs, one scale each: value k is bit k, a set bit +1."""
    form = Form((3, 2), p=2, scales=2)
    tensors = form.encode(i8(1, -1, 1), f32(2, 0.5))
    assert tensors["tile"].tolist() == [0b101]
    assert form.dense(tensors).tolist() == [[2, -2], [2, 0.5], [-0.5, 0.5]]
    assert form.sizes == {"tile": 3, "alphas": 64}
    assert form.nbytes == 1 + 8


def test_ternary_digits_by_hand():
    """-1, 0, +1 are the digits 0, 1, 2, five to a byte, the first lowest: 0 + 3 + 18 + 54 + 0 = 75, then 2 and padding of 0."""
    form = Form((2, 3), scales=1, code="ternary")
    tensors = form.encode(i8(-1, 0, 1, 1, -1, 1), f32(0.5))
    assert tensors["tile"].tolist() == [75, 2]
    assert form.dense(tensors).tolist() == [[-0.5, 0, 0.5], [0.5, -0.5, 0.5]]
    assert form.sizes == {"tile": 16, "alphas": 32}
    assert form.encode(i8(1, 1, 1, 1, 1, -1), f32(1))["tile"].tolist() == [242, 0]


def test_codebook_indices_by_hand():
    """Three kernels of two bits: indices 2, 0, 3 are 0b11_00_10; an entry's sign j is bit 9 e + j of the codebook."""
    book = -np.ones((4, 9), np.int8)
    book[1, 0] = book[2, 1] = book[3, 8] = 1
    form = Form((3, 1, 3, 3), scales=3, code="codebook", index_bits=2)
    tensors = form.encode(book[[2, 0, 3]], f32(1, 2, 3), codebook=book)
    assert tensors["tile"].tolist() == [0b110010]
    assert np.flatnonzero(np.unpackbits(tensors["codebook"], bitorder="little")).tolist() == [
        9,
        19,
        35,
    ]
    assert np.array_equal(
        form.dense(tensors).reshape(3, 9), book[[2, 0, 3]] * f32(1, 2, 3)[:, None]
    )
    assert form.sizes == {"tile": 6, "alphas": 96, "codebook": 36}
    assert form.nbytes == 1 + 12 + 5


def test_equal_entries_take_the_first_index():
    """A codebook may hold a kernel twice; the lower index is stored."""
    book = np.ones((4, 9), np.int8)
    book[1] = book[2] = -1
    form = Form((2, 1, 3, 3), scales=2, code="codebook", index_bits=2)
    assert form.encode(book[[2, 3]], f32(1, 1), codebook=book)["tile"].tolist() == [0b0001]


def test_exponents_and_offsets_by_hand():
    """A quarter is 2^-2; an offset is added to the scaled value."""
    form = Form((3, 2), scales=3, exponents=True)
    tensors = form.encode(i8(1, -1, 1, 1, -1, 1), f32(0.25, 1, 8))
    assert (tensors["alphas"].dtype, tensors["alphas"].tolist()) == (np.int8, [-2, 0, 3])
    assert form.dense(tensors).tolist() == [[0.25, -0.25], [1, 1], [-8, 8]]
    assert form.sizes == {"tile": 6, "alphas": 24}
    form = Form((2, 2), scales=2, offsets=True)
    tensors = form.encode(i8(1, -1, 1, 1), f32(2, 0.5), f32(10, -1))
    assert form.dense(tensors).tolist() == [[12, 8], [-0.5, -0.5]]
    assert form.sizes == {"tile": 4, "alphas": 64, "offsets": 64}


@given(
    st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=60),
    st.floats(2**-20, 2**20, width=32),
)
def test_ternary_round_trip(values, scale):
    """Any values come back, in ceil(n / 5) bytes below 243."""
    form = Form((1, len(values)), scales=1, code="ternary")
    tensors = form.encode(np.array(values), f32(scale))
    assert form.values(tensors).tolist() == values
    assert (len(tensors["tile"]), tensors["tile"].max() < 243) == (-(-len(values) // 5), True)
    assert np.array_equal(form.dense(tensors)[0], np.array(values, np.float32) * f32(scale))


@given(st.integers(1, 8), st.randoms(use_true_random=False), st.integers(1, 40))
def test_codebook_round_trip(width, random, kernels):
    """Any choice of entries comes back, in kernels * width bits."""
    numbers = np.array(random.sample(range(512), 1 << width))
    book = ((numbers[:, None] >> np.arange(9)) & 1) * 2 - 1
    picked = book[[random.randrange(1 << width) for _ in range(kernels)]]
    form = Form((kernels, 1, 3, 3), scales=kernels, code="codebook", index_bits=width)
    tensors = form.encode(picked, np.ones(kernels, np.float32), codebook=book)
    assert np.array_equal(form.values(tensors), picked.reshape(-1))
    assert len(tensors["tile"]) == -(-kernels * width // 8)
    assert form.nbytes == sum(t.nbytes for t in tensors.values())


@given(st.lists(st.integers(-127, 127), min_size=1, max_size=20))
def test_exponents_round_trip(exponents):
    """Every power of two that float32 has, down to the subnormal 2^-127, is its exponent."""
    form = Form((len(exponents), 3), scales=len(exponents), exponents=True)
    scales = np.exp2(np.array(exponents, np.float64)).astype(np.float32)
    tensors = form.encode(np.ones(3 * len(exponents)), scales)
    assert tensors["alphas"].tolist() == exponents
    assert np.array_equal(form.dense(tensors)[:, 0], scales)


@given(
    st.sampled_from([1, 2, 3, 6]),
    st.sampled_from([0, 1, 2, 6]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_signs_round_trip(p, k, offsets, random):
    """alpha * value + offset for any number of tiles and scales, in the order of the weights."""
    form = Form((6, 4), p, k, offsets=offsets and k > 0)
    tile = np.array([random.choice([-1, 1]) for _ in range(24 // p)])
    alphas, shifts = (
        np.array([random.uniform(-2, 2) for _ in range(k)], np.float32) for _ in range(2)
    )
    tensors = form.encode(tile, alphas, shifts if form.offsets else None)
    expected = np.tile(tile, p).astype(np.float32)
    if k:
        expected = expected * alphas.repeat(24 // k) + (
            shifts.repeat(24 // k) if form.offsets else 0
        )
    assert np.array_equal(form.dense(tensors), expected.reshape(6, 4).astype(np.float32))
    assert form.nbytes == sum(t.nbytes for t in tensors.values())


BOOK = np.array([[1] * 9, [-1] * 9])
CODEBOOK = Form((2, 1, 3, 3), scales=2, code="codebook", index_bits=1)
TERNARY = Form((1, 6), scales=1, code="ternary")


@pytest.mark.parametrize(
    ("form", "arguments", "message"),
    [
        (Form((1, 3)), (i8(1, 0, 1), f32()), r"only \+1 and -1 can be packed, got"),
        (TERNARY, (i8(0, 0, 0, 0, 0, 2), f32(1)), "only -1, 0 and"),
        (TERNARY, (f32(0, 0, 0, 0, 0, 0.5), f32(1)), "only -1, 0 and"),
        (TERNARY, (f32(0, 0, 0, 0, 0, np.nan), f32(1)), "only -1, 0 and"),
        (CODEBOOK, (np.array([1] * 17 + [-1]), f32(1, 1), None, BOOK), "a kernel is not in the codebook"),
        (CODEBOOK, (np.ones(18), f32(1, 1), None, np.zeros((2, 9))), "only .1 and -1 can be packed|not in the codebook"),
        (CODEBOOK, (np.ones(18), f32(1, 1), None, np.ones((4, 9))), "its codebook is uint8 .5,., expected uint8 .3,."),
        *[(Form((1, 2), scales=1, exponents=True), (i8(1, 1), f32(v)), "only scales 2.e") for v in (3, 0, -2, np.inf, np.nan, 2.0**-128)],
        (Form((2, 2), scales=2), (i8(1, 1, 1, 1), f32(1)), "its alphas is float32 .1,., expected float32 .2,."),
        (Form((2, 2), scales=2), (i8(1, 1, 1, 1, 1, 1, 1, 1, 1), f32(1, 1)), "its tile is uint8 .2,., expected uint8 .1,."),
        (Form((2, 2), scales=2, offsets=True), (i8(1, 1, 1, 1), f32(1, 1)), "its offsets is missing"),
        (Form((2, 2), scales=2, offsets=True), (i8(1, 1, 1, 1), f32(1, 1), f32(1)), "its offsets is float32 .1,., expected"),
    ],
)  # fmt: skip
def test_what_the_code_cannot_hold_is_refused(form, arguments, message):
    """No value is mapped silently, and shapes are checked before anything is stored."""
    with pytest.raises(ValueError, match=message):
        form.encode(*arguments)


@pytest.mark.parametrize(
    ("form", "tensors", "message"),
    [
        (TERNARY, {"tile": u8(243, 0), "alphas": f32(1)}, "below 243; the data is damaged"),
        (TERNARY, {"tile": u8(0, 3), "alphas": f32(1)}, "padding digits after value 6 must be 0"),
        (
            CODEBOOK,
            {"tile": u8(0b100), "codebook": u8(255, 1, 0), "alphas": f32(1, 1)},
            "padding bits after index 2 must be clear",
        ),
        (
            CODEBOOK,
            {"tile": u8(0b10), "codebook": u8(255, 1, 4), "alphas": f32(1, 1)},
            "padding bits after value 18 must be clear",
        ),
        (
            Form((1, 6)),
            {"tile": u8(64), "alphas": f32()},
            "padding bits after value 6 must be clear",
        ),
    ],
)
def test_damaged_tensors_are_refused(form, tensors, message):
    """Right types and shapes, but bytes that this suite never writes."""
    assert form.check(tensors) == ""
    with pytest.raises(ValueError, match=message):
        form.dense(tensors)


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ({}, "its tile is missing"),
        ({"tile": u8(0, 0)}, "its alphas is missing"),
        ({"tile": i8(0, 0), "alphas": f32(1)}, "its tile is int8 (2,), expected uint8 (2,)"),
        ({"tile": u8(0), "alphas": f32(1)}, "its tile is uint8 (1,), expected uint8 (2,)"),
        (
            {"tile": u8(0, 0), "alphas": f32(1, 1)},
            "its alphas is float32 (2,), expected float32 (1,)",
        ),
        (
            {"tile": u8(0, 0), "alphas": np.ones(1)},
            "its alphas is float64 (1,), expected float32 (1,)",
        ),
        ({"tile": u8(0, 0), "alphas": i8(1)}, "its alphas is int8 (1,), expected float32 (1,)"),
        ({"tile": u8(0, 0), "alphas": f32(1)}, ""),
    ],
)
def test_types_and_shapes_are_checked(tensors, fault):
    assert TERNARY.check(tensors) == fault


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"code": "huffman"},
            "code must be one of sign, ternary, codebook, low_rank, got 'huffman'",
        ),
        ({"p": 5}, "p = 5 does not divide 36 weights"),
        ({"p": 0}, "p = 0 does not divide"),
        ({"scales": 5}, "5 scales do not divide 36 weights"),
        ({"offsets": True}, "offsets need scales"),
        ({"code": "codebook"}, "1 to 9 index bits"),
        ({"code": "codebook", "index_bits": 10}, "1 to 9 index bits"),
        ({"code": "codebook", "index_bits": 2, "p": 2}, "a codebook needs p = 1"),
        ({"code": "codebook", "index_bits": 2, "shape": (5, 2)}, "kernels of 9 values"),
        (
            {"p": 2, "copies": Copies((4, 9), 4, "rotated")},
            r"copies are for \(4, 9\) and p = 4, not",
        ),
        ({"copies": Copies((2, 18), 1)}, r"copies are for \(2, 18\) and p = 1, not"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, message):
    """A form that cannot be is none, so that no reader meets one."""
    with pytest.raises(ValueError, match=message):
        Form(**{"shape": (4, 9)} | parts)


def test_plain_is_what_the_kernels_take():
    """Signs, float scales and aligned copies, and nothing else."""
    assert Form((4, 9), 2, 2).plain
    assert Form((4, 9), 2, 2, copies=Copies((4, 9), 2)).plain
    others = [
        {"code": "ternary"},
        {"exponents": True},
        {"offsets": True},
        {"copies": Copies((4, 9), 1, "rotated")},
    ]
    columns = Form((4, 8), 2, 2, copies=Copies((4, 8), 2, "columns"))
    assert (columns.plain, columns.product) == (
        False,
        Form((4, 4), 1, 2),
    )  # behind sums of two inputs
    assert not any(Form((4, 9), scales=4, **other).plain for other in others)
    assert not Form((4, 9), scales=4, code="codebook", index_bits=3).plain
