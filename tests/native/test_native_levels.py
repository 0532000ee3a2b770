"""Guards the CPU kernels: every instruction set this machine has against float64, on shapes that meet every loop end."""

import itertools
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tbn_bench import native
from tbn_bench.compiler import names
from tbn_bench.compiler.graph import Activation
from tbn_bench.compiler.rules.activations import ACTIVATIONS
from tbn_bench.experiment import numpy_forward
from tbn_bench.format import bits
from tbn_bench.native import Op, Program, abi, library
from tbn_bench.native import levels as level_choice

try:
    LEVELS = native.available_levels()
except native.NativeUnavailable as error:
    pytest.skip(f"native kernels: {error}", allow_module_level=True)

TOLERANCE = 3e-6  # of the largest value: float32 sums of up to 6272 terms


def signs_of(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, shape, dtype=np.int8) * 2 - 1


def run_conv(
    level,
    x,
    signs,
    p=1,
    stride=(1, 1),
    padding=(0, 0),
    dilation=(1, 1),
    groups=1,
    relu=False,
    residual=False,
    group=1,
    precision="f32",
    threads=1,
):
    """(native result, float64 reference) of scale * conv + shift (+ residual) (then ReLU). x: (n, C, H, W), signs: (R, C/g, kh, kw)."""
    rng = np.random.default_rng(1)
    rows, channels, kh, kw = signs.shape
    out_channels = rows * p
    scale, shift = rng.uniform(0.5, 1.5, out_channels), rng.standard_normal(out_channels)
    per_group = signs.reshape(groups, rows // groups, channels, kh, kw)
    tiled = np.concatenate(
        [np.tile(g, (p, 1, 1, 1)) for g in per_group]
    )  # copies lie inside their group
    expected = F.conv2d(
        torch.from_numpy(x).double(),
        torch.from_numpy(tiled).double(),
        None,
        stride,
        padding,
        dilation,
        groups,
    )
    expected = expected.numpy() * scale[:, None, None] + shift[:, None, None]
    extra = rng.standard_normal(expected.shape).astype(np.float32)
    if residual:
        expected = expected + extra
    if relu:
        expected = np.maximum(expected, 0)
    weights = [
        native.SignWeights(bits.pack(g), rows // groups, channels, kh, kw, level) for g in per_group
    ]
    shapes = [(*x.shape[2:], x.shape[1]), (*expected.shape[2:], out_channels)] + (
        [(*expected.shape[2:], out_channels)] * residual
    )
    op = Op(native.CONV, 0, 1, residual=2 if residual else -1, kernel=(kh, kw), stride=stride, padding=padding, dilation=dilation,
            p=p, rows=rows // groups, relu=relu, weights=weights, scale=scale, shift=shift)  # fmt: skip
    plan = Program(
        [op],
        shapes,
        [0, 2] if residual else [0],
        [1],
        level=level,
        group=group,
        precision=precision,
    )
    inputs = [np.ascontiguousarray(a) for a in ([x, extra] if residual else [x])]
    out = np.full(expected.shape, np.nan, np.float32)  # whatever is not written stays NaN
    plan.run([a.ctypes.data for a in inputs], [out.ctypes.data], len(x), threads)
    return out, expected


def close(got: np.ndarray, expected: np.ndarray) -> bool:
    return bool(
        np.isfinite(got).all()
        and np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()
    )


def images(*shape: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("channels", [1, 3, 15, 16, 17, 32, 33, 63])
@pytest.mark.parametrize("kernel", [1, 3])
def test_channels_and_rows_of_any_count(level, channels, kernel):
    """Vector widths, chunks of 32 columns and blocks of 16 rows all have ends."""
    for rows, p in ((1, 1), (5, 3), (16, 4), (17, 2), (48, 1), (65, 1)):
        x, signs = images(2, channels, 5, 9), signs_of(rows, channels, kernel, kernel)
        assert close(*run_conv(level, x, signs, p, padding=(kernel // 2, kernel // 2))), (rows, p)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        ((3, 3), (2, 2), (1, 1), (1, 1)), ((1, 1), (2, 2), (0, 0), (1, 1)), ((3, 3), (1, 1), (2, 2), (2, 2)),
        ((5, 5), (1, 1), (2, 2), (1, 1)), ((2, 2), (2, 2), (0, 0), (1, 1)), ((3, 3), (3, 3), (0, 0), (1, 1)),
        ((7, 7), (2, 2), (3, 3), (1, 1)), ((3, 3), (2, 2), (2, 2), (3, 3)), ((1, 5), (1, 2), (0, 2), (1, 1)),
        ((3, 1), (2, 1), (1, 0), (1, 2)), ((3, 3), (1, 1), (0, 0), (1, 1)), ((1, 1), (1, 1), (1, 1), (1, 1)),
    ],
)  # fmt: skip
def test_geometry(level, kernel, stride, padding, dilation):
    """Strides, paddings, dilations and kernels that are not square; images that are not; several images at once."""
    for height, width in ((9, 9), (8, 8), (7, 13), (12, 7)):
        for group in (1, 3):
            x, signs = images(4, 20, height, width), signs_of(18, 20, *kernel)
            assert close(*run_conv(level, x, signs, 2, stride, padding, dilation, group=group)), (
                height,
                width,
                group,
            )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("groups", [2, 3])
def test_groups_residual_and_relu(level, groups):
    x, signs = images(3, 12 * groups, 6, 6), signs_of(10 * groups, 12, 3, 3)
    for residual in (False, True):
        for relu in (False, True):
            assert close(
                *run_conv(
                    level, x, signs, 2, padding=(1, 1), groups=groups, relu=relu, residual=residual
                )
            )


@pytest.mark.parametrize("precision", ["f32", "a14"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rows", [1, 2, 4, 6, 8, 12, 24])
def test_tiles_with_fewer_rows_than_lanes(level, precision, rows):
    """Copies or neighbouring positions share the lanes of a vector: every width, with copies that fill vectors and that do not."""
    if precision != "f32" and (level, precision) not in lossy():
        pytest.skip(f"level {level} has no precision {precision} here")
    bound = TOLERANCE if precision == "f32" else ERROR[precision]
    for p, width, kernel in itertools.product((16, 3), (1, 2, 7, 15), (1, 3)):
        x, signs = images(2, 70, 4, width), signs_of(rows, 70, kernel, kernel)
        pad = (kernel // 2, kernel // 2)
        got, expected = run_conv(
            level, x, signs, p, padding=pad, residual=True, precision=precision
        )
        assert np.abs(got - expected).max() <= bound * np.abs(expected).max(), (p, width, kernel)


def lossy() -> list[tuple[str, str]]:
    """(level, precision) of every rounded precision this CPU has."""
    pairs = [
        (level, precision)
        for level in LEVELS
        for precision in native.PRECISIONS
        if precision != "f32"
    ]
    return [
        pair
        for pair in pairs
        if native.load().tbn_planes_available(
            level_choice.index_of(pair[0]), native.PRECISIONS[pair[1]]
        )
    ]


ERROR = {
    "a14": 3e-4,
    "bf16x2": 1e-4,
    "bf16": 2e-2,
}  # 14 bits of the image's largest value; 16 and 8 bits of each value


@pytest.mark.parametrize(("level", "precision"), lossy())
def test_rounded_activations_keep_their_bound(level, precision):
    """Less exact and within what the number of bits allows: on every geometry, and not more exact than rounding can be."""
    for seed in range(25):
        rng = np.random.default_rng(seed)
        kernel, stride = (tuple(int(v) for v in rng.integers(1, top, 2)) for top in (4, 3))
        channels, rows, p, n = (int(v) for v in rng.integers(1, [140, 70, 5, 6]))
        x = images(n, channels, 9, 12, seed=seed) * rng.uniform(0.01, 100, (n, 1, 1, 1)).astype(
            np.float32
        )
        signs = signs_of(rows, channels, *kernel, seed=seed)
        got, expected = run_conv(level, x, signs, p, stride, (1, 1), group=2, precision=precision)
        for y, reference in zip(got, expected, strict=True):  # each image by its own size
            assert np.abs(y - reference).max() <= ERROR[precision] * max(
                np.abs(reference).max(), np.abs(x).max()
            )
    assert np.abs(got - expected).max() > 0
    broken = images(1, 20, 5, 5)
    broken[0, 3, 0, 0] = np.nan
    assert np.isnan(
        run_conv(level, broken, signs_of(18, 20, 3, 3), padding=(1, 1), precision=precision)[0][
            0, :, 0, 0
        ]
    ).all()
    zeros = run_conv(
        level, np.zeros((1, 8, 4, 4), np.float32), signs_of(16, 8, 3, 3), precision=precision
    )
    assert np.allclose(*zeros, atol=1e-6)


@pytest.mark.skipif(
    not {("amx", "a14"), ("avx512", "a14")} <= set(lossy()), reason="needs AMX and AVX-512 VNNI"
)
def test_rounded_activations_give_the_same_sums_at_every_level():
    """Both levels round alike and sum integers exactly: what is left is the last multiply-add."""
    for channels, kernel, stride in ((64, 3, 1), (131, 3, 2), (20, 3, 1), (300, 1, 1)):
        x, signs = images(3, channels, 8, 8), signs_of(40, channels, kernel, kernel)
        found = [
            run_conv(
                level, x, signs, 2, (stride, stride), (kernel // 2, kernel // 2), precision="a14"
            )[0]
            for level in ("amx", "avx512")
        ]
        assert np.abs(found[0] - found[1]).max() <= 1e-6 * np.abs(found[1]).max()


def test_a_precision_that_is_not_there_is_an_error():
    with pytest.raises(native.NativeUnavailable, match="generic has no precision a14"):
        run_conv("generic", images(1, 8, 4, 4), signs_of(16, 8, 1, 1), precision="a14")
    with pytest.raises(ValueError, match="precision must be one of"):
        run_conv("generic", images(1, 8, 4, 4), signs_of(16, 8, 1, 1), precision="int4")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("columns", [1, 4, 15, 16, 17, 63, 64, 1023, 2500])
def test_linear_layers_of_any_size(level, columns):
    """1 x 1 images, one at a time and together: few pixels take other paths than many."""
    for n, group in ((1, 1), (3, 8), (8, 8), (21, 64)):
        x, signs = images(n, columns, 1, 1), signs_of(33, columns, 1, 1)
        assert close(*run_conv(level, x, signs, 2, group=group)), (n, group)


@pytest.mark.parametrize("precision", ["f32", "a14"])
@pytest.mark.parametrize("level", LEVELS)
def test_positions_and_rows_of_any_count(level, precision):
    """Tiles of 16 positions by 16 rows have ends, alone and in blocks; long lists of pixels are cut."""
    if precision != "f32" and (level, precision) not in lossy():
        pytest.skip(f"level {level} has no precision {precision} here")
    for columns, rows, n in [
        (64, r, m) for r in (1, 16, 17, 48, 70) for m in (6, 16, 17, 33, 70)
    ] + [(3000, 33, 70)]:
        x, signs = images(n, columns, 1, 1), signs_of(rows, columns, 1, 1)
        got, expected = run_conv(level, x, signs, 3, group=80, precision=precision)
        bound = TOLERANCE if precision == "f32" else ERROR[precision]
        assert np.abs(got - expected).max() <= bound * np.abs(expected).max(), (columns, rows, n)
    for channels, rows, size in [(64, r, s) for r in (16, 40, 80) for s in (3, 4, 5, 8, 9)] + [
        (100, 33, 13)
    ]:
        x, signs = images(2, channels, size, size), signs_of(rows, channels, 3, 3)
        got, expected = run_conv(level, x, signs, 2, padding=(1, 1), precision=precision)
        assert np.abs(got - expected).max() <= bound * np.abs(expected).max(), (
            channels,
            rows,
            size,
        )


@pytest.mark.parametrize("level", LEVELS)
def test_outputs_over_inputs_and_memory_of_any_alignment(level):
    """A plan works on its caller's memory where it lies right, writes nothing beside it, and copies where an output lies over an input."""
    signs = signs_of(24, 24, 3, 3)
    weights = native.SignWeights(bits.pack(signs), 24, 24, 3, 3, level)
    op = Op(native.CONV, 0, 1, kernel=(3, 3), padding=(1, 1), rows=24, weights=[weights])
    x = images(3, 7, 5, 24)  # (n, H, W, C)
    plan = Program([op], [(7, 5, 24), (7, 5, 24)], nhwc=[0, 1], level=level)
    expected = plan(x)
    for threads in (1, 2, 5):
        room = np.full(x.size + 32, np.nan, np.float32)
        inside = room[3 : 3 + x.size].reshape(x.shape)  # 12 bytes off
        plan.run([x.ctypes.data], [inside.ctypes.data], len(x), threads)
        assert close(inside, expected)
        assert np.isnan(room[:3]).all()
        assert np.isnan(room[3 + x.size :]).all()
        inside[...] = x
        plan.run([inside.ctypes.data], [inside.ctypes.data], len(x), threads)
        assert close(inside, expected)


@pytest.mark.parametrize("level", LEVELS)
def test_dense_float_weights(level):
    """A layer kept in full precision runs in the same plan."""
    weight, x = images(21, 3, 3, 3), images(2, 3, 10, 10)
    expected = F.conv2d(
        torch.from_numpy(x).double(), torch.from_numpy(weight).double(), padding=1
    ).numpy()
    op = Op(
        native.CONV,
        0,
        1,
        kernel=(3, 3),
        padding=(1, 1),
        rows=21,
        weights=[native.FloatWeights(weight, level)],
    )
    assert close(Program([op], [(10, 10, 3), (10, 10, 21)], level=level)(x), expected)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("columns", range(1, 18))
@pytest.mark.parametrize("rows", [16, 50, 100, 130])
def test_dense_tiles_of_any_size(level, columns, rows):
    """Each number of pixels and of rows at once, with all channels of a tap and with a part of them."""
    weight, x = images(rows, 19, 3, 1), images(2, 19, 5, columns)
    op = Op(
        native.CONV,
        0,
        1,
        kernel=(3, 1),
        padding=(1, 0),
        rows=rows,
        weights=[native.FloatWeights(weight, level)],
    )
    expected = F.conv2d(
        torch.from_numpy(x).double(), torch.from_numpy(weight).double(), padding=(1, 0)
    )
    program = Program([op], [(5, columns, 19), (5, columns, rows)], level=level)
    assert close(program(x), expected.numpy())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("channels", "stride", "size"), [(2100, 1, 12), (40, 2, 9), (40, 3, 7)])
def test_dense_weights_divided_into_blocks_of_channels(level, channels, stride, size):
    """More weights than are kept near at once; layers that read the caller's pixels where they are."""
    weight, x = images(70, channels, 1, 1), images(2, channels, size, size)
    out = (size - 1) // stride + 1
    op = Op(
        native.CONV,
        0,
        1,
        stride=(stride, stride),
        rows=70,
        weights=[native.FloatWeights(weight, level)],
    )
    expected = F.conv2d(
        torch.from_numpy(x).double(), torch.from_numpy(weight).double(), stride=stride
    )
    program = Program([op], [(size, size, channels), (out, out, 70)], level=level)
    assert close(program(x), expected.numpy())


@pytest.mark.parametrize("level", LEVELS)
def test_nan_and_infinity_reach_the_output(level):
    """A broken activation must show, through the ReLU too."""
    x, signs = images(1, 8, 4, 4), signs_of(16, 8, 1, 1)
    x[0, 0, 0, 0], x[0, 0, 2, 2] = np.nan, np.inf
    out = run_conv(level, x, signs, relu=True)[0]
    assert np.isnan(out[0, :, 0, 0]).all()
    assert not np.isfinite(out[0, signs[:, 0, 0, 0] > 0, 2, 2]).any()
    assert np.isfinite(out[0, :, 1, 1]).all()


@pytest.mark.parametrize("level", LEVELS)
def test_one_flipped_bit_is_seen(level):
    x, signs = images(2, 32, 4, 4), signs_of(16, 32, 3, 3)
    good, expected = run_conv(level, x, signs, padding=(1, 1))
    signs[3, 5, 1, 1] *= -1
    bad, _ = run_conv(level, x, signs, padding=(1, 1))
    assert close(good, expected)
    assert not close(bad, expected)


@pytest.mark.parametrize("seed", range(30))
def test_random_geometry(seed):
    """Shapes nobody thought of."""
    rng = np.random.default_rng(seed)
    kernel, stride, dilation = (tuple(int(v) for v in rng.integers(1, top, 2)) for top in (5, 4, 4))
    padding = tuple(int(v) for v in rng.integers(0, 4, 2))
    height, width = (
        int(rng.integers(d * (k - 1) + 1, d * (k - 1) + 14))
        for k, d in zip(kernel, dilation, strict=True)
    )
    channels, rows, p, n = (int(v) for v in rng.integers(1, [70, 70, 5, 6]))
    x, signs = (
        images(n, channels, height, width, seed=seed),
        signs_of(rows, channels, *kernel, seed=seed),
    )
    for level in LEVELS:
        got, expected = run_conv(
            level, x, signs, p, stride, padding, dilation, group=int(rng.integers(1, 4))
        )
        assert close(got, expected), (level, x.shape, signs.shape, stride, padding, dilation)


def _conv_plan(level):
    weights = native.SignWeights(bits.pack(signs_of(16, 16, 3, 3)), 16, 16, 3, 3, level)
    op = Op(native.CONV, 0, 1, kernel=(3, 3), padding=(1, 1), p=2, rows=16, weights=[weights])
    return Program([op], [(8, 8, 16), (8, 8, 32)], level=level)


def test_threads_share_nothing():
    """Two Python threads in one plan, each with its own pool threads, give what one gives."""
    plan, x = _conv_plan(None), images(9, 16, 8, 8)
    expected, found = plan(x), {}

    def work(name):
        found[name] = [plan(x, threads=3) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert all(np.array_equal(y, expected) for results in found.values() for y in results)


@pytest.mark.parametrize("level", LEVELS)
def test_one_image_split_between_threads(level):
    """Fewer images than threads: each takes rows of every convolution; halos, strides and padding stay right. Also more threads than rows."""
    for stride, padding, dilation, height in (
        ((1, 1), (1, 1), (1, 1), 9),
        ((2, 2), (1, 1), (1, 1), 12),
        ((2, 1), (2, 2), (2, 1), 7),
    ):
        signs = signs_of(18, 20, 3, 3)
        x, residual = images(2, 20, height, 9), [False, True][height % 2]
        one, expected = run_conv(level, x, signs, 2, stride, padding, dilation, residual=residual)
        for threads in (3, 16):
            many, _ = run_conv(
                level, x, signs, 2, stride, padding, dilation, residual=residual, threads=threads
            )
            assert close(many, expected)
            assert close(one, expected)


@pytest.mark.parametrize("precision", ["f32", "a14"])
@pytest.mark.parametrize("level", LEVELS)
def test_parts_of_an_image_whose_margin_is_outside(level, precision):
    """Kernels of one row with a margin, strides with wide margins: the lowest part has more output rows than input."""
    if precision != "f32" and (level, precision) not in lossy():
        pytest.skip(f"level {level} has no precision {precision} here")
    for kernel, stride, padding, height, width in (
        ((1, 1), (1, 1), (1, 0), 6, 20), ((1, 1), (1, 1), (3, 2), 6, 20), ((1, 1), (1, 2), (1, 0), 18, 20), ((1, 1), (2, 2), (1, 1), 17, 250),
        ((2, 5), (2, 1), (3, 2), 20, 16), ((1, 1), (2, 3), (2, 2), 19, 7), ((1, 1), (1, 4), (2, 0), 13, 12), ((3, 3), (3, 1), (4, 1), 9, 9),
    ):  # fmt: skip
        x, signs = images(1, 8, height, width), signs_of(18, 8, *kernel)
        for threads in (1, 2, 3, 8):
            got, expected = run_conv(
                level, x, signs, 2, stride, padding, threads=threads, precision=precision
            )
            bound = TOLERANCE if precision == "f32" else ERROR[precision]
            assert np.isfinite(got).all()
            assert np.abs(got - expected).max() <= bound * max(
                np.abs(expected).max(), np.abs(x).max()
            ), (kernel, stride, threads)


@pytest.mark.parametrize(
    ("kind", "reference", "options"),
    [
        (native.MAX_POOL, lambda x: F.max_pool2d(x, 3, 2, 1), {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}),
        (native.AVG_POOL, lambda x: F.avg_pool2d(x, 2), {"kernel": (2, 2), "stride": (2, 2)}),
        (native.MEAN, lambda x: x.mean((2, 3), keepdim=True), {}),
        (native.RELU, F.relu, {}),
        (native.CHW, lambda x: x.flatten(1)[:, :, None, None], {}),
        (native.PAD_CHANNELS, lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 3)), {"stride": (2, 2), "padding": (2, 0)}),
        (native.LAYER_NORM, lambda x: F.layer_norm(x.movedim(1, 3), (5,), eps=1e-6).movedim(3, 1), {"eps": 1e-6}),
    ],
)  # fmt: skip
def test_the_other_ops(kind, reference, options):
    x = images(3, 5, 7, 8)
    expected = reference(torch.from_numpy(x).double()).numpy()
    shapes = [(7, 8, 5), (*expected.shape[2:], expected.shape[1])]
    assert close(Program([Op(kind, 0, 1, **options)], shapes)(x), expected)


@pytest.mark.parametrize("level", LEVELS)
def test_gelu_at_every_level(level):
    """The error function's own GELU: small, large, far, not a number; and ends that fill no vector."""
    x = np.concatenate(
        [np.linspace(-9, 9, 4001), [0.0, -0.0, 1e-30, -1e-30, 80.0, -80.0, 1e30, -1e30, np.nan]]
    ).astype(np.float32)
    plan = Program([Op("gelu", 0, 1)], [(1, 1, len(x)), (1, 1, len(x))], level=level)
    got = plan(x.reshape(1, -1, 1, 1)).reshape(-1)
    expected = F.gelu(torch.from_numpy(x).double()).numpy()
    assert np.isnan(got[-1])
    assert (np.abs(got - expected)[:-1] <= 5e-7 * np.maximum(np.abs(x[:-1]), 1e-3)).all()
    assert (got[:-1][x[:-1] < -6] == 0).all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", [native.ATTENTION, native.CAUSAL_ATTENTION])
@pytest.mark.parametrize(
    ("tokens", "heads", "depth"), [(1, 1, 1), (5, 2, 3), (16, 1, 16), (65, 8, 64), (70, 3, 65)]
)
def test_attention_at_every_level(level, kind, tokens, heads, depth):
    """Any number of tokens, any depth; causal or not."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3 * heads * depth, 1, tokens), dtype=np.float32)
    shapes = [(1, tokens, 3 * heads * depth), (1, tokens, heads * depth)]
    got = Program([Op(kind, 0, 1, rows=heads, eps=depth**-0.5)], shapes, level=level, group=2)(x)
    q, k, v = (
        torch.from_numpy(x[:, :, 0]).double().unflatten(1, (3, heads, depth)).permute(1, 0, 2, 4, 3)
    )
    expected = (
        F.scaled_dot_product_attention(q, k, v, is_causal=kind == native.CAUSAL_ATTENTION)
        .permute(0, 1, 3, 2)
        .flatten(1, 2)[:, :, None]
        .numpy()
    )
    assert close(got, expected)


def test_a_table_of_tokens_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not take 4 tokens and 1 more"):
        Program(
            [Op(native.TOKENS, 0, 1, rows=1, coefficients=np.ones((4, 6)))], [(1, 4, 6), (1, 5, 6)]
        )


@pytest.mark.parametrize("relu", [False, True])
def test_extremes_are_a_maximum_behind_the_copies(relu):
    """p scaled and shifted copies of R channels, then the maximum over positions: with scales of both signs, and more than one block."""
    x, rng = images(3, 70, 2, 9), np.random.default_rng(3)
    scale, shift = rng.standard_normal((2, 210)).astype(np.float32)
    copies = (
        np.tile(x, (1, 3, 1, 1)).astype(np.float64) * scale[:, None, None] + shift[:, None, None]
    )
    expected = np.maximum(copies, 0 if relu else -np.inf).max((2, 3), keepdims=True)
    op = Op(native.EXTREMES, 0, 1, p=3, rows=70, relu=relu, scale=scale, shift=shift)
    assert close(Program([op], [(2, 9, 70), (1, 1, 210)], group=2)(x), expected)
    x[1, 4, 1, 3] = np.nan
    assert np.isnan(Program([op], [(2, 9, 70), (1, 1, 210)])(x)[1, 4::70]).all()


@pytest.mark.parametrize("relu", [False, True])
def test_gather_sums_the_pieces_of_rows(relu):
    """Against the sum written out: 5 rows of 3 pieces out of 4 kinds, at 2 x 2 positions."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 2, 6, 4), dtype=np.float32)  # (n, H, W pieces, kinds)
    coefficients, scale, shift = (rng.standard_normal(n, dtype=np.float32) for n in (15, 5, 5))
    op = Op(native.GATHER, 0, 1, coefficients=coefficients, scale=scale, shift=shift, relu=relu)
    got = Program([op], [(2, 6, 4), (2, 2, 5)], nhwc=[0, 1])(x)
    expected = np.zeros((2, 2, 2, 5))
    for n, h, w, r in np.ndindex(expected.shape):
        y = (
            sum(
                float(coefficients[r * 3 + b]) * float(x[n, h, w * 3 + b, (r * 3 + b) % 4])
                for b in range(3)
            )
            * scale[r]
            + shift[r]
        )
        expected[n, h, w, r] = max(y, 0) if relu else y
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [2, 3, 4, 8])
def test_sums_of_neighbouring_channels(p):
    """Every count of channels to a sum, of whole images and of their parts in several threads."""
    x = images(2, 5 * p, 3, 7)
    expected = x.reshape(2, 5, p, 3, 7).astype(np.float64).sum(2)
    plan = Program([Op(native.GROUP_SUM, 0, 1, p=p)], [(3, 7, 5 * p), (3, 7, 5)])
    for threads in (1, 2, 3):
        assert close(plan(x, threads=threads), expected)
    assert close(plan(x[:1], threads=4), expected[:1])


@pytest.mark.parametrize(
    "shapes", [[(3, 7, 9), (3, 7, 2)], [(3, 7, 8), (7, 3, 2)], [(3, 7, 8), (3, 7, 4)]]
)
def test_sums_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ValueError, match="sums of 4 channels do not take"):
        Program([Op(native.GROUP_SUM, 0, 1, p=4)], shapes)


def test_coefficients_that_do_not_fit_are_refused():
    for shapes, count in (
        ([(1, 6, 4), (1, 2, 5)], 14),
        ([(1, 6, 4), (1, 4, 5)], 15),
        ([(1, 6, 4), (2, 2, 5)], 15),
    ):
        with pytest.raises(ValueError, match="coefficients do not take"):
            Program([Op(native.GATHER, 0, 1, coefficients=np.ones(count))], shapes)
    with pytest.raises(ValueError, match="coefficients do not take"):
        Program([Op(native.GATHER, 0, 1)], [(1, 6, 4), (1, 2, 5)])


def test_wrong_weights_and_inputs_are_refused():
    with pytest.raises(ValueError, match="expected uint8 bits of shape"):
        native.SignWeights(np.zeros(3, np.uint8), 16, 16)
    plan = _conv_plan(None)
    with pytest.raises(ValueError, match="expected float32 input of shape"):
        plan(np.zeros((1, 16, 8, 9), np.float32))
    with pytest.raises(ValueError, match="expected float32 input of shape"):
        plan(np.zeros((1, 16, 8, 8)))


def test_the_level_can_be_forced_and_an_absent_one_is_an_error():
    code = "from tbn_bench import native; print(native.level())"

    def ask(name):
        env = os.environ | {native.LEVEL_VARIABLE: name}
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)

    assert ask("generic").stdout.strip() == "generic"
    assert "unknown level 'sse9'" in ask("sse9").stderr


def test_a_level_that_computes_wrongly_is_not_chosen(monkeypatch):
    """The self-test compares with the portable level, so its tolerance must be able to fail."""
    monkeypatch.setattr(level_choice, "SELF_TEST_TOLERANCE", -1.0)
    level_choice.is_trusted.cache_clear()
    try:
        assert native.level() == "generic"
    finally:
        level_choice.is_trusted.cache_clear()


def test_without_the_library_the_reason_is_said(monkeypatch):
    monkeypatch.setattr(library, "_NAMES", ("libnothing.so",))
    monkeypatch.delenv(native.LIBRARY_VARIABLE, raising=False)
    with pytest.raises(native.NativeUnavailable, match="C\\+\\+17 compiler"):
        native.library_path()


def test_the_library_names_the_ops_that_python_makes():
    """Each name has one number, and the library knows the kinds of abi.py."""
    numbers = library.kind_numbers()
    names = set(numbers)
    assert sorted(numbers.values()) == list(range(len(names)))
    assert set(abi.KINDS) <= names


def _places_without(activation):
    """The places of docs/guides/activation.md that lack an activation function."""
    modules = {target for target in activation.torch if isinstance(target, type)}
    in_numpy = modules <= set(numpy_forward.LAYERS) and activation.name in numpy_forward.FUNCTIONS
    has_rules = set(activation.torch) <= set(names.RULES)
    has = {
        "a row of ACTIVATIONS in compiler/rules/activations.py": has_rules,
        "a row of kKinds in native/src/ops.inc": activation.name in library.kind_numbers(),
        "lines of LAYERS and FUNCTIONS in experiment/numpy_forward.py": in_numpy,
    }
    return [place for place, found in has.items() if not found]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda activation: activation.name)
def test_an_activation_has_all_its_places(activation):
    assert _places_without(activation) == [], "see docs/guides/activation.md"


def test_a_missing_place_of_an_activation_is_named():
    """Mish has none of them."""
    places = _places_without(Activation("mish", (nn.Mish,), F.mish))
    assert [place.split()[-1] for place in places] == [
        "compiler/rules/activations.py",
        "native/src/ops.inc",
        "experiment/numpy_forward.py",
    ]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda activation: activation.name)
@pytest.mark.parametrize("level", LEVELS)
def test_an_activation_is_its_formula(activation, level):
    """In float64, to a few roundings; a NaN stays, and ends of vectors are computed."""
    x = np.linspace(-12, 12, 1003, dtype=np.float32)[None, None, None]
    x[..., -1] = np.nan
    op = native.Op(activation.name, input=0, output=1)
    found = native.Program([op], [(1, 1003, 1), (1, 1003, 1)], level=level)(x)
    expected = activation.formula(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=0, atol=3e-6)
