"""One layer as a native program. Its weights are kept until its bits change."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tbn_bench import native
from tbn_bench.format import bits
from tbn_bench.kernels import stored_tile

GROUP = 64  # vectors that go through a linear layer together


@dataclass(frozen=True)
class LayerWeights:
    """The weights of a layer, laid out for one level.

    parts: one object per group; a depthwise layer has one for all groups. copies: how often the
    rows of a part appear in the output. scale: (output rows,).
    """

    parts: list[Any]
    copies: int
    scale: np.ndarray
    level: str

    @property
    def rows(self) -> int:
        """Of one part."""
        rows: int = self.parts[0].rows
        return rows


def layer_weights(
    tile_bits: Tensor,
    alphas: Tensor,
    shape: Sequence[int],
    p: int,
    groups: int,
    level: str,
) -> LayerWeights:
    """From a stored tile. shape: (rows, channels / groups[, kh, kw])."""
    all_rows, channels, *_ = shape
    rows = all_rows // groups
    k = len(alphas)
    scale_changes_in_row = all_rows % max(1, k) != 0
    # a depthwise layer has too few columns to look anything up
    if scale_changes_in_row or stored_tile.is_depthwise(shape, groups):
        dense = stored_tile.expand(tile_bits, alphas, shape, p).numpy()
        return dense_weights(dense, groups, level)
    scale = stored_tile.row_scales(alphas, all_rows).double().numpy()
    kh, kw = _kernel(shape)
    tile = tile_bits.numpy()
    if stored_tile.how(shape, p, k, groups) == "tile reuse":
        signs = native.SignWeights(tile, rows // p, channels, kh, kw, level)
        return LayerWeights([signs], p, scale, level)
    q = prod(shape) // p
    repeated = np.tile(bits.unpack(tile, q), p)
    parts = []
    for group in repeated.reshape(groups, -1):
        packed = bits.pack(group)
        signs = native.SignWeights(packed, rows, channels, kh, kw, level)
        parts.append(signs)
    return LayerWeights(parts, 1, scale, level)


def dense_weights(dense: np.ndarray, groups: int, level: str) -> LayerWeights:
    """In float32. dense: (rows, channels / groups[, kh, kw])."""
    all_rows, channels, *_ = dense.shape
    rows = all_rows // groups
    kh, kw = _kernel(dense.shape)
    scale = np.ones(all_rows)
    if stored_tile.is_depthwise(dense.shape, groups):
        kernels = dense.reshape(groups, 1, kh, kw)
        depthwise = native.DepthwiseWeights(kernels, level)
        return LayerWeights([depthwise], 1, scale, level)
    by_group = dense.reshape(groups, rows, channels, kh, kw)
    parts = [native.FloatWeights(part, level) for part in by_group]
    return LayerWeights(parts, 1, scale, level)


def _kernel(shape: Sequence[int]) -> tuple[int, int]:
    """(kh, kw) of a layer; a linear layer is a 1x1 convolution, a 1D one has one row."""
    _, _, *kernel = shape
    *_, kh, kw = (1, 1, *kernel)
    return kh, kw


def segment_weights(
    tile_bits: Tensor,
    alphas: Tensor,
    shape: Sequence[int],
    p: int,
    level: str,
) -> tuple[native.SignWeights, np.ndarray]:
    """(tile as rows of g columns, coefficient of each piece of each row) of a linear layer.

    For tiles that end inside rows. CONV makes the dot products of K / g pieces of the input with
    q / g pieces of the tile once. GATHER sums them up to rows.
    """
    g = stored_tile.segment_length(shape, p)
    total = prod(shape)
    kinds = total // p // g
    weights = native.SignWeights(tile_bits.numpy(), kinds, g, name=level)
    scales = np.ones(1, np.float32)
    if len(alphas):
        scales = alphas.float().numpy()
    pieces = total // g
    return weights, np.repeat(scales, pieces // len(scales))


def kept_weights(
    tile_bits: Tensor,
    alphas: Tensor,
    shape: Sequence[int],
    p: int,
    groups: int,
) -> LayerWeights:
    """The weights of a layer, laid out at the first call for these bits and kept."""
    level = native.level()
    key = (tuple(shape), p, groups, level)

    def make() -> LayerWeights:
        return layer_weights(tile_bits, alphas, shape, p, groups, level)

    found: LayerWeights = stored_tile.kept(tile_bits, alphas, key, make)
    return found


def check(x: Tensor) -> None:
    if x.device.type != "cpu" or x.dtype != torch.float32:
        raise ValueError(
            f"implementation 'cpu' takes float32 on the CPU, got {x.dtype} on {x.device}; "
            "use 'torch'"
        )


def _shift(bias: Tensor | None) -> np.ndarray | None:
    if bias is None:
        return None
    values = bias.detach().double()
    return values.numpy()


def linear(x: Tensor, weights: LayerWeights, bias: Tensor | None) -> Tensor:
    """One linear layer. x: (..., K) -> (..., rows)."""
    rows = len(weights.scale)
    columns = x.shape[-1]
    op = native.Op(
        native.CONV,
        input=0,
        output=1,
        p=weights.copies,
        rows=weights.rows,
        weights=weights.parts,
        scale=weights.scale,
        shift=_shift(bias),
    )
    shapes = [(1, 1, columns), (1, 1, rows)]
    program = native.Program([op], shapes, level=weights.level, group=GROUP)
    return _run_vectors(program, x, rows)


def linear_by_segments(
    x: Tensor,
    tile_bits: Tensor,
    alphas: Tensor,
    bias: Tensor | None,
    shape: Sequence[int],
    p: int,
) -> Tensor:
    """One linear layer whose tiles end inside rows. x: (..., K) -> (..., rows)."""
    rows, columns = shape
    level = native.level()

    def make() -> tuple[native.SignWeights, np.ndarray]:
        return segment_weights(tile_bits, alphas, shape, p, level)

    key = (tuple(shape), p, "segments", level)
    weights, coefficients = stored_tile.kept(tile_bits, alphas, key, make)
    products = native.Op(
        native.CONV,
        input=0,
        output=1,
        rows=weights.rows,
        weights=[weights],
    )
    gather = native.Op(
        native.GATHER,
        input=1,
        output=2,
        coefficients=coefficients,
        shift=_shift(bias),
    )
    g = stored_tile.segment_length(shape, p)
    pieces = columns // g
    program = native.Program(
        [products, gather],
        shapes=[(1, pieces, g), (1, pieces, weights.rows), (1, 1, rows)],
        level=level,
        group=GROUP,
        nhwc=[0],
    )
    return _run_vectors(program, x, rows)


def _run_vectors(program: native.Program, x: Tensor, rows: int) -> Tensor:
    """x: (..., K) -> (..., rows)."""
    *batch, columns = x.shape
    vectors = x.detach().reshape(-1, columns)
    flat = vectors.contiguous()
    out = flat.new_empty(len(flat), rows)
    run(program, flat, out)
    return out.reshape(*batch, rows)


def run(program: native.Program, x: Tensor, out: Tensor) -> Tensor:
    """Runs a program over contiguous x into out."""
    n = len(x)
    if n:
        inputs = [x.data_ptr()]
        outputs = [out.data_ptr()]
        threads = torch.get_num_threads()
        program.run(inputs, outputs, n, threads)
    return out
