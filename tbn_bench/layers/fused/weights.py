"""Tile and scales of a tiled convolution, read in the order in which its weights are in memory.

The tile is the sign of sums over p blocks of rows, and a scale is a mean over such a block. So any
order of the weights inside a row gives the same values. In channels-last memory, the order of
memory saves a copy of the whole weight forward and another backward.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tbn_bench import tiling
from tbn_bench.binarizers.tbn import TBNWeight


class TileWeights(NamedTuple):
    """tile: (R, C, kh, kw). scales: (1,) or (p,). latent: (C_out, C, kh, kw)."""

    tile: Tensor
    scales: Tensor
    latent: Tensor
    method: Any


class KeptScales:
    """The scales of a tensor A that is not learned, until it changes."""

    def __init__(self) -> None:
        self._key: tuple[int, int] | None = None
        self._scales = torch.empty(0)

    def of(self, method: TBNWeight, source: Tensor) -> Tensor:
        """The scales of source: (N elements), kept where it gets no gradient."""
        if source.requires_grad or source.is_inference():
            return _scales(method, source)
        key = (source.data_ptr(), source._version)
        if key != self._key:
            self._scales = _scales(method, source)
            self._key = key
        return self._scales

    def __deepcopy__(self, memo: Any) -> "KeptScales":
        return KeptScales()


def _scales(method: TBNWeight, source: Tensor) -> Tensor:
    return tiling.alphas(_in_memory_order(source), method.p, method.alpha)


def _is_permuted(weight: Tensor) -> bool:
    """Whether a weight (C_out, C, kh, kw) has its channels innermost in memory."""
    if weight.dim() != 4 or weight.is_contiguous():
        return False
    return weight.is_contiguous(memory_format=torch.channels_last)


def _in_memory_order(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 1) if _is_permuted(weight) else weight


def read(module: nn.Module, kept: KeptScales) -> TileWeights:
    """The weights of a tiled convolution, differentiable by its method's rule."""
    chain: Any = module.get_submodule("parametrizations.weight")
    method = chain[0]
    latent = chain.original
    columns = latent.shape[1:]
    rows = len(latent) // method.p
    if not isinstance(method, TBNWeight):
        tile = method.training_tile(latent)
        scales = method.scales(latent)
        return TileWeights(tile.reshape(rows, *columns), scales, latent, method)
    source = latent if method.A is None else method.A
    scales = kept.of(method, source)
    ordered = _in_memory_order(latent)
    flat = method.training_tile(ordered)
    tile = flat.reshape(rows, *ordered.shape[1:])
    if _is_permuted(latent):
        tile = tile.permute(0, 3, 1, 2)
    return TileWeights(tile, scales, latent, method)
