"""The plain binary linear layer: one sign per weight, with or without scales.

It is p = 1 of tiled_linear, and runs its implementations.

    y = x W^T + bias
    W (rows, K) row-major = signs (rows K,), times scales (k,), each for rows K / k weights

x: (..., K) floating point -> (..., rows) of the same type. sign_bits: (ceil(rows K / 8),) uint8 in
the order of bits.py. scales: (k,) with k dividing rows K (one per row, one for all); (0,) means
none. bias: (rows,) or None.

Implementations, tolerance and errors: those of tiled_linear.
"""

from torch import Tensor

from tbn_bench.kernels import tiled_linear
from tbn_bench.kernels.tiled_linear import IMPLEMENTATIONS as IMPLEMENTATIONS
from tbn_bench.kernels.tiled_linear import TOLERANCE as TOLERANCE

# (x's leading shape, rows, K, k): ends of vectors, words and bytes; every kind of scale
CASES = (
    ((1,), 1, 1, 0),
    ((5,), 16, 16, 16),
    ((1,), 64, 63, 1),
    ((17,), 15, 17, 15),
    ((2, 3), 33, 1023, 1),
    ((4,), 12, 31, 4),
    ((0,), 8, 8, 8),
)


def binary_linear(
    x: Tensor,
    sign_bits: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    rows: int,
    implementation: str = "torch",
) -> Tensor:
    """The layer by one implementation.

    Raises ValueError for tensors that do not fit, NativeUnavailable where it cannot run.
    """
    shape = (rows, x.shape[-1])
    return tiled_linear.tiled_linear(x, sign_bits, scales, bias, shape, 1, implementation)
