"""The linear layer on an NVIDIA GPU: each dot product with the tile once, in one accumulator.

The accumulator is stored p times with p scales:

    y[..., i R + r] = scales[i R + r] * (x . tile[r]) + bias[i R + r],  0 <= i < p, 0 <= r < R

and ReLU if asked for. The number M of rows of x chooses the kernel. `few_kernel` (M <= FEW)
multiplies and adds in float32 and reads the bits once. `gemm_kernel` unpacks the bits beside the
tensor cores. From MANY rows on, unpacking again for each block of rows costs more than reading a
tile of x's type. The tile is then unpacked once to scratch, multiplied by torch (cuBLAS) and copied
by `copies_kernel`. In 16-bit types that is one more rounding.

float32 is exact products with float32 sums; above MANY it follows
torch.backends.cuda.matmul.allow_tf32. No gradient.
"""

from collections.abc import Callable, Sequence
from math import prod

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from tbn_bench.kernels import stored_tile

FEW = 8
MANY = 512
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# TRITON_INTERPRET=1: numpy runs the kernels, on tensors of the CPU
INTERPRETED = triton.knobs.runtime.interpret


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
    found = []
    for c in configs:
        block = c.kwargs
        sums = meta["BM"] * block["BN"] * block["BK"]
        threads = 32 * c.num_warps
        most = 64 * threads
        if sums <= most:
            found.append(c)
    return found


def suitable(configs: list[triton.Config], args: dict, **_) -> list[triton.Config]:
    """Small blocks for float32, the larger ones for 16 bits.

    float32 without tensor cores keeps its operands in registers.
    """
    wide = args["x"].dtype == torch.float32
    found = []
    for c in configs:
        outputs = c.kwargs["BM"] * c.kwargs["BN"]
        small = outputs <= 4096 and c.kwargs["BK"] == 32
        if small == wide:
            found.append(c)
    return found


def tuned(configs: list[triton.Config], key: list[str], **options):
    """triton.autotune. The interpreter cannot time, so it gets the first configuration."""
    if INTERPRETED:
        return triton.autotune(configs[:1], key)
    return triton.autotune(configs, key, **options)


@triton.jit
def signs(words, BK: tl.constexpr, dtype: tl.constexpr):
    """words: (BN, BK / 32) int32 -> (BN, BK) of +-1 in dtype.

    A clear bit becomes the sign bit of a one; float16 and bfloat16 are the upper half of that word.
    This is done on bits, not by conversion, because the interpreter of Triton 3.9 turns integers to
    bfloat16 wrongly. Each join halves the shift that is left. So a thread holds consecutive columns
    and writes them to shared memory 16 bytes at a time; with a range of shifts it would write each
    alone.
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
    stored = columns < R
    inside = (rows[:, None] < M) & stored[None, :]
    at = y + rows.to(tl.int64)[:, None] * (p * R) + columns[None, :]
    for i in range(p):
        scale = tl.load(scales + i * R + columns, mask=stored, other=0.0)
        out = acc * scale[None, :]
        if bias is not None:
            shift = tl.load(bias + i * R + columns, mask=stored, other=0.0)
            out += shift.to(tl.float32)[None, :]
        if RELU:
            out = tl.where(out < 0, 0.0, out)  # keeps NaN, as torch does
        tl.store(at + i * R, out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def block(pid, M, R, BM: tl.constexpr, BN: tl.constexpr):
    """Number of a program -> (its rows (BM,), its columns (BN,)).

    Eight blocks of rows share a block of words while it is in L2.
    """
    across = tl.cdiv(R, BN)
    first = pid // (8 * across) * 8
    high = tl.minimum(tl.cdiv(M, BM) - first, 8)
    inner = pid % (8 * across)
    rows = (first + inner % high) * BM + tl.arange(0, BM)
    columns = inner // high * BN + tl.arange(0, BN)
    return rows, columns


@tuned(FEW_CONFIGS, ["R", "K", "BM"], prune_configs_by={"early_config_prune": fitting})
@triton.jit(do_not_specialize=["M"])
def few_kernel(
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
    RELU: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """All of M <= BM rows in one program, so that the bits are read once.

    Partial sums (BM, BN, BK) stay in registers until the end.
    """
    rows = tl.arange(0, BM)
    columns = tl.program_id(0) * BN + tl.arange(0, BN)
    x_at = x + tl.minimum(rows, M - 1)[:, None] * K
    words_at = words + tl.minimum(columns, R - 1)[:, None] * W
    acc = tl.zeros((BM, BN, BK), tl.float32)
    for k in range(0, K, BK):
        i = k + tl.arange(0, BK)
        j = k // 32 + tl.arange(0, BK // 32)
        xs = tl.load(x_at + i[None, :], mask=i[None, :] < K, other=0.0).to(tl.float32)
        bits = tl.load(words_at + tl.minimum(j, W - 1)[None, :])
        tile = signs(bits, BK, tl.float32)
        acc += xs[:, None, :] * tile[None, :, :]
    store_copies(tl.sum(acc, 2), y, scales, bias, rows, columns, M, R, p, RELU)


@tuned(GEMM_CONFIGS, ["R", "K", "bucket"], prune_configs_by={"early_config_prune": suitable})
@triton.jit(do_not_specialize=["M", "bucket"])
def gemm_kernel(
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
    bucket,
    RELU: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Bits to +-1 in registers, one tl.dot. bucket is the power of two that M is tuned for.

    Rows beyond the end read the last one and are not stored. Columns beyond K read zero, so that
    the padding bits count for nothing.
    """
    rows, columns = block(tl.program_id(0), M, R, BM, BN)
    x_at = x + tl.minimum(rows, M - 1).to(tl.int64)[:, None] * K
    words_at = words + tl.minimum(columns, R - 1)[:, None] * W
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        i = k + tl.arange(0, BK)
        j = k // 32 + tl.arange(0, BK // 32)
        xs = tl.load(x_at + i[None, :], mask=i[None, :] < K, other=0.0)
        bits = tl.load(words_at + tl.minimum(j, W - 1)[None, :])
        tile = signs(bits, BK, x.dtype.element_ty)
        acc = tl.dot(xs, tl.trans(tile), acc, input_precision="ieee")
    store_copies(acc, y, scales, bias, rows, columns, M, R, p, RELU)


@triton.jit
def unpack_kernel(words, tile, R, K, W, BN: tl.constexpr, BK: tl.constexpr):
    """words: (R, W) -> tile: (R, K) of +-1 in the type of tile."""
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    i = tl.program_id(1) * BK + tl.arange(0, BK)
    j = tl.program_id(1) * (BK // 32) + tl.arange(0, BK // 32)
    inside = (rows[:, None] < R) & (j[None, :] < W)
    bits = tl.load(words + rows[:, None] * W + j[None, :], mask=inside, other=0)
    values = signs(bits, BK, tile.dtype.element_ty)
    at = tile + rows.to(tl.int64)[:, None] * K + i[None, :]
    tl.store(at, values, mask=(rows[:, None] < R) & (i[None, :] < K))


@triton.jit(do_not_specialize=["M"])
def copies_kernel(
    products,
    scales,
    bias,
    y,
    M,
    R,
    p,
    RELU: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """products: (M, R) -> y: (M, p R), each read once."""
    rows, columns = block(tl.program_id(0), M, R, BM, BN)
    at = products + rows.to(tl.int64)[:, None] * R + columns[None, :]
    inside = (rows[:, None] < M) & (columns[None, :] < R)
    acc = tl.load(at, mask=inside, other=0.0)
    store_copies(acc.to(tl.float32), y, scales, bias, rows, columns, M, R, p, RELU)


def aligned_bits(tile_bits: Tensor, rows: int, columns: int) -> Tensor:
    """tile_bits: (ceil(rows columns / 8),) uint8 -> (rows, columns) uint8 of 0 and 1.

    The bits are in the order of bits.py.
    """
    q = rows * columns
    num_bytes = (q + 7) // 8
    if tile_bits.dtype != torch.uint8 or tile_bits.shape != (num_bytes,):
        raise ValueError(
            f"expected uint8 tile_bits of shape ({num_bytes},), "
            f"got {tile_bits.dtype} {tuple(tile_bits.shape)}"
        )
    places = _bit_places(tile_bits)
    values = (tile_bits[:, None] >> places) & 1
    return values.reshape(-1)[:q].reshape(rows, columns)


def _bit_places(like: Tensor) -> Tensor:
    """0 to 7 as uint8, on the device of `like`."""
    return torch.arange(8, dtype=torch.uint8, device=like.device)


def packed_words(bits: Tensor) -> Tensor:
    """bits: (..., n) uint8 of 0 and 1 -> (..., ceil(n / 32)) int32.

    Bit s of word j is value 32 j + s; padding is clear.
    """
    short = -bits.shape[-1] % 32
    padded = F.pad(bits, (0, short)).unflatten(-1, (-1, 8))
    shifted = padded << _bit_places(bits)
    packed = shifted.sum(-1, dtype=torch.uint8)
    return packed.view(torch.int32)  # the hosts of GPUs are little-endian


def words(tile_bits: Tensor, rows: int, columns: int) -> Tensor:
    """tile_bits: (ceil(R K / 8),) uint8 -> (R, ceil(K / 32)) int32.

    Rows begin on a word, a set bit means +1, padding is clear.
    """
    return packed_words(aligned_bits(tile_bits, rows, columns))


def check(x: Tensor, words: Tensor, scales: Tensor, bias: Tensor | None, p: int) -> None:
    """The checks of both operations. Raises ValueError.

    They are p, types, devices, contiguity, and one scale (and bias) per row.
    """
    if not INTERPRETED and x.device.type != "cuda":
        raise ValueError(
            f"the Triton kernels need tensors on a CUDA device, got {x.device}; "
            "use the torch or cpu implementation"
        )
    if x.dtype not in DTYPES:
        raise ValueError(f"x must be float32, float16 or bfloat16, got {x.dtype}")
    if words.dtype != torch.int32 or not words.is_contiguous():
        raise ValueError(
            f"words must be contiguous int32 as made by words(), "
            f"got {words.dtype} of strides {words.stride()}"
        )
    if p < 1:
        raise ValueError(f"p must be at least 1, got {p}")
    rows = p * words.shape[0]
    if scales.shape != (rows,) or scales.dtype != torch.float32:
        raise ValueError(
            f"expected float32 scales of shape ({rows},), one per row, "
            f"got {scales.dtype} {tuple(scales.shape)}"
        )
    if bias is not None and (bias.shape != (rows,) or not bias.is_floating_point()):
        raise ValueError(
            f"expected floating-point bias of shape ({rows},), got {bias.dtype} {tuple(bias.shape)}"
        )
    others = [words, scales] if bias is None else [words, scales, bias]
    if any(other.device != x.device for other in others):
        raise ValueError(f"words, scales and bias must be on {x.device}, where x is")


def tiled_linear(
    x: Tensor,
    tile_bits: Tensor,
    alphas: Tensor,
    bias: Tensor | None,
    shape: Sequence[int],
    p: int,
) -> Tensor:
    """The contract's form. Words and scales are made at the first call for these bits and kept."""

    def made() -> tuple[Tensor, Tensor, int]:
        bits, copies, scales = stored_tile.whole_rows(tile_bits, alphas, shape, p)
        rows = shape[0] // copies
        packed = words(bits, rows, shape[1])
        return packed, scales.float().contiguous(), copies

    key = ("triton", tuple(shape), p)
    packed, scales, copies = stored_tile.kept(tile_bits, alphas, key, made)
    return linear_of_words(x, packed, scales, bias, copies)


def linear_of_words(
    x: Tensor,
    words: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    p: int,
    relu: bool = False,
) -> Tensor:
    """x: (..., K), words: (R, ceil(K / 32)) int32, scales: (p R,) float32, bias: (p R,)
    -> (..., p R) of x's type.

    Raises ValueError for tensors that do not fit.
    """
    check(x, words, scales, bias, p)
    K = x.shape[-1] if x.dim() else 0
    needed = (K + 31) // 32
    if words.dim() != 2 or words.shape[1] != needed or K < 1:
        raise ValueError(
            f"expected words of shape (R, {needed}) for x {tuple(x.shape)}, "
            f"got {tuple(words.shape)}"
        )
    flat = x.reshape(prod(x.shape[:-1]), K).contiguous()
    y = torch.empty(len(flat), p * words.shape[0], dtype=x.dtype, device=x.device)
    if bias is not None:
        bias = bias.contiguous()
    if y.numel():
        launch = _launcher(len(flat))
        with torch.cuda.device_of(x):
            launch(flat, words, scales.contiguous(), bias, y, p, relu)
    return y.reshape(*x.shape[:-1], y.shape[1])


def _launcher(M: int) -> Callable[..., None]:
    if M <= FEW:
        return few
    return gemm if M < MANY else many


def few(
    x: Tensor,
    words: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    y: Tensor,
    p: int,
    relu: bool,
) -> None:
    """x: (M <= FEW, K) -> y: (M, p R), written."""
    M, K = x.shape
    R, W = words.shape

    def grid(meta: dict) -> tuple[int]:
        return (triton.cdiv(R, meta["BN"]),)

    few_kernel[grid](
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
    x: Tensor,
    words: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    y: Tensor,
    p: int,
    relu: bool,
) -> None:
    """x: (M, K) -> y: (M, p R), written."""
    M, K = x.shape
    R, W = words.shape

    def grid(meta: dict) -> tuple[int]:
        return (triton.cdiv(M, meta["BM"]) * triton.cdiv(R, meta["BN"]),)

    gemm_kernel[grid](
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
    x: Tensor,
    words: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    y: Tensor,
    p: int,
    relu: bool,
) -> None:
    """x: (M, K) -> y: (M, p R), written, by the vendor's product with the unpacked tile."""
    M, K = x.shape
    R, W = words.shape
    tile = torch.empty(R, K, dtype=x.dtype, device=x.device)
    blocks = (triton.cdiv(R, 16), triton.cdiv(K, 256))
    unpack_kernel[blocks](words, tile, R, K, W, BN=16, BK=256, enable_fp_fusion=True)
    products = torch.matmul(x, tile.T)
    grid = (triton.cdiv(M, 32) * triton.cdiv(R, 128),)
    copies_kernel[grid](
        products,
        scales,
        bias,
        y,
        M,
        R,
        p,
        RELU=relu,
        BM=32,
        BN=128,
        enable_fp_fusion=True,
    )
