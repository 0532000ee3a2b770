"""Deployable layers: a weight is the tensors of its stored form (form.py), and nothing else.

pack_ replaces every binarized Linear / Conv by a layer holding them as buffers: tile_bits and alphas, for some methods offsets or a
codebook. Where p > 1 divides the output rows, its forward multiplies by the tile alone (1 / p of the products), where the weight is a
product of two factors by one after the other; elsewhere it multiplies by the expanded weight. save and load move a packed network to a
file (packed_file.py) and back. A layer's `.weight` is the dense weight, made where it is read: networks may look at it.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tbn_bench import tiling
from tbn_bench.binarizers._base import ActivationBinarizer, WeightBinarizer
from tbn_bench.derived import Kept, place
from tbn_bench.format import bits, packed_file
from tbn_bench.format.description import BUFFERS, Damaged
from tbn_bench.format.form import KERNEL, TRITS, Form
from tbn_bench.format.packed_file import Artifact, ArtifactError, Weight
from tbn_bench.kernels import _tile, tiled_conv2d, tiled_linear
from tbn_bench.kernels.tiled_linear.torch import copies, segments
from tbn_bench.layers import mixed_copies

MOST_GROWTH = 100  # of the weight of shifted copies, where a layer needs it enlarged


@dataclass(frozen=True)
class PackRow:
    """One packed weight.

    how: "tile reuse", "segments", "two factors" or "expanded". tile_bytes: of the values, with a codebook. alpha_bytes: of the scales, with
    offsets. dense_bytes: what the dense weight takes in memory once it is read: by every forward where how is "expanded", elsewhere by code
    that asks the layer for its `.weight`.
    """

    name: str
    shape: tuple[int, ...]
    p: int
    tile_bytes: int
    alpha_bytes: int
    how: str
    dense_bytes: int = 0


def _how(form: Form, linear: bool, groups: int) -> str:
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


def _float_scales(form: Form, alphas: Tensor) -> Tensor:
    return torch.exp2(alphas.float()) if form.exponents else alphas


def _values(form: Form, tensors: dict[str, Tensor]) -> Tensor:
    """The stored values, not of code low_rank: (q,) float32."""
    data = tensors["tile"]
    if form.code == "ternary":
        powers = torch.tensor([3**i for i in range(TRITS)], device=data.device)
        return (data.long()[:, None] // powers % 3 - 1).reshape(-1)[: form.q].float()
    if form.code == "codebook":
        kernels, width = form.numel // KERNEL, form.index_bits
        places = torch.tensor([1 << i for i in range(width)], device=data.device)
        indices = ((_tile.unpack(data, kernels * width) > 0).reshape(kernels, width) * places).sum(
            1
        )
        return (
            _tile.unpack(tensors["codebook"], KERNEL << width)
            .reshape(-1, KERNEL)[indices]
            .reshape(-1)
        )
    return _tile.unpack(data, form.q)


def _factor_signs(form: Form, tile_bits: Tensor) -> tuple[Tensor, Tensor]:
    """Of code low_rank: U: (rows, rank) and V: (rank, *shape[1:]), +-1."""
    first, second = form.factor_sizes
    signs = _tile.unpack(tile_bits, first + second)
    left = signs[:first].reshape(form.shape[0], form.rank)
    return left, signs[first:].reshape(form.rank, *form.shape[1:])


def _factor_scales(form: Form, alphas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of code low_rank: u: (rows,), m: (rank,), v: (C_in,)."""
    u, m, v = alphas.split([form.shape[0], form.rank, form.shape[1]])
    return u, m, v


def _product(form: Form, tensors: dict[str, Tensor]) -> Tensor:
    """The dense weight of two factors, by form.py's rule."""
    left, right = (signs.double() for signs in _factor_signs(form, tensors["tile"]))
    u, m, v = (scales.double() for scales in _factor_scales(form, tensors["alphas"]))
    mixed = u[:, None] * ((left * m) @ right.flatten(1))
    by_channel = mixed.reshape(*form.shape[:2], -1) * v[:, None]
    return by_channel.reshape(form.shape).float()


def _dense(form: Form, tensors: dict[str, Tensor]) -> Tensor:
    """Form.dense by torch operations alone: the float32 weight, in form.weight_shape, on the device of the bits."""
    if form.code == "low_rank":
        return _product(form, tensors)
    stored, copies = _values(form, tensors), form.copies
    laid_out = stored.repeat(form.p) if copies is None else tiling.lay_out(stored, copies)
    out = laid_out.reshape(max(1, form.scales), -1)
    if form.scales:
        out = out * _float_scales(form, tensors["alphas"])[:, None]
    if form.offsets:
        out = out + tensors["offsets"][:, None]
    out = out.reshape(form.shape)
    return out if copies is None else tiling.enlarged(out, copies)


@contextmanager
def _types_kept(module: nn.Module, stored: list[str]) -> Iterator[None]:
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


class _Packed(nn.Module):
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
        self.how = _how(form, len(form.shape) == 2, self.groups)
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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_Packed":
        with _types_kept(self, [BUFFERS[name] for name in self.form.sizes]):
            super()._apply(fn, recurse)
        return self

    def tensors(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, BUFFERS[name]).cpu().numpy() for name in self.form.sizes}

    def scales(self) -> Tensor:
        """(k,) floating point."""
        return _float_scales(self.form, self.alphas)

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
        return _dense(self.form, {name: getattr(self, BUFFERS[name]) for name in self.form.sizes})

    def factor_signs(self) -> tuple[Tensor, Tensor]:
        """Of code low_rank: U: (rows, rank) and V: (rank, *shape[1:]), +-1."""
        return _factor_signs(self.form, self.tile_bits)

    def factor_scales(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of code low_rank: u: (rows,), m: (rank,), v: (C_in,)."""
        return _factor_scales(self.form, self.alphas)

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


class PackedLinear(_Packed):
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


class _PackedConv(_Packed):
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


class PackedConv1d(_PackedConv):
    """nn.Conv1d from bits. x: (B, C, L) or (C, L)."""


class PackedConv2d(_PackedConv):
    """nn.Conv2d from bits. x: (B, C, H, W) or (C, H, W)."""


def padding_of(layer: Any) -> tuple[int, ...] | None:
    """Of a convolution, packed or not, also where it is given by name; None where it would be uneven."""
    if not isinstance(layer.padding, str):
        return tuple(layer.padding)
    kernel = (layer.shape if isinstance(layer, _Packed) else layer.weight.shape)[2:]
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
        if isinstance(layer, _Packed):
            why = layer.why_no_kernel()
            layer.by_kernel = not why
            if why:
                left[name] = why
            else:
                layer.kept.clear()
    return left


_KINDS = {nn.Linear: PackedLinear, nn.Conv1d: PackedConv1d, nn.Conv2d: PackedConv2d}


def _expand_(module: nn.Module) -> None:
    """Puts the computed weights in the place of their parametrizations.

    torch's remove_parametrizations deletes the property from a class that copies of the module share, and so breaks the others.
    """
    values = {
        attribute: getattr(module, attribute).detach().clone()
        for attribute in module.parametrizations
    }
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

    nn.MultiheadAttention reads its projections' weights itself: they stay in it as bits, and are expanded when it reads them. Weights that were
    one parameter share one pair of buffers. Raises ValueError for a model without binarized weights, for a bare layer, and for a layer that
    another parametrization than ours changes too; then nothing was replaced.
    """
    found = {
        module: (name, chains)
        for name, module in model.named_modules()
        if (chains := _binarized(name, module))
    }
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no binarized weight inside; call binarize_ and train it first"
        )
    if model in found and _kind(model) is not None:
        raise ValueError(
            f"a bare {type(model).__name__} cannot be replaced in place; wrap it: nn.Sequential(layer)"
        )
    latents = {
        place(chain.original): chain for _, chains in found.values() for chain in chains.values()
    }
    stored = {where: _stored(chain) for where, chain in latents.items()}
    rows, made = [], {}
    for module, (name, chains) in found.items():
        parts = {attribute: stored[place(chain.original)] for attribute, chain in chains.items()}
        kind = _kind(module)
        for attribute, (form, _) in parts.items():
            how = (
                "expanded"
                if kind is None
                else _how(form, kind is PackedLinear, getattr(module, "groups", 1))
            )
            rows.append(
                _row(f"{name}.{attribute}".lstrip("."), form, how, chains[attribute].original.dtype)
            )
        if kind is not None:
            made[module] = kind(module, *parts["weight"])
            continue
        _expand_(module)
        for attribute, (form, tensors) in parts.items():
            _keep_bits(module, attribute, form, tensors)
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in made:
            model.set_submodule(name, made[module])
    _call_layers(model)
    return rows


def _binarized(name: str, module: nn.Module) -> dict[str, Any]:
    """A module's binarized weights, by attribute. Raises ValueError where another parametrization changes it too."""
    if not parametrize.is_parametrized(module):
        return {}
    ours = {
        k: chain
        for k, chain in module.parametrizations.items()
        if isinstance(chain[0], WeightBinarizer)
    }
    foreign = sorted(set(module.parametrizations) - set(ours))
    if ours and foreign:
        raise ValueError(
            f"{name}.{foreign[0]} is parametrized by something else; remove that before packing"
        )
    return ours


def _stored(chain: Any) -> tuple[Form, dict[str, Tensor]]:
    """The stored form of a binarized weight, and its tensors on the device of the weight."""
    method, latent = chain[0], chain.original
    tensors = method.stored(latent.detach())
    return method.form(latent), {
        k: torch.from_numpy(v).to(latent.device) for k, v in tensors.items()
    }


def _call_layers(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = (
                0  # its fused path would read linear1.weight; this makes it call the layers
            )


class _BitsInside:
    """Mixed into the class of a module that reads its weights itself: each is expanded from its bits where it is read.

    packed_weights: attribute -> form; the bits are buffers <attribute>_<name by BUFFERS>. An empty tensor, <attribute>_like, has the type
    that the weight is expanded to.
    """

    packed_weights: dict[str, Form]
    kept_weights: dict[str, Kept]

    def _expanded(self, attribute: str) -> Tensor:
        form = self.packed_weights[attribute]
        tensors = {name: getattr(self, f"{attribute}_{BUFFERS[name]}") for name in form.sizes}
        dtype = getattr(self, f"{attribute}_like").dtype

        def make() -> Tensor:
            return _dense(form, tensors).to(dtype)

        if torch.compiler.is_compiling():
            return make()
        found: Tensor = self.kept_weights[attribute].get(list(tensors.values()), make, dtype)
        return found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        stored = [
            f"{a}_{BUFFERS[name]}" for a, form in self.packed_weights.items() for name in form.sizes
        ]
        with _types_kept(self, stored):
            super()._apply(fn, recurse)
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        attributes = tuple(self.packed_weights)
        return _blank, (type(self).__bases__[1], attributes), self.__dict__.copy()


@cache
def _with_bits(kind: type, attributes: tuple[str, ...]) -> type:
    weights = {name: property(lambda self, name=name: self._expanded(name)) for name in attributes}
    return type(
        kind.__name__,
        (_BitsInside, kind),
        {"__module__": kind.__module__, "__doc__": kind.__doc__, **weights},
    )


def _blank(kind: type, attributes: tuple[str, ...]) -> Any:
    made = _with_bits(kind, attributes)
    return made.__new__(made)


def _keep_bits(module: nn.Module, attribute: str, form: Form, tensors: dict[str, Tensor]) -> None:
    """Puts the bits of a weight into a module in its place."""
    dtype = getattr(module, attribute).dtype
    del module._parameters[attribute]
    inside = isinstance(module, _BitsInside)
    kind = type(module).__bases__[1] if inside else type(module)
    module.packed_weights = {**(module.packed_weights if inside else {}), attribute: form}
    module.kept_weights = {**(module.kept_weights if inside else {}), attribute: Kept()}
    for name, tensor in tensors.items():
        module.register_buffer(f"{attribute}_{BUFFERS[name]}", tensor)
    module.register_buffer(
        f"{attribute}_like", tensors["tile"].new_empty(0, dtype=dtype), persistent=False
    )
    module.__class__ = _with_bits(kind, tuple(module.packed_weights))


def _kind(module: nn.Module) -> type[_Packed] | None:
    """The packed layer for module; None where its weight is used in another way (attention's projections, standardised weights)."""
    if isinstance(
        module, nn.modules.linear.NonDynamicallyQuantizableLinear
    ) or not computes_as_torch(module):
        return None
    return next((made for known, made in _KINDS.items() if isinstance(module, known)), None)


def computes_as_torch(module: nn.Module) -> bool:
    """Whether forward is that of torch's own layer (or our reuse of it), not a subclass's that standardises its weight, pads by itself, ..."""
    owner = next(
        k
        for k in type(module).__mro__
        if "forward" in vars(k) and not k.__module__.startswith("tbn_bench.")
    )
    return owner.__module__.startswith("torch.nn.")


def _row(name: str, form: Form, how: str, dtype: torch.dtype) -> PackRow:
    size = {k: bits.packed_bytes(v) for k, v in form.sizes.items()}
    coded, scaling = size["tile"] + size.get("codebook", 0), size["alphas"] + size.get("offsets", 0)
    return PackRow(
        name, form.shape, form.p, coded, scaling, how, math.prod(form.weight_shape) * dtype.itemsize
    )


def _weights(model: nn.Module) -> dict[str, Weight]:
    """Every packed weight of a model, by the name its full-precision weight has."""
    found = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, _Packed):
            found[f"{prefix}weight"] = Weight(
                module.form, {k: f"{prefix}{BUFFERS[k]}" for k in module.form.sizes}
            )
        for attribute, form in getattr(module, "packed_weights", {}).items():
            stem = f"{prefix}{attribute}"
            found[stem] = Weight(form, {k: f"{stem}_{BUFFERS[k]}" for k in form.sizes})
    return found


def _training_only(model: nn.Module) -> set[str]:
    """Names of state that inference does not need: counters of batch normalisation, schedules of activations."""
    return {
        f"{prefix}.{key}".lstrip(".")
        for prefix, module in model.named_modules(remove_duplicate=False)
        for key in module._buffers
        if key == "num_batches_tracked" or key in getattr(module, "training_only", ())
    }


def to_artifact(
    model: nn.Module, config: dict[str, Any] | None = None, commit: str | None = None
) -> Artifact:
    """The content of the packed file of a packed (or full-precision) model: its state without training counters, shared tensors once.

    config: of the run, as far as it differs from the defaults (RunConfig.non_defaults). Raises ArtifactError for a type that
    numpy lacks (bfloat16), and for scales that are not finite.
    """
    tensors: dict[str, np.ndarray] = {}
    aliases, seen, unneeded = {}, {}, _training_only(model)
    for name, value in model.state_dict().items():
        if name in unneeded:
            continue
        where = _place(value) if value.numel() else name
        if where in seen:
            aliases[name] = seen[where]
            continue
        seen[where] = name
        tensors[name] = _array(name, value)
    weights = {
        name: Weight(w.form, {k: aliases.get(n, n) for k, n in w.names.items()})
        for name, w in _weights(model).items()
    }
    content = Artifact(tensors, weights, aliases, config, commit, _inputs(model))
    try:
        content.check()
    except Damaged as error:
        raise ArtifactError(f"{type(model).__name__} cannot be a packed file: {error}") from error
    return content


def _array(name: str, value: Tensor) -> np.ndarray:
    try:
        return value.detach().cpu().contiguous().numpy()
    except TypeError as error:
        raise ArtifactError(
            f"{name} is {value.dtype}, which a packed file cannot hold; call model.float() first"
        ) from error


def _place(value: Tensor) -> tuple[Any, ...]:
    """What two tensors must have in common to be one: memory, type and layout.

    A transpose starts at the same address and may have the same shape; its strides differ. The stride of an axis of
    length 1 means nothing.
    """
    strides = [step for step, length in zip(value.stride(), value.shape, strict=True) if length > 1]
    return value.data_ptr(), value.dtype, value.shape, tuple(strides)


def _inputs(model: nn.Module) -> dict[str, str]:
    """Layer -> kind of the binarizer that its input passes: it may have no tensors, and a network without it computes something else."""
    found = {
        name: getattr(module, "input_binarizer", None) for name, module in model.named_modules()
    }
    return {
        name: type(binarizer).__name__ for name, binarizer in found.items() if binarizer is not None
    }


def save(
    model: nn.Module,
    path: str | Path,
    config: dict[str, Any] | None = None,
    commit: str | None = None,
) -> int:
    """Writes a packed model as a packed file (packed_file.py) and returns its bytes. Raises ArtifactError."""
    return packed_file.write(Path(path), to_artifact(model, config, commit))


def load_(model: nn.Module, path: str | Path | Artifact) -> nn.Module:
    """Turns a full-precision model of the same architecture, in place, into the packed network of a file; in eval mode.

    The model may be on the meta device: dense weights are then never made. Raises ArtifactError where file and model do not fit.
    """
    content = path if isinstance(path, Artifact) else packed_file.read(Path(path))
    state = {k: torch.from_numpy(np.array(v)) for k, v in content.tensors.items()}
    if (own := _inputs(model)) != content.inputs:
        theirs = packed_file.one_line(str(content.inputs or "no layer"))
        raise ArtifactError(
            f"the file's network binarizes the inputs of {theirs}, this {type(model).__name__} of {own or 'no layer'}; "
            "call convert.binarize_inputs_(model, spec, keep) first"
        )
    state |= {name: state[target] for name, target in content.aliases.items()}
    try:
        for name, weight in content.weights.items():
            _install(model, name, weight, state)
    except AttributeError as error:
        raise _foreign(model, error) from error
    _call_layers(model)
    own = model.state_dict()
    state |= {
        k: torch.zeros(own[k].shape, dtype=own[k].dtype) for k in _training_only(model) if k in own
    }
    for name, tensor in state.items():
        if name in own and tensor.is_floating_point() != own[name].is_floating_point():
            raise _foreign(
                model, f"{name} is {tensor.dtype} in the file and {own[name].dtype} in it"
            )
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise _foreign(model, error) from error
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def load(model: nn.Module, path: str | Path | Artifact) -> nn.Module:
    """As load_, but the given model stays as it is and a packed copy is returned."""
    return load_(copy.deepcopy(model), path)


def _foreign(model: nn.Module, why: object) -> ArtifactError:
    said = packed_file.one_line(str(why))
    return ArtifactError(f"the file does not belong to this {type(model).__name__}: {said}")


def _install(model: nn.Module, name: str, weight: Weight, state: dict[str, Tensor]) -> None:
    """Puts one packed weight into its module, replacing the module by its packed form where there is one."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    if (
        isinstance(module, _Packed) and attribute == "weight"
    ):  # a second name of a layer that is used twice
        return
    _check_place(model, name, module, attribute, weight.form)
    tensors = {k: state[n] for k, n in weight.names.items()}
    kind = _kind(module)
    if kind is None:
        _keep_bits(module, attribute, weight.form, tensors)
        if weight.form.weight_shape != weight.form.shape:
            mixed_copies.enlarge_(module, weight.form.copies.reach)
        return
    layer = kind(module, weight.form, tensors)
    for other, candidate in list(model.named_modules(remove_duplicate=False)):
        if candidate is module:
            model.set_submodule(other, layer)


def _check_place(
    model: nn.Module, name: str, module: nn.Module, attribute: str, form: Form
) -> None:
    """Raises ArtifactError where a binary weight of this form cannot be that parameter of a model's layer."""
    own = module._parameters.get(attribute)
    if own is None:
        raise _foreign(model, f"{name} is a weight in the file and no parameter of the model")
    if tuple(own.shape) != form.shape:
        raise _foreign(
            model, f"{name} is {form.shape} in the file and {tuple(own.shape)} in the model"
        )
    kind = _kind(module)
    if module is model and kind is not None:
        raise ArtifactError(
            f"a bare {type(model).__name__} cannot be replaced in place; wrap it: nn.Sequential(layer)"
        )
    if kind is not None and attribute != "weight":
        raise _foreign(
            model, f"{name} has bits in the file; of a {type(module).__name__} the weight alone can"
        )
    if form.kind == "shifted" and (why := _why_unmoved(module, form)):
        raise _foreign(model, f"the copies of {name} are shifted in the file; that needs {why}")


def _why_unmoved(module: nn.Module, form: Form) -> str:
    """What a layer lacks to move the copies of a tile, or ''."""
    is_convolution = isinstance(module, nn.Conv1d | nn.Conv2d)
    if not is_convolution or isinstance(module.padding, str) or module.padding_mode != "zeros":
        return "a convolution that pads with zeros by a number"
    if _kind(module) is not None and _how(form, False, module.groups) == "tile reuse":
        return ""
    most = max(
        packed_file.DENSE_BYTES, MOST_GROWTH * 4 * form.numel
    )  # the layer multiplies by the enlarged weight
    return (
        ""
        if form.dense_bytes <= most
        else f"a kernel {form.dense_bytes // (4 * form.numel)} times as large, {MOST_GROWTH} is the most"
    )
