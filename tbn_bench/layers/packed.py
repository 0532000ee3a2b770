"""Deployable layers: a weight is the tensors of its stored form (form.py), and nothing else.

A packed layer holds them as buffers: tile_bits and alphas, for some methods offsets or a codebook. Where p > 1 divides the output rows, its
forward multiplies by the tile alone (1 / p of the products), where the weight is a product of two factors by one after the other; elsewhere
it multiplies by the expanded weight. A layer's `.weight` is the dense weight, made where it is read: networks may look at it.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbn_bench.binarizers._base import ActivationBinarizer
from tbn_bench.derived import Kept
from tbn_bench.format import bits
from tbn_bench.format.description import BUFFERS
from tbn_bench.format.form import Form
from tbn_bench.kernels import _tile, tiled_conv2d, tiled_linear
from tbn_bench.kernels.tiled_linear.torch import copies, segments
from tbn_bench.layers import mixed_copies
from tbn_bench.layers.dense import dense_weight, factor_scales, factor_signs, float_scales


def how_computed(form: Form, linear: bool, groups: int) -> str:
    """What a layer of this form multiplies by."""
    if form.kind in mixed_copies.KINDS:
        return "tile reuse" if form.has_shared_products and groups == 1 else "expanded"
    if form.code == "low_rank" and groups == 1:
        return "two factors"
    if form.plain and _tile.aligned(form.shape[0], form.p, form.scales, groups):
        return "tile reuse"
    return (
        "segments"
        if form.plain and linear and _tile.segment(form.shape, form.p, form.scales)
        else "expanded"
    )


@contextmanager
def types_kept(module: nn.Module, stored: list[str]) -> Iterator[None]:
    """What `.half()`, `.double()` and their like do inside moves stored buffers, and leaves their types."""
    before = {name: module._buffers[name] for name in stored}
    yield
    for name, old in before.items():
        new = module._buffers[name]
        if new.dtype != old.dtype:
            module._buffers[name] = old.to(new.device)


def _by_kernel(kernel: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The kernels of a CPU take float32 alone; other types are computed in it."""
    if x.is_cuda or x.dtype == torch.float32 or not x.is_floating_point():
        return kernel(x)
    return kernel(x.float()).to(x.dtype)


class Packed(nn.Module):
    """Buffers: tile_bits uint8, alphas float32 (or int8 exponents), offsets, codebook: the tensors of `form`, by BUFFERS.

    What forward multiplies by is derived from them at its first call, and again when they change: a native plan, which reads the bits, never
    makes it. It computes in the type of its input, as the layers of kernels/ do; `.half()` and its like leave what is stored as it is, and
    change the type of an empty tensor, `like`. product: the form of what the input meets, once sums of `summed` neighbouring channels have taken its place (1: no sums).
    input_binarizer: what the input passes first, or None.
    """

    def __init__(self, layer: nn.Module, form: Form, tensors: dict[str, Tensor]):
        super().__init__()
        self.form, self.shape, self.p, self.groups = (
            form,
            form.shape,
            form.p,
            getattr(layer, "groups", 1),
        )
        self.how = how_computed(form, len(form.shape) == 2, self.groups)
        self.reuses = self.how == "tile reuse"
        self.product = form.product if self.reuses else form
        self.summed = form.p if self.product is not form else 1
        self.two_steps = self.how == "two factors"
        self.segment = (
            _tile.segment(self.shape, form.p, form.scales) if self.how == "segments" else 0
        )
        for name, tensor in tensors.items():
            self.register_buffer(BUFFERS[name], tensor)
        self.register_buffer(
            "like", self.tile_bits.new_empty(0, dtype=layer.weight.dtype), persistent=False
        )
        self.bias = (
            None if layer.bias is None else layer.bias.requires_grad_(False)
        )  # others may share it
        self.input_binarizer: ActivationBinarizer | None = getattr(layer, "input_binarizer", None)
        self.training = layer.training
        self.in_graph = False
        self.by_kernel = False
        self.kept, self.kept_weight = Kept(), Kept()

    @property
    def factor(self) -> Tensor | None:
        """The tile, first factor or weight that forward multiplied by last; None where nothing is derived."""
        return None if self.kept.value is None else self.kept.value[0]

    @property
    def row_scales(self) -> Tensor | None:
        """The scales per row or the second factor that go with it."""
        return None if self.kept.value is None else self.kept.value[1]

    @property
    def weight(self) -> Tensor:
        """The dense weight, for code that reads its layers' weights: in form.weight_shape, in the type that the weight had.

        It is made when it is read and then kept, which `weight_bytes` counts. Writing to it changes nothing.
        """
        if self.how == "expanded" and not self.by_kernel:
            return self._factors(self.like)[0]
        if self.in_graph or torch.compiler.is_compiling():
            return self.expanded().to(self.like.dtype)
        found: Tensor = self.kept_weight.get(
            self._sources(), lambda: self.expanded().to(self.like.dtype), self.like.dtype
        )
        return found

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Packed":
        with types_kept(self, [BUFFERS[name] for name in self.form.sizes]):
            super()._apply(fn, recurse)
        return self

    def tensors(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, BUFFERS[name]).cpu().numpy() for name in self.form.sizes}

    def scales(self) -> Tensor:
        """(k,) floating point."""
        return float_scales(self.form, self.alphas)

    def sign_form(self) -> tuple[Tensor, Tensor, int] | None:
        """(tile_bits, scales, p) of an equal weight of signs in aligned copies: what the native kernels take.

        Its shape is that of `product`. None where there is none.
        """
        if self.product.plain:
            return self.tile_bits, self.alphas, self.product.p
        if (
            self.form.code in ("ternary", "low_rank")
            or self.form.offsets
            or self.form.kind == "shifted"
        ):
            return None
        values = self.form.values(self.tensors())
        return torch.from_numpy(bits.pack(values)), self.scales(), 1

    def expanded(self) -> Tensor:
        """The dense float32 weight, in form.weight_shape."""
        return dense_weight(
            self.form, {name: getattr(self, BUFFERS[name]) for name in self.form.sizes}
        )

    def factor_signs(self) -> tuple[Tensor, Tensor]:
        """Of code low_rank: U: (rows, rank) and V: (rank, *shape[1:]), +-1."""
        return factor_signs(self.form, self.tile_bits)

    def factor_scales(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of code low_rank: u: (rows,), m: (rank,), v: (C_in,)."""
        return factor_scales(self.form, self.alphas)

    def _two_factors(self) -> tuple[Tensor, Tensor]:
        """(rank, *shape[1:]) with the scales m and v, (rows, rank) with u: what forward multiplies by, one after the other."""
        (left, right), (u, m, v) = self.factor_signs(), self.factor_scales()
        kernel = [1] * (len(self.shape) - 2)
        first = right * m.reshape(-1, 1, *kernel) * v.reshape(1, -1, *kernel)
        return first, (left * u[:, None]).reshape(*left.shape, *kernel)

    def _derived(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """From the bits: (tile, row scales) to reuse, (flat tile, None) for segments, both factors, or (weight, None)."""
        if self.two_steps:
            first, second = self._two_factors()
            return first.to(dtype), second.to(dtype)
        if not self.reuses and not self.segment:
            return self.expanded().to(dtype), None
        tile = _tile.unpack(self.tile_bits, self.numel // self.p, dtype)
        if self.segment:
            return tile, None
        scales = self.scales().to(dtype)
        if self.form.copies is not None:
            return tile.reshape(self.form.copies.tile_shape), scales
        tile = tile.reshape(-1, *self.shape[1:])
        return tile, _tile.row_scales(scales, self.shape[0]).reshape(
            self.p, -1, *[1] * (len(self.shape) - 2)
        )

    def materialize_(self) -> None:
        """Derives what forward multiplies by, on the device of the bits.

        A second call does nothing, unless the bits changed, nor does one where kernels read bits.
        """
        if not self.by_kernel:
            self._factors(self.like)

    def unpack_in_forward_(self) -> None:
        """From now on forward derives what it needs in each call and keeps nothing."""
        self.in_graph = True
        self.kept.clear()

    def why_no_kernel(self) -> str:
        """Why implement_ leaves this layer to torch; empty where the kernels take it on every device."""
        if not self.product.plain:
            return "its weight is not p copies of one tile of signs"
        if self.form.scales and self.shape[0] % self.form.scales:
            return "a scale changes inside a row"
        return ""

    def _factors(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What x meets, in its type. A graph that is compiled or exported holds the bits and nothing derived."""
        dtype = x.dtype if x.is_floating_point() else self.like.dtype
        if self.in_graph or torch.compiler.is_compiling():
            return self._derived(dtype)
        found: tuple[Tensor, Tensor | None] = self.kept.get(
            self._sources(), lambda: self._derived(dtype), dtype
        )
        return found

    def _bias(self, y: Tensor) -> Tensor | None:
        return None if self.bias is None else self.bias.to(y.dtype)

    def _sources(self) -> list[Tensor]:
        return [getattr(self, BUFFERS[name]) for name in self.form.sizes]

    def weight_bytes(self) -> int:
        """Bytes of weights that one forward reads, and of the dense weight where something has asked for it.

        A forward reads the float tile with its row scales, two factors, the expanded weight, or, by Triton, words of 32 signs of one channel
        run per tap (of all rows where the copies are not whole rows) with a scale per row.
        """
        asked = self.kept_weight.value
        dense = 0 if asked is None else asked.numel() * asked.element_size()
        if self.by_kernel:
            rows, channels, *taps = self.product.shape
            stored = rows // (
                self.product.p if _tile.aligned(rows, self.product.p, self.form.scales) else 1
            )
            return dense + 4 * stored * math.prod(taps) * -(-channels // 32) + 4 * rows
        return dense + sum(
            t.numel() * t.element_size() for t in self._factors(self.like) if t is not None
        )

    def forward(self, input: Tensor) -> Tensor:  # by torch's name: callers may give it by keyword
        if self.input_binarizer is None:
            return self._multiply(input)
        return self.input_binarizer.scale_output(
            self, input, self._multiply(self.input_binarizer(input))
        )

    def _multiply(self, x: Tensor) -> Tensor:
        raise NotImplementedError  # abstract


class PackedLinear(Packed):
    """nn.Linear from bits. x: (..., in_features) -> (..., out_features)."""

    def __init__(self, layer: nn.Linear, form: Form, tensors: dict[str, Tensor]):
        super().__init__(layer, form, tensors)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def _multiply(self, x: Tensor) -> Tensor:
        if self.by_kernel:
            return _by_kernel(self._kernel, x)
        weight, scales = self._factors(x)
        if self.segment:
            return segments(x, weight, self.alphas, self.bias, self.shape, self.segment)
        if scales is None:
            return F.linear(x, weight, self._bias(x))
        if self.two_steps:
            return F.linear(F.linear(x, weight), scales, self._bias(x))
        if self.form.copies is not None:
            y = mixed_copies.linear(x, weight, scales, self.form.copies)
            return y if self.bias is None else y + self._bias(y)
        return copies(F.linear(x, weight), scales, self.bias, -1)

    def _kernel(self, x: Tensor) -> Tensor:
        x = mixed_copies.group_sums(x, self.summed, -1) if self.summed > 1 else x
        return tiled_linear.operator(
            x, self.tile_bits, self.alphas, self._bias(x), self.product.shape, self.product.p
        )


class PackedConv(Packed):
    def __init__(self, layer: nn.Conv1d | nn.Conv2d, form: Form, tensors: dict[str, Tensor]):
        super().__init__(layer, form, tensors)
        self.stride, self.dilation, self.padding, self.padding_mode = (
            layer.stride, layer.dilation, layer.padding, layer.padding_mode,
        )  # fmt: skip
        self.kernel_size = form.shape[2:]
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        if form.weight_shape != tuple(
            layer.weight.shape
        ):  # a full-precision layer that never grew by the shifts
            self.padding = tuple(
                n + form.copies.reach * d for n, d in zip(self.padding, self.dilation, strict=True)
            )
        self._reversed_padding_repeated_twice = (
            layer._reversed_padding_repeated_twice
        )  # by torch's name: xnor reads it too
        self.pad_by_hand = (
            self._reversed_padding_repeated_twice if self.padding_mode != "zeros" else None
        )

    def why_no_kernel(self) -> str:
        if len(self.shape) != 4:
            return "the kernels have convolutions of images only"
        if self.groups != 1 or self.pad_by_hand is not None or isinstance(self.padding, str):
            return "it has groups, or padding by name or with other values than zeros"
        return super().why_no_kernel()

    def _multiply(self, x: Tensor) -> Tensor:
        if self.by_kernel:
            return _by_kernel(self._kernel, x)
        weight, scales = self._factors(x)
        padding = self.padding
        if self.pad_by_hand is not None:
            x, padding = F.pad(x, self.pad_by_hand, mode=self.padding_mode), 0
        spatial = len(self.shape) - 2
        conv = (F.conv1d, F.conv2d)[spatial - 1]
        if scales is None:
            return conv(x, weight, self._bias(x), self.stride, padding, self.dilation, self.groups)
        if self.two_steps:
            return conv(
                conv(x, weight, None, self.stride, padding, self.dilation), scales, self._bias(x)
            )
        if self.form.copies is None:
            return copies(
                conv(x, weight, None, self.stride, padding, self.dilation),
                scales,
                self.bias,
                -1 - spatial,
            )
        return self._laid_out(x, weight, scales, padding)

    def _laid_out(self, x: Tensor, tile: Tensor, scales: Tensor, padding: Any) -> Tensor:
        unbatched = x.dim() == len(self.shape) - 1
        x = x.unsqueeze(0) if unbatched else x
        around = (0,) * len(self.stride) if padding == 0 else padding
        if self.form.kind == "shifted":
            around = tuple(
                n - self.form.copies.reach * d for n, d in zip(around, self.dilation, strict=True)
            )
        y = mixed_copies.conv(x, tile, scales, self.form.copies, self.stride, around, self.dilation)
        if self.bias is not None:
            y = y + self._bias(y).reshape(-1, *[1] * len(self.stride))
        return y.squeeze(0) if unbatched else y

    def _kernel(self, x: Tensor) -> Tensor:
        whole = x if x.dim() == 4 else x.unsqueeze(0)
        whole = mixed_copies.group_sums(whole, self.summed, 1) if self.summed > 1 else whole
        y = tiled_conv2d.operator(
            whole, self.tile_bits, self.alphas, self._bias(x), self.product.shape, self.product.p, self.stride, self.padding,
            self.dilation, 1,
        )  # fmt: skip
        return y if x.dim() == 4 else y.squeeze(0)


class PackedConv1d(PackedConv):
    """nn.Conv1d from bits. x: (B, C, L) or (C, L)."""


class PackedConv2d(PackedConv):
    """nn.Conv2d from bits. x: (B, C, H, W) or (C, H, W)."""


def padding_of(layer: Any) -> tuple[int, ...] | None:
    """Of a convolution, packed or not, also where it is given by name; None where it would be uneven."""
    if not isinstance(layer.padding, str):
        return tuple(layer.padding)
    kernel = (layer.shape if isinstance(layer, Packed) else layer.weight.shape)[2:]
    both = [
        d * (k - 1) * (layer.padding == "same") for k, d in zip(kernel, layer.dilation, strict=True)
    ]
    return None if any(total % 2 for total in both) else tuple(total // 2 for total in both)


def implement_(model: nn.Module) -> dict[str, str]:
    """From now on packed layers multiply by the kernels, which lay the bits out once in words of their own and keep no weight in floating
    point: Triton on a GPU, the native library on a CPU (one plan for the whole network is faster there: executor.py). Inference only.

    Returns the layers that stay with torch, and why: name -> reason.
    """
    left = {}
    for name, layer in model.named_modules():
        if isinstance(layer, Packed):
            why = layer.why_no_kernel()
            layer.by_kernel = not why
            if why:
                left[name] = why
            else:
                layer.kept.clear()
    return left
