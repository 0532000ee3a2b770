"""The convolution whose weight is p scaled copies of one tile of signs.

x: (B, C, H, W) -> (B, rows, Ho, Wo). shape: (rows, C / groups, kh, kw). tile_bits, alphas, bias and
p are those of tiled_linear, for the weight flattened row-major. stride, padding, dilation: pairs.
Padding is zeros.

Implementations: reference, torch, cpu (native, float32), triton (CUDA, one group, channels last).
`cpu` and `triton` are also the torch.library operator tbn_bench::tiled_conv2d.
"""

import importlib
from collections.abc import Sequence

# not `import torch`: in this folder that name is torch.py
from torch import Tensor, bfloat16, float16, float32, float64, library

from tbn_bench.kernels import stored_tile

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
)


def out_size(
    x: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """[Ho, Wo]. Raises ValueError where the kernel is larger than the padded image."""
    sizes = []
    for n, k, s, p, d in zip(x, kernel, stride, padding, dilation, strict=True):
        span = d * (k - 1) + 1
        sizes.append((n + 2 * p - span) // s + 1)
    if min(sizes) < 1:
        raise ValueError(
            f"a kernel of {tuple(kernel)} does not fit an image of {tuple(x)} "
            f"with padding {tuple(padding)}"
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
    """The layer by one implementation.

    Raises ValueError for tensors that do not fit, NativeUnavailable where it cannot run.
    """
    if implementation not in IMPLEMENTATIONS:
        known = ", ".join(IMPLEMENTATIONS)
        raise ValueError(f"implementation must be one of {known}, got {implementation!r}")
    channels = shape[1] * groups
    if x.dim() != 4 or x.shape[1] != channels or not x.is_floating_point():
        raise ValueError(
            f"expected floating-point x of shape (B, {channels}, H, W), "
            f"got {x.dtype} {tuple(x.shape)}"
        )
    stored_tile.check(tile_bits, alphas, bias, shape, p)
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
    batch = x.shape[0]
    size = out_size(x.shape[2:], shape[2:], stride, padding, dilation)
    return x.new_empty((batch, shape[0], *size))
