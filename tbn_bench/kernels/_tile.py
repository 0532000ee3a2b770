"""What the implementations share: a stored tile and its alphas as the torch tensors that products are made of."""

from collections.abc import Sequence
from math import gcd, prod

import numpy as np
import torch
from torch import Tensor

from tbn_bench import bits

SIGN_TABLE = torch.from_numpy(bits.unpack(np.arange(256, dtype=np.uint8), 2048)).float().reshape(256, 8)  # signs of a byte


def unpack(tile_bits: Tensor, q: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """tile_bits: (ceil(q / 8),) uint8 -> (q,) of +-1, by torch operations alone, on the device of the bits."""
    return SIGN_TABLE.to(tile_bits.device, dtype)[tile_bits.long()].reshape(-1)[:q]


def expand(tile_bits: Tensor, alphas: Tensor, shape: Sequence[int], p: int, dtype: torch.dtype = torch.float32) -> Tensor:
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
