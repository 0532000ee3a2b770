"""The native kernels on one linear layer. A whole network is faster as one plan: executor.py."""

from collections.abc import Sequence

from torch import Tensor

from tbn_bench.kernels import _cpu, _tile


def tiled_linear(
    x: Tensor,
    tile_bits: Tensor,
    alphas: Tensor,
    bias: Tensor | None,
    shape: Sequence[int],
    p: int,
) -> Tensor:
    _cpu.check(x)
    if not _tile.aligned(shape[0], p, len(alphas)):
        g = _tile.segment(shape, p, len(alphas))
        if g:
            return _cpu.unaligned_linear(x, tile_bits, alphas, bias, shape, p, g)
    weights, copies, scale, level = _cpu.kept_weights(tile_bits, alphas, shape, p, 1)
    return _cpu.linear(x, weights, copies, scale, bias, level)
