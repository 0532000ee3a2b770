"""What the implementations share: a stored tile and its alphas as the torch tensors that products are made of."""

from collections.abc import Callable, Sequence
from math import gcd, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from tbn_bench.derived import Snapshot, mark, unwritten
from tbn_bench.format import bits

_kept: WeakTensorKeyDictionary = (
    WeakTensorKeyDictionary()
)  # tile_bits -> (its mark, the alphas, key, what was made)

SIGN_TABLE = (
    torch.from_numpy(bits.unpack(np.arange(256, dtype=np.uint8), 2048)).float().reshape(256, 8)
)  # signs of a byte


def check(
    tile_bits: Tensor, alphas: Tensor, bias: Tensor | None, shape: Sequence[int], p: int
) -> None:
    """What every layer needs of its stored form. Raises ValueError, saying what was expected."""
    total, rows = prod(shape), shape[0]
    if p < 1 or total % p:
        raise ValueError(f"p must be at least 1 and divide {total} weights, got {p}")
    size = bits.packed_bytes(total // p)
    if tile_bits.dtype != torch.uint8 or tile_bits.shape != (size,):
        raise ValueError(
            f"expected uint8 tile_bits of shape ({size},), got {tile_bits.dtype} {tuple(tile_bits.shape)}"
        )
    if alphas.dim() != 1 or (len(alphas) and total % len(alphas)):
        raise ValueError(
            f"expected alphas of shape (k,) with k dividing {total}, got {tuple(alphas.shape)}"
        )
    if bias is not None and bias.shape != (rows,):
        raise ValueError(f"expected bias of shape ({rows},), got {tuple(bias.shape)}")


def unpack(tile_bits: Tensor, q: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """tile_bits: (ceil(q / 8),) uint8 -> (q,) of +-1, by torch operations alone, on the device of the bits."""
    return SIGN_TABLE.to(tile_bits.device, dtype)[tile_bits.long()].reshape(-1)[:q]


def expand(
    tile_bits: Tensor,
    alphas: Tensor,
    shape: Sequence[int],
    p: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The dense weight of `shape`: the tile repeated p times, times the scales, each covering N / k consecutive weights."""
    copies = unpack(tile_bits, prod(shape) // p, dtype).repeat(p).reshape(max(1, len(alphas)), -1)
    return (copies * alphas.to(dtype)[:, None] if len(alphas) else copies).reshape(*shape)


def row_scales(alphas: Tensor, rows: int) -> Tensor:
    """One scale per output row: (rows,). Only where every scale covers whole rows."""
    scales = alphas if len(alphas) else torch.ones(1, dtype=alphas.dtype, device=alphas.device)
    return scales.repeat_interleave(rows // len(scales))


def aligned(rows: int, p: int, k: int, groups: int = 1) -> bool:
    """True where the copies are whole rows: p > 1 divides the rows, whole rows per scale, one group."""
    return p > 1 and groups == 1 and rows % p == 0 and rows % max(1, k) == 0


def segment(shape: Sequence[int], p: int, k: int) -> int:
    """Length g of the pieces that rows and tiles have in common, or 0 where using them saves nothing.

    A matrix of K columns whose tile of q does not end with a row still has only K / g * q / g distinct pieces of dot products, g = gcd(K, q):
    q K / g multiply-adds for rows * K, a saving of p g / K.
    """
    columns, total = prod(shape[1:]), prod(shape)
    g = gcd(columns, total // p)
    whole = (total // max(1, k)) % g == 0
    return g if p * g > columns and whole else 0


def kept(tile_bits: Tensor, alphas: Tensor, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """make(), kept for as long as these bits live and neither they nor the alphas change."""
    others = [] if alphas is tile_bits else [alphas]
    found = _kept.get(tile_bits)
    if found is not None:
        written, scales, made_for, made = found
        if made_for == key and unwritten(tile_bits, written) and scales.holds(others):
            return made
    written, scales = mark(tile_bits), Snapshot(others)
    made = make()
    _kept[tile_bits] = (written, scales, key, made)
    return made


def whole_rows(
    tile_bits: Tensor, alphas: Tensor, shape: Sequence[int], p: int
) -> tuple[Tensor, int, Tensor]:
    """(bits of R rows, copies, scale per output row): the tile, or the repeated one where its copies are not whole rows.

    Raises ValueError where a scale changes inside a row.
    """
    rows = shape[0]
    if rows % max(1, len(alphas)):
        raise ValueError(
            f"a scale changes inside a row of {tuple(shape)} with {len(alphas)} alphas; use implementation 'torch'"
        )
    if p == 1 or aligned(rows, p, len(alphas)):
        return tile_bits, p, row_scales(alphas, rows)
    signs = np.tile(bits.unpack(tile_bits.cpu().numpy(), prod(shape) // p), p)
    return torch.from_numpy(bits.pack(signs)).to(tile_bits.device), 1, row_scales(alphas, rows)
