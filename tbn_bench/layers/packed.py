"""Packed layers: Linear, Conv1d and Conv2d from bits, for inference.

Copies that are not aligned go through mixed_copies.py. implement_ hands the layers to the kernels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbn_bench.format.form import Form
from tbn_bench.kernels import tiled_conv2d, tiled_linear
from tbn_bench.kernels.stored_tile import segment_length
from tbn_bench.kernels.tiled_linear.torch import by_segments, copies
from tbn_bench.layers import mixed_copies
from tbn_bench.layers.packed_base import How, Packed, how_computed

__all__ = [
    "How",
    "Packed",
    "PackedConv",
    "PackedConv1d",
    "PackedConv2d",
    "PackedLinear",
    "how_computed",
    "implement_",
    "padding_of",
]
_CONV = {1: F.conv1d, 2: F.conv2d}


def implement_(model: nn.Module) -> dict[str, str]:
    """From now on packed layers multiply by the kernels. For inference only.

    The kernels lay the bits out once in words of their own and keep no weight in floating point:
    Triton on a GPU, the native library on a CPU. On a CPU one program for the whole network is
    faster (compiler/executor.py).

    Returns the layers that stay with torch, and why: name -> reason.
    """
    left = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, Packed):
            continue
        why = layer.why_no_kernel()
        layer.by_kernel = not why
        if why:
            left[name] = why
        else:
            layer.kept.clear()
    return left


def _by_kernel(kernel: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The kernels of a CPU take float32 alone; other types are computed in it."""
    fits = x.is_cuda or x.dtype == torch.float32
    if fits or not x.is_floating_point():
        return kernel(x)
    y = kernel(x.float())
    return y.to(x.dtype)


class PackedLinear(Packed):
    """nn.Linear from bits. x: (..., in_features) -> (..., out_features)."""

    def __init__(self, layer: nn.Linear, form: Form, tensors: dict[str, Tensor]):
        super().__init__(layer, form, tensors)
        self.in_features = layer.in_features
        self.out_features = layer.out_features

    def multiply(self, x: Tensor) -> Tensor:
        if self.by_kernel:
            return _by_kernel(self._kernel, x)
        weight, scales = self.factors(x)
        if self.how == "segments":
            g = segment_length(self.shape, self.p)
            return by_segments(x, weight, self.alphas, self.bias, self.shape, g)
        if scales is None:
            return F.linear(x, weight, self.typed_bias(x))
        if self.how == "two factors":
            first = F.linear(x, weight)
            return F.linear(first, scales, self.typed_bias(x))
        layout = self.form.copies
        if layout is None:
            products = F.linear(x, weight)
            return copies(products, scales, self.bias, -1)
        y = mixed_copies.linear(x, weight, scales, layout)
        bias = self.typed_bias(y)
        return y if bias is None else y + bias

    def _kernel(self, x: Tensor) -> Tensor:
        if self.summed > 1:
            x = mixed_copies.group_sums(x, self.summed, -1)
        y: Tensor = tiled_linear.operator(
            x,
            self.tile_bits,
            self.alphas,
            self.typed_bias(x),
            self.product.shape,
            self.product.p,
        )
        return y


class PackedConv(Packed):
    """A convolution from bits; attributes as torch's.

    pad_by_hand: the padding for F.pad where its values are not zeros, else None.
    """

    def __init__(self, layer: nn.Conv1d | nn.Conv2d, form: Form, tensors: dict[str, Tensor]):
        super().__init__(layer, form, tensors)
        self.stride = layer.stride
        self.dilation = layer.dilation
        self.padding: Any = layer.padding
        self.padding_mode = layer.padding_mode
        self.kernel_size = form.shape[2:]
        self.in_channels = layer.in_channels
        self.out_channels = layer.out_channels
        weight_shape = tuple(layer.weight.shape)
        if form.weight_shape != weight_shape:
            # a full-precision layer, whose kernel never grew by the shifts
            self.padding = self._padding_plus(form.reach)
        both_sides = layer._reversed_padding_repeated_twice
        # torch's name: the binarizer xnor reads it too
        self._reversed_padding_repeated_twice = both_sides
        self.pad_by_hand: list[int] | None = None
        if self.padding_mode != "zeros":
            self.pad_by_hand = both_sides

    def why_no_kernel(self) -> str:
        if len(self.shape) != 4:
            return "the kernels have convolutions of images only"
        named_padding = isinstance(self.padding, str)
        if self.groups != 1 or self.pad_by_hand is not None or named_padding:
            return "it has groups, or padding by name or with other values than zeros"
        return super().why_no_kernel()

    def multiply(self, x: Tensor) -> Tensor:
        if self.by_kernel:
            return _by_kernel(self._kernel, x)
        weight, scales = self.factors(x)
        padding = self.padding
        if self.pad_by_hand is not None:
            x = F.pad(x, self.pad_by_hand, mode=self.padding_mode)
            padding = 0
        if scales is None:
            return self._expanded_conv(x, weight, padding)
        if self.form.copies is not None:
            return self._mixed_copies(x, weight, scales, padding)
        spatial = len(self.stride)
        conv: Any = _CONV[spatial]
        y: Tensor = conv(x, weight, None, self.stride, padding, self.dilation)
        if self.how != "two factors":
            return copies(y, scales, self.bias, -1 - spatial)
        second: Tensor = conv(y, scales, self.typed_bias(x))
        return second

    def _expanded_conv(self, x: Tensor, weight: Tensor, padding: Any) -> Tensor:
        conv: Any = _CONV[len(self.stride)]
        bias = self.typed_bias(x)
        y: Tensor = conv(x, weight, bias, self.stride, padding, self.dilation, self.groups)
        return y

    def _mixed_copies(self, x: Tensor, tile: Tensor, scales: Tensor, padding: Any) -> Tensor:
        layout = self.form.copies
        assert layout is not None
        spatial = len(self.stride)
        is_unbatched = x.dim() == spatial + 1
        if is_unbatched:
            x = x.unsqueeze(0)
        around: Sequence[int] = padding
        if padding == 0:
            around = (0,) * spatial
        if layout.kind == "shifted":  # the padding of the kernel before it grew
            around = self._padding_plus(-layout.reach, around)
        geometry = mixed_copies.Geometry(self.stride, around, self.dilation)
        y = mixed_copies.conv(x, tile, scales, layout, geometry)
        bias = self.typed_bias(y)
        if bias is not None:
            per_channel = bias.reshape(-1, *[1] * spatial)
            y = y + per_channel
        return y.squeeze(0) if is_unbatched else y

    def _padding_plus(self, reach: int, padding: Sequence[int] | None = None) -> tuple[int, ...]:
        """The padding (default: the layer's) for a kernel larger by `reach` on every side."""
        given = self.padding if padding is None else padding
        enlarged = []
        for pad, dilation in zip(given, self.dilation, strict=True):
            margin = reach * dilation
            enlarged.append(pad + margin)
        return tuple(enlarged)

    def _kernel(self, x: Tensor) -> Tensor:
        batch = x if x.dim() == 4 else x.unsqueeze(0)
        if self.summed > 1:
            batch = mixed_copies.group_sums(batch, self.summed, 1)
        y: Tensor = tiled_conv2d.operator(
            batch,
            self.tile_bits,
            self.alphas,
            self.typed_bias(x),
            self.product.shape,
            self.product.p,
            self.stride,
            self.padding,
            self.dilation,
            1,
        )
        return y if x.dim() == 4 else y.squeeze(0)


class PackedConv1d(PackedConv):
    """nn.Conv1d from bits. x: (B, C, L) or (C, L)."""


class PackedConv2d(PackedConv):
    """nn.Conv2d from bits. x: (B, C, H, W) or (C, H, W)."""


def padding_of(layer: Any) -> tuple[int, ...] | None:
    """The padding of a convolution, packed or not, in numbers; None where it would be uneven."""
    if not isinstance(layer.padding, str):
        return tuple(layer.padding)
    if layer.padding != "same":
        return (0,) * len(layer.dilation)
    shape = layer.shape if isinstance(layer, Packed) else layer.weight.shape
    _, _, *kernel = shape
    padding = []
    for length, dilation in zip(kernel, layer.dilation, strict=True):
        total = dilation * (length - 1)
        half, rest = divmod(total, 2)
        if rest:
            return None
        padding.append(half)
    return tuple(padding)
