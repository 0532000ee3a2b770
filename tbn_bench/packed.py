"""Deployable layers: a weight is its tile's bits and its scales, and nothing else.

pack_ replaces every binarized Linear / Conv by a layer holding two buffers, tile_bits and alphas. Where p > 1 divides the output
rows, its forward multiplies by the tile alone (1 / p of the products) and stores the result p times, scaled; elsewhere it
multiplies by the expanded weight. Both are derived from the bits when the layer is made.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tbn_bench import bits
from tbn_bench.binarizers._base import WeightBinarizer


@dataclass(frozen=True)
class PackRow:
    """One packed weight. how: "tile reuse" or "expanded"; the bytes are those of tile_bits and alphas."""

    name: str
    shape: tuple[int, ...]
    p: int
    tile_bytes: int
    alpha_bytes: int
    how: str


class _Packed(nn.Module):
    """Buffers: tile_bits (ceil(q / 8),) uint8 and alphas (k,) float32. `shape` is that of the weight it stands for.

    What forward multiplies by is derived from the bits at its first call: a native plan, which reads the bits, never makes it.
    """

    def __init__(self, layer: nn.Module, p: int, tile_bits: Tensor, alphas: Tensor):
        super().__init__()
        self.shape, self.p, self.groups = tuple(layer.weight.shape), p, getattr(layer, "groups", 1)
        self.reuses = _reuses(layer, self.shape[0], p, len(alphas))
        self.register_buffer("tile_bits", tile_bits)
        self.register_buffer("alphas", alphas)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
        for name in ("weight", "tile", "row_scales"):
            self.register_buffer(name, None, persistent=False)

    @property
    def numel(self) -> int:
        return int(np.prod(self.shape))

    def signs(self) -> Tensor:
        """The stored tile as float32 +-1: (q,)."""
        return torch.from_numpy(bits.unpack(self.tile_bits.cpu().numpy(), self.numel // self.p)).float()

    def expanded(self) -> Tensor:
        """The dense weight, in `shape`: tile repeated p times, times the scales."""
        k = max(1, len(self.alphas))
        copies = self.signs().repeat(self.p).reshape(k, -1)
        return (copies * self.alphas.cpu()[:, None] if len(self.alphas) else copies).reshape(self.shape)

    def row_scale_values(self) -> Tensor:
        """One scale per output row: (rows,). Only where every scale covers whole rows."""
        scales = self.alphas.cpu() if len(self.alphas) else torch.ones(1)
        return scales.repeat_interleave(self.shape[0] // len(scales))

    def materialize_(self) -> None:
        """Derives what forward multiplies by, on the device of the bits; a second call does nothing."""
        if self.weight is not None or self.tile is not None:
            return
        device = self.tile_bits.device
        if not self.reuses:
            self.weight = self.expanded().to(device)
            return
        self.tile = self.signs().reshape(-1, *self.shape[1:]).to(device)
        self.row_scales = self.row_scale_values().reshape(self.p, -1, *[1] * (len(self.shape) - 2)).to(device)

    def weight_bytes(self) -> int:
        """Bytes of weights that one forward reads: the float tile with its row scales, or the expanded weight."""
        self.materialize_()
        read = [self.tile, self.row_scales] if self.reuses else [self.weight]
        return sum(t.numel() * t.element_size() for t in read)

    def _copies(self, y: Tensor, dim: int) -> Tensor:
        """y: (..., R at dim, ...) -> p scaled copies, plus bias."""
        y = y.unsqueeze(dim - 1)
        if self.bias is None:
            return (y * self.row_scales).flatten(dim - 1, dim)
        return torch.addcmul(self.bias.reshape(self.row_scales.shape), y, self.row_scales).flatten(dim - 1, dim)


class PackedLinear(_Packed):
    """nn.Linear from bits. x: (..., in_features) -> (..., out_features)."""

    def forward(self, x: Tensor) -> Tensor:
        self.materialize_()
        if not self.reuses:
            return F.linear(x, self.weight, self.bias)
        return self._copies(F.linear(x, self.tile), -1)


class _PackedConv(_Packed):
    def __init__(self, layer: nn.Conv1d | nn.Conv2d, p: int, tile_bits: Tensor, alphas: Tensor):
        super().__init__(layer, p, tile_bits, alphas)
        self.stride, self.dilation, self.padding, self.padding_mode = (
            layer.stride, layer.dilation, layer.padding, layer.padding_mode,
        )  # fmt: skip
        self.pad_by_hand = layer._reversed_padding_repeated_twice if self.padding_mode != "zeros" else None

    def forward(self, x: Tensor) -> Tensor:
        self.materialize_()
        padding = self.padding
        if self.pad_by_hand is not None:
            x, padding = F.pad(x, self.pad_by_hand, mode=self.padding_mode), 0
        spatial = len(self.shape) - 2
        conv = (F.conv1d, F.conv2d)[spatial - 1]
        if not self.reuses:
            return conv(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        return self._copies(conv(x, self.tile, None, self.stride, padding, self.dilation), -1 - spatial)


class PackedConv1d(_PackedConv):
    """nn.Conv1d from bits. x: (B, C, L) or (C, L)."""


class PackedConv2d(_PackedConv):
    """nn.Conv2d from bits. x: (B, C, H, W) or (C, H, W)."""


_KINDS = {nn.Linear: PackedLinear, nn.Conv1d: PackedConv1d, nn.Conv2d: PackedConv2d}


def _expand_(module: nn.Module) -> None:
    """Puts the computed weights in the place of their parametrizations.

    torch's remove_parametrizations deletes the property from a class that copies of the module share, and so breaks the others.
    """
    values = {attribute: getattr(module, attribute).detach().clone() for attribute in module.parametrizations}
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]
    for attribute, value in values.items():
        setattr(module, attribute, nn.Parameter(value, requires_grad=False))


def dense(model: nn.Module) -> nn.Module:
    """A copy of a binarized model with every parametrization replaced by the weight it computes: the plain path."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if parametrize.is_parametrized(module):
            _expand_(module)
    return model


def pack_(model: nn.Module) -> list[PackRow]:
    """Replaces, in place, every binarized Linear, Conv1d and Conv2d of a trained model by its packed layer.

    Attention projections that nn.MultiheadAttention reads itself become plain dense weights ("expanded"). Raises ValueError for a
    model without binarized weights.
    """
    rows, made = [], {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in made:
            model.set_submodule(name, made[module])
            continue
        if not parametrize.is_parametrized(module):
            continue
        methods = {k: (chain[0], chain.original.detach()) for k, chain in module.parametrizations.items()}
        kind = _kind(module)
        for attribute, (method, latent) in methods.items():
            reuses = kind is not None and _reuses(module, latent.shape[0], method.p, method.num_scales(latent))
            rows.append(_row(f"{name}.{attribute}".lstrip("."), method, latent, reuses))
        if kind is None:
            _expand_(module)
        elif not name:
            raise ValueError(f"a bare {type(module).__name__} cannot be replaced in place; wrap it: nn.Sequential(layer)")
        else:
            made[module] = _packed_layer(kind, module, *methods["weight"])
            model.set_submodule(name, made[module])
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # its fused path would read linear1.weight; this makes it call the layers
    if not rows:
        raise ValueError(f"{type(model).__name__} has no binarized weight inside; call binarize_ and train it first")
    return rows


def _kind(module: nn.Module) -> type[_Packed] | None:
    """The packed layer for module; None for attention, which reads its projections' weights itself."""
    if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return None
    return next((made for known, made in _KINDS.items() if isinstance(module, known)), None)


def _packed_layer(kind: type[_Packed], layer: nn.Module, method: WeightBinarizer, latent: Tensor) -> _Packed:
    signs = method.signs(latent).to(torch.int8).cpu().numpy()
    return kind(layer, method.p, torch.from_numpy(bits.pack(signs)), method.scales(latent).detach().float().clone())


def _reuses(layer: nn.Module, rows: int, p: int, k: int) -> bool:
    """True where each distinct dot product can be computed once: p > 1 divides the rows, one group, whole rows per scale."""
    return p > 1 and getattr(layer, "groups", 1) == 1 and rows % p == 0 and rows % max(1, k) == 0


def _row(name: str, method: WeightBinarizer, latent: Tensor, reuses: bool) -> PackRow:
    tile_bytes = bits.packed_bytes(latent.numel() // method.p)
    how = "tile reuse" if reuses else "expanded"
    return PackRow(name, tuple(latent.shape), method.p, tile_bytes, 4 * method.num_scales(latent), how)
