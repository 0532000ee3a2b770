"""The convolution on an NVIDIA GPU, channels last: an implicit matrix product.

Its accumulator is stored p times with p scales, and ReLU if asked for:

    y[b, i R + r, h, w] = scales[i R + r] * sum(x * tile[r]) + bias[i R + r]

The sum is over taps and channels. One row of the product is one output pixel, K is taps x
channels, and nothing is unfolded in memory. Words begin at a tap, so that a block of columns is
one run of channels at one input pixel. Pixels outside of the image read zero. A 1x1 kernel that
moves by one pixel is the linear layer. One group; no gradient.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from tbn_bench.kernels import stored_tile
from tbn_bench.kernels.tiled_conv2d import out_size
from tbn_bench.kernels.tiled_linear.triton import (
    aligned_bits,
    block,
    check,
    config,
    linear_of_words,
    packed_words,
    signs,
    store_copies,
    suitable,
    tuned,
)

CONFIGS = [
    config(4, 4, BM=64, BN=64, BK=64),
    config(4, 4, BM=128, BN=64, BK=64),
    config(8, 3, BM=128, BN=128, BK=64),
    config(4, 4, BM=128, BN=32, BK=64),
    config(4, 4, BM=64, BN=16, BK=64),
    config(4, 4, BM=16, BN=64, BK=64),
    config(4, 2, BM=32, BN=32, BK=32),
    config(8, 2, BM=64, BN=64, BK=32),
]


@tuned(
    CONFIGS,
    ["R", "C", "KH", "KW", "SH", "bucket"],
    prune_configs_by={"early_config_prune": suitable},
)
@triton.jit(do_not_specialize=["M", "bucket"])
def conv_kernel(
    x,
    words,
    scales,
    bias,
    y,
    M,
    R,
    C,
    W,
    p,
    bucket,
    height,
    width,
    HO,
    WO,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    RELU: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """x: (B, height, width, C), words: (R, KH KW, W) -> y: (M = B HO WO, p R).

    bucket is the power of two that M is tuned for. Taps and blocks of channels are one loop,
    because only an innermost loop is pipelined.
    """
    rows, columns = block(tl.program_id(0), M, R, BM, BN)
    pixel = tl.minimum(rows, M - 1)
    top = pixel // WO % HO * SH - PH
    left = pixel % WO * SW - PW
    image = x + (pixel // (WO * HO)).to(tl.int64) * (height * width) * C
    words_at = words + tl.minimum(columns, R - 1)[:, None] * (KH * KW * W)
    blocks = tl.cdiv(C, BK)
    acc = tl.zeros((BM, BN), tl.float32)
    for step in range(0, KH * KW * blocks):
        tap = step // blocks
        first = step % blocks * BK
        h = top + tap // KW * DH
        w = left + tap % KW * DW
        i = first + tl.arange(0, BK)
        j = first // 32 + tl.arange(0, BK // 32)
        on_map = (h >= 0) & (h < height) & (w >= 0) & (w < width)
        inside = on_map[:, None] & (i < C)[None, :]
        x_at = image + (h * width + w) * C
        xs = tl.load(x_at[:, None] + i[None, :], mask=inside, other=0.0)
        word = tap * W + tl.minimum(j, W - 1)
        bits = tl.load(words_at + word[None, :])
        tile = signs(bits, BK, x.dtype.element_ty)
        acc = tl.dot(xs, tl.trans(tile), acc, input_precision="ieee")
    store_copies(acc, y, scales, bias, rows, columns, M, R, p, RELU)


def words(tile_bits: Tensor, rows: int, channels: int, kh: int, kw: int) -> Tensor:
    """tile_bits: (ceil(R C kh kw / 8),) uint8 -> (R, kh kw, ceil(C / 32)) int32, padding clear.

    The tile is (R, C, kh, kw).
    """
    taps = kh * kw
    bits = aligned_bits(tile_bits, rows, channels * taps)
    by_tap = bits.reshape(rows, channels, taps).transpose(1, 2)
    return packed_words(by_tap)


def _pair(name: str, value: Sequence[int], least: int) -> tuple[int, int]:
    if isinstance(value, str) or len(value) != 2 or min(value) < least:
        raise ValueError(f"{name} must be a pair of integers of at least {least}, got {value!r}")
    return int(value[0]), int(value[1])


def _check_groups(groups: int) -> None:
    if groups != 1:
        raise ValueError(
            f"the Triton convolution has one group, got groups={groups}; "
            "use the torch or cpu implementation"
        )


def _check(x: Tensor, words: Tensor, kernel: tuple[int, int], groups: int) -> None:
    _check_groups(groups)
    if x.dim() != 4:
        raise ValueError(f"expected x of shape (B, C, H, W), got {tuple(x.shape)}")
    taps = kernel[0] * kernel[1]
    needed = (x.shape[1] + 31) // 32
    if words.dim() != 3 or words.shape[1:] != (taps, needed) or needed < 1:
        raise ValueError(
            f"expected words of shape (R, {taps}, {needed}) for x {tuple(x.shape)}, "
            f"got {tuple(words.shape)}"
        )


def tiled_conv2d(
    x: Tensor,
    tile_bits: Tensor,
    alphas: Tensor,
    bias: Tensor | None,
    shape,
    p,
    stride,
    padding,
    dilation,
    groups,
) -> Tensor:
    """The contract's form. Words and scales are made at the first call for these bits and kept."""

    def made() -> tuple[Tensor, Tensor, int]:
        bits, copies, scales = stored_tile.whole_rows(tile_bits, alphas, shape, p)
        rows = shape[0] // copies
        packed = words(bits, rows, *shape[1:])
        return packed, scales.float().contiguous(), copies

    _check_groups(groups)
    key = ("triton", tuple(shape), p)
    packed, scales, copies = stored_tile.kept(tile_bits, alphas, key, made)
    return conv_of_words(x, packed, scales, bias, copies, shape[2:], stride, padding, dilation)


def conv_of_words(
    x: Tensor,
    words: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    p: int,
    kernel: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    relu: bool = False,
    groups: int = 1,
) -> Tensor:
    """x: (B, C, H, W), words: (R, kh kw, ceil(C / 32)) int32, scales: (p R,) float32, bias: (p R,)
    -> (B, p R, Ho, Wo).

    The result is of x's type and channels last; x of another layout is copied first. Raises
    ValueError for tensors that do not fit.
    """
    kernel = _pair("kernel", kernel, 1)
    stride = _pair("stride", stride, 1)
    dilation = _pair("dilation", dilation, 1)
    padding = _pair("padding", padding, 0)
    check(x, words, scales, bias, p)
    _check(x, words, kernel, groups)
    ho, wo = out_size(x.shape[2:], kernel, stride, padding, dilation)
    x = x.contiguous(memory_format=torch.channels_last)
    if kernel == stride == (1, 1) and padding == (0, 0):
        pixels = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        outputs = linear_of_words(pixels, words[:, 0], scales, bias, p, relu)
        return outputs.reshape(len(x), ho, wo, -1).permute(0, 3, 1, 2)
    shape = (len(x), p * words.shape[0], ho, wo)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if y.numel():
        names = ("KH", "KW", "SH", "SW", "PH", "PW", "DH", "DW")
        geometry = dict(zip(names, kernel + stride + padding + dilation, strict=True))
        if bias is not None:
            bias = bias.contiguous()
        with torch.cuda.device_of(x):
            launch(x, words, scales.contiguous(), bias, y, p, geometry, relu)
    return y


def launch(
    x: Tensor,
    words: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    y: Tensor,
    p: int,
    geometry: dict[str, int],
    relu: bool,
) -> None:
    """x: (B, C, H, W) -> y: (B, p R, Ho, Wo), written; both channels last."""
    batch, channels, height, width = x.shape
    ho, wo = y.shape[2:]
    rows, _, num_words = words.shape
    pixels = batch * ho * wo

    def grid(meta: dict) -> tuple[int]:
        return (triton.cdiv(pixels, meta["BM"]) * triton.cdiv(rows, meta["BN"]),)

    conv_kernel[grid](
        x,
        words,
        scales,
        bias,
        y,
        pixels,
        rows,
        channels,
        num_words,
        p,
        triton.next_power_of_2(pixels),
        height,
        width,
        ho,
        wo,
        RELU=relu,
        enable_fp_fusion=True,
        **geometry,
    )
