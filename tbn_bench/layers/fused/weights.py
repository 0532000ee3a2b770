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
from tbn_bench.layers.fused.norm import sylvester
from tbn_bench.native import training
from tbn_bench.native.abi import HadamardStruct


class TileWeights(NamedTuple):
    """tile: (R, C, kh, kw); of hadamard copies (p R, C / p, kh, kw), a group per slice of inputs.

    scales: (1,) or (p,). latent: (C_out, C, kh, kw).
    """

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


@torch.no_grad()
def store_by_channel_(latent: nn.Parameter) -> None:
    """Moves the memory of a latent weight to torch's default order.

    torch's fused optimizers copy a tensor in channels-last memory at each step. The tile alone, of
    1 / p of the size, is then moved for the convolution.
    """
    if _is_permuted(latent):
        latent.data = latent.data.contiguous()


def _in_memory_order(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 1) if _is_permuted(weight) else weight


def read(module: nn.Module, kept: KeptScales) -> TileWeights:
    """The weights of a tiled convolution, differentiable by its method's rule."""
    chain: Any = module.get_submodule("parametrizations.weight")
    method = chain[0]
    latent = chain.original
    columns = latent.shape[1:]
    rows = len(latent) // method.p
    if method.copies is not None:
        return _hadamard(method, latent, kept)
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


def _hadamard(method: Any, latent: Tensor, kept: KeptScales) -> TileWeights:
    tile: Tensor = _HadamardTile.apply(latent, method.p)
    source = latent if method.A is None else method.A
    return TileWeights(tile, kept.of(method, source), latent, method)


def _takes_native(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return False
    return weight.is_contiguous() and training.is_built()


def _native_call(weight: Tensor, tile: Tensor, p: int) -> HadamardStruct:
    """weight: (p R, C, kh, kw). tile: (p R, C / p, kh, kw). Both in torch's default order."""
    rows = len(weight) // p
    return HadamardStruct(
        weight=weight.data_ptr(),
        tile=tile.data_ptr(),
        rows=rows,
        length=tile[0].numel(),
        p=p,
    )


class _HadamardTile(torch.autograd.Function):
    """The tile of hadamard copies, slice by slice, with the "tile" gradient of tiling.py.

    weight: (p R, C, kh, kw) -> (p R, C / p, kh, kw), where rows s R to (s + 1) R belong to slice s
    of the inputs. Copy i is read once, in the order of memory.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, p: int) -> Tensor:
        ctx.p = p
        ctx.is_permuted = _is_permuted(weight)
        ctx.is_native = _takes_native(weight)
        if ctx.is_native:
            rows, channels, *kernel = weight.shape
            found = weight.new_empty((rows, channels // p, *kernel))
            training.hadamard_tile(_native_call(weight, found, p))
            return found.contiguous(memory_format=torch.channels_last)
        signs = sylvester(p).to(weight.device, weight.dtype)
        copies = _in_memory_order(weight).chunk(p)
        total = torch.zeros_like(_by_slice(copies[0], p, ctx.is_permuted))
        for i, copy in enumerate(copies):
            factors = _of_slices(signs[i], ctx.is_permuted)
            total.addcmul_(_by_slice(copy, p, ctx.is_permuted), factors)
        tile = tiling.sign(total)
        if ctx.is_permuted:
            tile = tile.permute(0, 3, 4, 1, 2)
        by_slice = tile.transpose(0, 1).flatten(0, 1)
        return by_slice.contiguous(memory_format=torch.channels_last)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        p = ctx.p
        if ctx.is_native:
            rows, channels, *kernel = grad.shape
            found = grad.new_empty((rows, channels * p, *kernel))
            ordered = grad.contiguous()
            training.hadamard_gradient(_native_call(found, ordered, p))
            return found, None
        signs = sylvester(p).to(grad.device, grad.dtype)
        shares = (grad / p).unflatten(0, (p, -1)).transpose(0, 1)  # (R, p, C / p, kh, kw)
        if ctx.is_permuted:
            shares = shares.permute(0, 3, 4, 1, 2)
        shares = shares.contiguous()
        rows = len(shares)
        out = shares.new_empty((p * rows, *shares.shape[1:]))
        for i, part in enumerate(out.chunk(p)):
            torch.mul(shares, _of_slices(signs[i], ctx.is_permuted), out=part)
        if ctx.is_permuted:
            return out.flatten(3, 4).permute(0, 3, 1, 2), None
        return out.flatten(1, 2), None


def _by_slice(copy: Tensor, p: int, is_permuted: bool) -> Tensor:
    """The input channels of a copy in p slices: (R, p, C / p, kh, kw), or (R, kh, kw, p, C / p)."""
    channels = 3 if is_permuted else 1
    slices: Tensor = copy.unflatten(channels, (p, -1))
    return slices


def _of_slices(signs: Tensor, is_permuted: bool) -> Tensor:
    """signs: (p,), as a factor of what _by_slice gives."""
    shape = (-1, 1) if is_permuted else (-1, 1, 1, 1)
    return signs.reshape(shape)
