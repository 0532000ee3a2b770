"""The convolution whose weight is p scaled copies of one tile of signs.

x: (B, C, H, W) -> (B, rows, Ho, Wo). shape: (rows, C / groups, kh, kw); tile_bits, alphas, bias and p as in tiled_linear, the weight being
flattened row-major. stride, padding, dilation: pairs. Padding is zeros.

Implementations: reference, torch, cpu (native, float32), triton (CUDA, one group, channels last). `cpu` and `triton` are also the torch.library operator
tbn_bench::tiled_conv2d.
"""

import importlib
from collections.abc import Sequence

from torch import (
    Tensor,
    bfloat16,
    float16,
    float32,
    float64,
    library,
)  # the name torch is this folder's torch.py

from tbn_bench.kernels import _tile

IMPLEMENTATIONS = ("reference", "torch", "cpu", "triton")
TOLERANCE = {float64: 1e-13, float32: 3e-6, bfloat16: 3e-2, float16: 4e-3}  # of the largest value
# (x, (rows, C / groups, kh, kw), p, k, stride, padding, dilation, groups)
CASES = (
    ((2, 3, 9, 7), (16, 3, 3, 3), 4, 4, (1, 1), (1, 1), (1, 1), 1),
    ((1, 17, 8, 8), (34, 17, 3, 3), 2, 34, (2, 2), (1, 1), (1, 1), 1),
    ((3, 32, 5, 5), (48, 32, 1, 1), 3, 3, (1, 1), (0, 0), (1, 1), 1),
    ((1, 16, 11, 9), (15, 16, 3, 3), 5, 1, (1, 1), (2, 2), (2, 2), 1),
    ((2, 12, 6, 6), (24, 6, 3, 3), 4, 24, (1, 1), (1, 1), (1, 1), 2),
    ((2, 8, 6, 6), (8, 1, 3, 3), 1, 0, (1, 1), (1, 1), (1, 1), 8),
    ((1, 4, 6, 6), (10, 4, 3, 3), 4, 4, (1, 2), (0, 1), (1, 1), 1),
    ((2, 5, 12, 4), (6, 5, 5, 1), 3, 3, (3, 1), (2, 0), (1, 1), 1),
)  # fmt: skip


def out_size(
    x: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """[Ho, Wo]. Raises ValueError where the kernel is larger than the padded image."""
    sizes = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x, kernel, stride, padding, dilation, strict=True)
    ]
    if min(sizes) < 1:
        raise ValueError(
            f"a kernel of {tuple(kernel)} does not fit an image of {tuple(x)} with padding {tuple(padding)}"
        )
    return sizes


def tiled_conv2d(
    x: Tensor,
    tile_bits: Tensor,
    alphas: Tensor,
    bias: Tensor | None,
    shape: Sequence[int],
    p: int,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    implementation: str = "torch",
) -> Tensor:
    """The layer by one implementation. Raises ValueError for tensors that do not fit, NativeUnavailable where it cannot run."""
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {implementation!r}"
        )
    if x.dim() != 4 or x.shape[1] != shape[1] * groups or not x.is_floating_point():
        raise ValueError(
            f"expected floating-point x of shape (B, {shape[1] * groups}, H, W), got {x.dtype} {tuple(x.shape)}"
        )
    _tile.check(tile_bits, alphas, bias, shape, p)
    module = importlib.import_module(f"{__name__}.{implementation}")
    return module.tiled_conv2d(
        x, tile_bits, alphas, bias, shape, p, stride, padding, dilation, groups
    )


@library.custom_op("tbn_bench::tiled_conv2d", mutates_args=(), device_types="cpu")
def operator(
    x: Tensor,
    tile_bits: Tensor,
    alphas: Tensor,
    bias: Tensor | None,
    shape: Sequence[int],
    p: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """tbn_bench::tiled_conv2d, by the native kernels on a CPU and by Triton on a GPU."""
    return tiled_conv2d(
        x, tile_bits, alphas, bias, shape, p, stride, padding, dilation, groups, "cpu"
    )


@operator.register_kernel("cuda")
def _(x, tile_bits, alphas, bias, shape, p, stride, padding, dilation, groups):
    return tiled_conv2d(
        x, tile_bits, alphas, bias, shape, p, stride, padding, dilation, groups, "triton"
    )


@operator.register_fake
def _(x, tile_bits, alphas, bias, shape, p, stride, padding, dilation, groups):
    return x.new_empty(
        (x.shape[0], shape[0], *out_size(x.shape[2:], shape[2:], stride, padding, dilation))
    )
