"""The linear layer on an NVIDIA GPU: each dot product with the tile once, in one accumulator, stored p times with p scales.

    y[..., i R + r] = scales[i R + r] * (x . tile[r]) + bias[i R + r],  0 <= i < p, 0 <= r < R, and ReLU if asked for

By M, the number of rows of x: `few_kernel` (M <= FEW) multiplies and adds in float32 and reads the bits once; `gemm_kernel` unpacks the bits
beside the tensor cores; from MANY rows on, unpacking again for each block of rows costs more than reading a tile of x's type, so it
is unpacked once to scratch, multiplied by torch (cuBLAS) and copied by `copies_kernel`: in 16-bit types that is one more rounding.

float32 is exact products with float32 sums; above MANY it follows torch.backends.cuda.matmul.allow_tf32. No gradient.
"""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from tbn_bench.kernels import _tile

FEW, MANY = 8, 512
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INTERPRETED = (
    triton.knobs.runtime.interpret
)  # TRITON_INTERPRET=1: numpy runs the kernels, on tensors of the CPU


def config(warps: int, stages: int, **blocks: int) -> triton.Config:
    return triton.Config(blocks, num_warps=warps, num_stages=stages)


FEW_CONFIGS = [
    config(4, 3, BN=8, BK=512),
    config(4, 3, BN=16, BK=256),
    config(4, 3, BN=4, BK=1024),
    config(4, 3, BN=4, BK=512),
    config(8, 3, BN=4, BK=512),
    config(8, 3, BN=8, BK=256),
]
GEMM_CONFIGS = [
    config(4, 4, BM=64, BN=64, BK=64),
    config(4, 4, BM=16, BN=32, BK=128),
    config(4, 4, BM=16, BN=64, BK=128),
    config(4, 4, BM=32, BN=64, BK=128),
    config(4, 4, BM=64, BN=32, BK=128),
    config(4, 4, BM=128, BN=64, BK=64),
    config(8, 3, BM=128, BN=128, BK=64),
    config(4, 2, BM=32, BN=32, BK=32),
    config(8, 2, BM=64, BN=64, BK=32),
]


def fitting(configs: list[triton.Config], args: dict, **meta) -> list[triton.Config]:
    """At most 64 partial sums a thread, so that none of them leaves the registers."""
    return [
        c for c in configs if meta["BM"] * c.kwargs["BN"] * c.kwargs["BK"] <= 64 * 32 * c.num_warps
    ]


def suitable(configs: list[triton.Config], args: dict, **_) -> list[triton.Config]:
    """float32 without tensor cores keeps its operands in registers: small blocks for it, the larger ones for 16 bits."""
    wide = args["x"].dtype == torch.float32
    return [
        c
        for c in configs
        if (c.kwargs["BM"] * c.kwargs["BN"] <= 4096 and c.kwargs["BK"] == 32) == wide
    ]


def tuned(configs: list[triton.Config], key: list[str], **options):
    """triton.autotune; the interpreter, which cannot time, gets the first configuration."""
    return triton.autotune(
        configs[:1] if INTERPRETED else configs, key, **({} if INTERPRETED else options)
    )


@triton.jit
def signs(words, BK: tl.constexpr, dtype: tl.constexpr):
    """words: (BN, BK / 32) int32 -> (BN, BK) of +-1 in dtype.

    A clear bit becomes the sign bit of a one; float16 and bfloat16 are the upper half of that word. As bits, not by conversion: the
    interpreter of Triton 3.9 turns integers to bfloat16 wrongly. By joins, each halving the shift that is left, so that a thread holds
    consecutive columns and writes them to shared memory 16 bytes at a time; with a range of shifts it would write each alone.
    """
    one: tl.constexpr = 0x3C000000 if dtype == tl.float16 else 0x3F800000
    spread = words
    for h in tl.static_range(5):
        spread = tl.join(spread << (16 >> h), spread)
    pattern = tl.reshape((~spread & -2147483648) | one, (words.shape[0], BK))
    if dtype != tl.float32:
        pattern = (pattern >> 16).to(tl.int16)
    return pattern.to(dtype, bitcast=True)


@triton.jit
def store_copies(acc, y, scales, bias, rows, columns, M, R, p, RELU: tl.constexpr):
    """acc: (BM, BN) float32, columns of the tile -> y (M, p R) at rows and, p times, at columns."""
    inside = (rows[:, None] < M) & (columns[None, :] < R)
    at = y + rows.to(tl.int64)[:, None] * (p * R) + columns[None, :]
    for i in range(p):
        out = acc * tl.load(scales + i * R + columns, mask=columns < R, other=0.0)[None, :]
        if bias is not None:
            out += tl.load(bias + i * R + columns, mask=columns < R, other=0.0).to(tl.float32)[
                None, :
            ]
        if RELU:
            out = tl.where(out < 0, 0.0, out)  # keeps NaN, as torch does
        tl.store(at + i * R, out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def block(pid, M, R, BM: tl.constexpr, BN: tl.constexpr):
    """Number of a program -> (its rows (BM,), its columns (BN,)). Eight blocks of rows share a block of words while it is in L2."""
    across = tl.cdiv(R, BN)
    first = pid // (8 * across) * 8
    high = tl.minimum(tl.cdiv(M, BM) - first, 8)
    inner = pid % (8 * across)
    return (first + inner % high) * BM + tl.arange(0, BM), inner // high * BN + tl.arange(0, BN)


@tuned(FEW_CONFIGS, ["R", "K", "BM"], prune_configs_by={"early_config_prune": fitting})
@triton.jit(do_not_specialize=["M"])
def few_kernel(
    x, words, scales, bias, y, M, R, K, W, p, RELU: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """All of M <= BM rows in one program, so that the bits are read once. Partial sums (BM, BN, BK) stay in registers until the end."""
    rows, columns = tl.arange(0, BM), tl.program_id(0) * BN + tl.arange(0, BN)
    x_at = x + tl.minimum(rows, M - 1)[:, None] * K
    words_at = words + tl.minimum(columns, R - 1)[:, None] * W
    acc = tl.zeros((BM, BN, BK), tl.float32)
    for k in range(0, K, BK):
        i, j = k + tl.arange(0, BK), k // 32 + tl.arange(0, BK // 32)
        xs = tl.load(x_at + i[None, :], mask=i[None, :] < K, other=0.0).to(tl.float32)
        tile = signs(tl.load(words_at + tl.minimum(j, W - 1)[None, :]), BK, tl.float32)
        acc += xs[:, None, :] * tile[None, :, :]
    store_copies(tl.sum(acc, 2), y, scales, bias, rows, columns, M, R, p, RELU)


@tuned(GEMM_CONFIGS, ["R", "K", "bucket"], prune_configs_by={"early_config_prune": suitable})
@triton.jit(do_not_specialize=["M", "bucket"])
def gemm_kernel(
    x, words, scales, bias, y, M, R, K, W, p, bucket, RELU: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """Bits to +-1 in registers, one tl.dot. bucket is the power of two that M is tuned for.

    Rows beyond the end read the last one and are not stored; columns beyond K read zero, so that the padding bits count for nothing.
    """
    rows, columns = block(tl.program_id(0), M, R, BM, BN)
    x_at = x + tl.minimum(rows, M - 1).to(tl.int64)[:, None] * K
    words_at = words + tl.minimum(columns, R - 1)[:, None] * W
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        i, j = k + tl.arange(0, BK), k // 32 + tl.arange(0, BK // 32)
        xs = tl.load(x_at + i[None, :], mask=i[None, :] < K, other=0.0)
        tile = signs(tl.load(words_at + tl.minimum(j, W - 1)[None, :]), BK, x.dtype.element_ty)
        acc = tl.dot(xs, tl.trans(tile), acc, input_precision="ieee")
    store_copies(acc, y, scales, bias, rows, columns, M, R, p, RELU)


@triton.jit
def unpack_kernel(words, tile, R, K, W, BN: tl.constexpr, BK: tl.constexpr):
    """words: (R, W) -> tile: (R, K) of +-1 in the type of tile."""
    rows, i = tl.program_id(0) * BN + tl.arange(0, BN), tl.program_id(1) * BK + tl.arange(0, BK)
    j = tl.program_id(1) * (BK // 32) + tl.arange(0, BK // 32)
    inside = (rows[:, None] < R) & (j[None, :] < W)
    values = signs(
        tl.load(words + rows[:, None] * W + j[None, :], mask=inside, other=0),
        BK,
        tile.dtype.element_ty,
    )
    tl.store(
        tile + rows.to(tl.int64)[:, None] * K + i[None, :],
        values,
        mask=(rows[:, None] < R) & (i[None, :] < K),
    )


@triton.jit(do_not_specialize=["M"])
def copies_kernel(
    products, scales, bias, y, M, R, p, RELU: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):
    """products: (M, R) -> y: (M, p R), each read once."""
    rows, columns = block(tl.program_id(0), M, R, BM, BN)
    at = products + rows.to(tl.int64)[:, None] * R + columns[None, :]
    acc = tl.load(at, mask=(rows[:, None] < M) & (columns[None, :] < R), other=0.0).to(tl.float32)
    store_copies(acc, y, scales, bias, rows, columns, M, R, p, RELU)


def aligned_bits(tile_bits: Tensor, rows: int, columns: int) -> Tensor:
    """tile_bits: (ceil(rows columns / 8),) uint8 in bits.py's order -> (rows, columns) uint8 of 0 and 1."""
    q = rows * columns
    if tile_bits.dtype != torch.uint8 or tile_bits.shape != ((q + 7) // 8,):
        raise ValueError(
            f"expected uint8 tile_bits of shape ({(q + 7) // 8},), got {tile_bits.dtype} {tuple(tile_bits.shape)}"
        )
    values = (tile_bits[:, None] >> torch.arange(8, dtype=torch.uint8, device=tile_bits.device)) & 1
    return values.reshape(-1)[:q].reshape(rows, columns)


def packed_words(bits: Tensor) -> Tensor:
    """bits: (..., n) uint8 of 0 and 1 -> (..., ceil(n / 32)) int32, bit s of word j being value 32 j + s, padding clear."""
    padded = F.pad(bits, (0, -bits.shape[-1] % 32)).unflatten(-1, (-1, 8))
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (
        (padded << places).sum(-1, dtype=torch.uint8).view(torch.int32)
    )  # bytes to words: the hosts of GPUs are little-endian


def words(tile_bits: Tensor, rows: int, columns: int) -> Tensor:
    """tile_bits: (ceil(R K / 8),) uint8 -> (R, ceil(K / 32)) int32: rows begin on a word, set means +1, padding is clear."""
    return packed_words(aligned_bits(tile_bits, rows, columns))


def check(x: Tensor, words: Tensor, scales: Tensor, bias: Tensor | None, p: int) -> None:
    """Raises ValueError for what both operations need: p, types, devices, contiguity, and one scale (and bias) per row."""
    if not INTERPRETED and x.device.type != "cuda":
        raise ValueError(
            f"the Triton kernels need tensors on a CUDA device, got {x.device}; use the torch or cpu implementation"
        )
    if x.dtype not in DTYPES:
        raise ValueError(f"x must be float32, float16 or bfloat16, got {x.dtype}")
    if words.dtype != torch.int32 or not words.is_contiguous():
        raise ValueError(
            f"words must be contiguous int32 as made by words(), got {words.dtype} of strides {words.stride()}"
        )
    if p < 1:
        raise ValueError(f"p must be at least 1, got {p}")
    rows = p * words.shape[0]
    if scales.shape != (rows,) or scales.dtype != torch.float32:
        raise ValueError(
            f"expected float32 scales of shape ({rows},), one per row, got {scales.dtype} {tuple(scales.shape)}"
        )
    if bias is not None and (bias.shape != (rows,) or not bias.is_floating_point()):
        raise ValueError(
            f"expected floating-point bias of shape ({rows},), got {bias.dtype} {tuple(bias.shape)}"
        )
    if any(t.device != x.device for t in (words, scales, bias) if t is not None):
        raise ValueError(f"words, scales and bias must be on {x.device}, where x is")


def tiled_linear(
    x: Tensor, tile_bits: Tensor, alphas: Tensor, bias: Tensor | None, shape: Sequence[int], p: int
) -> Tensor:
    """The contract's form. Words and scales are made at the first call for these bits and kept."""

    def made() -> tuple[Tensor, Tensor, int]:
        rows, copies, scales = _tile.whole_rows(tile_bits, alphas, shape, p)
        return words(rows, shape[0] // copies, shape[1]), scales.float().contiguous(), copies

    packed, scales, copies = _tile.kept(tile_bits, alphas, ("triton", tuple(shape), p), made)
    return linear_of_words(x, packed, scales, bias, copies)


def linear_of_words(
    x: Tensor, words: Tensor, scales: Tensor, bias: Tensor | None, p: int, relu: bool = False
) -> Tensor:
    """x: (..., K), words: (R, ceil(K / 32)) int32, scales: (p R,) float32, bias: (p R,) -> (..., p R) of x's type.

    Raises ValueError for tensors that do not fit.
    """
    check(x, words, scales, bias, p)
    K = x.shape[-1] if x.dim() else 0
    if words.dim() != 2 or words.shape[1] != (K + 31) // 32 or K < 1:
        raise ValueError(
            f"expected words of shape (R, {(K + 31) // 32}) for x {tuple(x.shape)}, got {tuple(words.shape)}"
        )
    flat = x.reshape(prod(x.shape[:-1]), K).contiguous()
    y = torch.empty(len(flat), p * words.shape[0], dtype=x.dtype, device=x.device)
    if y.numel():
        launch = few if len(flat) <= FEW else gemm if len(flat) < MANY else many
        with torch.cuda.device_of(x):
            launch(
                flat,
                words,
                scales.contiguous(),
                None if bias is None else bias.contiguous(),
                y,
                p,
                relu,
            )
    return y.reshape(*x.shape[:-1], y.shape[1])


def few(
    x: Tensor, words: Tensor, scales: Tensor, bias: Tensor | None, y: Tensor, p: int, relu: bool
) -> None:
    """x: (M <= FEW, K) -> y: (M, p R), written."""
    (M, K), (R, W) = x.shape, words.shape
    few_kernel[lambda c: (triton.cdiv(R, c["BN"]),)](
        x,
        words,
        scales,
        bias,
        y,
        M,
        R,
        K,
        W,
        p,
        RELU=relu,
        BM=triton.next_power_of_2(M),
        enable_fp_fusion=True,
    )


def gemm(
    x: Tensor, words: Tensor, scales: Tensor, bias: Tensor | None, y: Tensor, p: int, relu: bool
) -> None:
    """x: (M, K) -> y: (M, p R), written."""
    (M, K), (R, W) = x.shape, words.shape
    gemm_kernel[lambda c: (triton.cdiv(M, c["BM"]) * triton.cdiv(R, c["BN"]),)](
        x,
        words,
        scales,
        bias,
        y,
        M,
        R,
        K,
        W,
        p,
        triton.next_power_of_2(M),
        RELU=relu,
        enable_fp_fusion=True,
    )


def many(
    x: Tensor, words: Tensor, scales: Tensor, bias: Tensor | None, y: Tensor, p: int, relu: bool
) -> None:
    """x: (M, K) -> y: (M, p R), written, by the vendor's product with the unpacked tile."""
    (M, K), (R, W) = x.shape, words.shape
    tile = torch.empty(R, K, dtype=x.dtype, device=x.device)
    unpack_kernel[(triton.cdiv(R, 16), triton.cdiv(K, 256))](
        words, tile, R, K, W, BN=16, BK=256, enable_fp_fusion=True
    )
    products = torch.matmul(x, tile.T)
    grid = (triton.cdiv(M, 32) * triton.cdiv(R, 128),)
    copies_kernel[grid](
        products, scales, bias, y, M, R, p, RELU=relu, BM=32, BN=128, enable_fp_fusion=True
    )
