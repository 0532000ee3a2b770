"""Shared by the implementations: a stored tile and its alphas as torch tensors."""

from collections.abc import Callable, Sequence
from math import gcd, prod
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from tbn_bench.derived import Snapshot, mark, unwritten
from tbn_bench.format import bits

How = Literal["tile reuse", "segments", "expanded"]
"""How a layer multiplies by p copies of a tile of signs.

tile reuse: by the tile alone; its products are stored p times, scaled. segments: the same for
pieces of rows, where tiles end inside a row. expanded: by the whole weight.
"""

# tile_bits -> (its mark, the alphas, key, what was made)
_kept: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

_BYTES = np.arange(256, dtype=np.uint8)
SIGN_TABLE = torch.from_numpy(bits.unpack(_BYTES, 2048)).float().reshape(256, 8)  # signs of a byte


def check(
    tile_bits: Tensor,
    alphas: Tensor,
    bias: Tensor | None,
    shape: Sequence[int],
    p: int,
) -> None:
    """Checks the stored form of a layer. Raises ValueError, saying what was expected."""
    total = prod(shape)
    rows = shape[0]
    if p < 1 or total % p:
        raise ValueError(f"p must be at least 1 and divide {total} weights, got {p}")
    in_tile = total // p
    size = bits.packed_bytes(in_tile)
    if tile_bits.dtype != torch.uint8 or tile_bits.shape != (size,):
        raise ValueError(
            f"expected uint8 tile_bits of shape ({size},), "
            f"got {tile_bits.dtype} {tuple(tile_bits.shape)}"
        )
    if alphas.dim() != 1 or (len(alphas) and total % len(alphas)):
        raise ValueError(
            f"expected alphas of shape (k,) with k dividing {total}, got {tuple(alphas.shape)}"
        )
    if bias is not None and bias.shape != (rows,):
        raise ValueError(f"expected bias of shape ({rows},), got {tuple(bias.shape)}")


def unpack(tile_bits: Tensor, q: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """tile_bits: (ceil(q / 8),) uint8 -> (q,) of +-1, on the device of the bits.

    By torch operations alone.
    """
    table = SIGN_TABLE.to(tile_bits.device, dtype)
    signs = table[tile_bits.long()]
    return signs.reshape(-1)[:q]


def expand(
    tile_bits: Tensor,
    alphas: Tensor,
    shape: Sequence[int],
    p: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The dense weight of `shape`: the tile repeated p times, times the scales.

    A scale is for N / k consecutive weights.
    """
    tile = unpack(tile_bits, prod(shape) // p, dtype)
    weight = tile.repeat(p)
    if len(alphas):
        runs = weight.reshape(len(alphas), -1)
        weight = runs * alphas.to(dtype)[:, None]
    return weight.reshape(*shape)


def row_scales(alphas: Tensor, rows: int) -> Tensor:
    """One scale per output row: (rows,). Every scale must be for whole rows."""
    if not len(alphas):
        alphas = torch.ones(1, dtype=alphas.dtype, device=alphas.device)
    return alphas.repeat_interleave(rows // len(alphas))


def how(shape: Sequence[int], p: int, k: int, groups: int = 1) -> How:
    """How a layer multiplies by p copies of a tile of signs with k scales.

    All implementations, packed layers and the native compiler ask this function. shape: (rows,
    columns) or (rows, channels / groups, *kernel).

    tile reuse: p > 1 divides the rows, every scale is for whole rows, and there is one group.
    segments: a linear layer whose tiles end inside rows, where that saves products. In a matrix of
    K columns there are K / g * q / g distinct dot products of segments, g = gcd(K, q): q K / g
    multiply-adds for rows * K, a saving of p g / K.
    """
    rows, *others = shape
    is_linear = len(others) == 1
    runs = max(1, k)
    if p <= 1 or groups != 1:
        return "expanded"
    if rows % p == 0 and rows % runs == 0:
        return "tile reuse"
    columns = prod(others)
    g = segment_length(shape, p)
    weights_of_a_scale = rows * columns // runs
    if is_linear and p * g > columns and weights_of_a_scale % g == 0:
        return "segments"
    return "expanded"


def segment_length(shape: Sequence[int], p: int) -> int:
    """g = gcd(K, q): rows of K weights and tiles of q weights are whole numbers of segments."""
    columns = prod(shape[1:])
    q = prod(shape) // p
    return gcd(columns, q)


def is_depthwise(shape: Sequence[int], groups: int) -> bool:
    """True for one kernel per channel. shape: (rows, channels / groups, *kernel)."""
    rows, channels, *_ = shape
    return groups > 1 and (rows, channels) == (groups, 1)


def kept(tile_bits: Tensor, alphas: Tensor, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """make(), kept for as long as these bits live and neither they nor the alphas change."""
    others = [] if alphas is tile_bits else [alphas]
    found = _kept.get(tile_bits)
    if found is not None:
        written, scales, made_for, made = found
        if made_for == key and unwritten(tile_bits, written) and scales.holds(others):
            return made
    written = mark(tile_bits)
    scales = Snapshot(others)
    made = make()
    _kept[tile_bits] = (written, scales, key, made)
    return made


def whole_rows(
    tile_bits: Tensor, alphas: Tensor, shape: Sequence[int], p: int
) -> tuple[Tensor, int, Tensor]:
    """(bits of R rows, copies, scale per output row).

    The bits are the tile, or the repeated tile where its copies are not whole rows.

    Raises ValueError where a scale changes inside a row.
    """
    rows = shape[0]
    if rows % max(1, len(alphas)):
        raise ValueError(
            f"a scale changes inside a row of {tuple(shape)} with {len(alphas)} alphas; "
            "use implementation 'torch'"
        )
    scales = row_scales(alphas, rows)
    if p == 1 or how(shape, p, len(alphas)) == "tile reuse":
        return tile_bits, p, scales
    tile = bits.unpack(tile_bits.cpu().numpy(), prod(shape) // p)
    repeated = torch.from_numpy(bits.pack(np.tile(tile, p)))
    return repeated.to(tile_bits.device), 1, scales
