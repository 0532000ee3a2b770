"""The linear layer whose weight is p scaled copies of one tile of signs.

    y = x W^T + bias
    W (rows, K) row-major = tile (q,) repeated p times, times alphas (k,), each for N / k weights

x: (..., K) floating point -> (..., rows) of the same type. tile_bits: (ceil(q / 8),) uint8 in the
order of bits.py, q = rows K / p. alphas: (k,) with k dividing rows K; (0,) means no scale. p = 1 is
the plain binary layer.

Implementations: reference (expands; any type, float64 included), torch (tile reuse on the vendor
library, any device), cpu (native, float32), triton (CUDA). One that is asked for and cannot run
raises; there is no fallback. `cpu` and `triton` are also the torch.library operator
tbn_bench::tiled_linear, which torch.compile keeps whole.
"""

import importlib
from collections.abc import Sequence

# not `import torch`: in this folder that name is torch.py
from torch import Tensor, bfloat16, float16, float32, float64, library

from tbn_bench.kernels import stored_tile

IMPLEMENTATIONS = ("reference", "torch", "cpu", "triton")
TOLERANCE = {float64: 1e-13, float32: 3e-6, bfloat16: 3e-2, float16: 4e-3}  # of the largest value
# (x's leading shape, rows, K, p, k): ends of vectors, words and bytes; tiles that end inside a row;
# every kind of scale
CASES = (
    ((1,), 1, 1, 1, 0),
    ((5,), 16, 16, 4, 4),
    ((1,), 64, 63, 4, 1),
    ((17,), 12, 15, 3, 3),
    ((2, 9), 34, 17, 2, 34),
    ((3,), 8, 1023, 4, 4),
    ((4,), 10, 512, 4, 4),
    ((4,), 10, 512, 4, 1),
    ((7,), 30, 20, 4, 4),
    ((64,), 128, 96, 8, 8),
    ((130,), 48, 100, 1, 48),
    ((0,), 8, 8, 2, 2),
    ((70,), 100, 96, 16, 16),
    ((2, 3), 50, 96, 4, 2),
)


def tiled_linear(
    x: Tensor,
    tile_bits: Tensor,
    alphas: Tensor,
    bias: Tensor | None,
    shape: Sequence[int],
    p: int,
    implementation: str = "torch",
) -> Tensor:
    """The layer by one implementation.

    Raises ValueError for tensors that do not fit, NativeUnavailable where it cannot run.
    """
    if implementation not in IMPLEMENTATIONS:
        known = ", ".join(IMPLEMENTATIONS)
        raise ValueError(f"implementation must be one of {known}, got {implementation!r}")
    columns = shape[1]
    if x.shape[-1] != columns or not x.is_floating_point():
        raise ValueError(
            f"expected floating-point x of shape (..., {columns}), got {x.dtype} {tuple(x.shape)}"
        )
    stored_tile.check(tile_bits, alphas, bias, shape, p)
    module = importlib.import_module(f"{__name__}.{implementation}")
    return module.tiled_linear(x, tile_bits, alphas, bias, shape, p)


@library.custom_op("tbn_bench::tiled_linear", mutates_args=(), device_types="cpu")
def operator(
    x: Tensor, tile_bits: Tensor, alphas: Tensor, bias: Tensor | None, shape: Sequence[int], p: int
) -> Tensor:
    """tbn_bench::tiled_linear, by the native kernels on a CPU and by Triton on a GPU."""
    return tiled_linear(x, tile_bits, alphas, bias, shape, p, "cpu")


@operator.register_kernel("cuda")
def _(x, tile_bits, alphas, bias, shape, p):
    return tiled_linear(x, tile_bits, alphas, bias, shape, p, "triton")


@operator.register_fake
def _(x, tile_bits, alphas, bias, shape, p):
    return x.new_empty((*x.shape[:-1], shape[0]))
