"""The base of packed layers: a weight as the tensors of its stored form (format/form.py).

What forward multiplies by is derived from the bits: the tile alone where p > 1 divides the output
rows (1 / p of the products), two factors one after the other, or else the expanded weight.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tbn_bench.binarizers._base import ActivationBinarizer
from tbn_bench.derived import Kept
from tbn_bench.format import bits
from tbn_bench.format.description import BUFFERS
from tbn_bench.format.form import Form
from tbn_bench.kernels import _tile
from tbn_bench.layers import mixed_copies
from tbn_bench.layers.dense import dense_weight, factor_scales, factor_signs, float_scales

Factors = tuple[Tensor, Tensor | None]


def how_computed(form: Form, linear: bool, groups: int) -> str:
    """How a layer of this form multiplies: "tile reuse", "segments", "two factors", "expanded"."""
    if form.kind in mixed_copies.KINDS:
        return "tile reuse" if form.has_shared_products and groups == 1 else "expanded"
    if form.code == "low_rank" and groups == 1:
        return "two factors"
    if form.plain and _tile.aligned(form.shape[0], form.p, form.scales, groups):
        return "tile reuse"
    if form.plain and linear and _tile.segment(form.shape, form.p, form.scales):
        return "segments"
    return "expanded"


@contextmanager
def types_kept(module: nn.Module, stored: list[str]) -> Iterator[None]:
    """Keeps the types of stored buffers while `.half()`, `.to()` and their like move a module."""
    before = {name: module.get_buffer(name) for name in stored}
    yield
    for name, old in before.items():
        new = module.get_buffer(name)
        if new.dtype != old.dtype:
            module._buffers[name] = old.to(new.device)


class Packed(nn.Module):
    """A layer whose weight is bits. Its buffers are the tensors of `form`, named by BUFFERS.

    tile_bits is uint8, alphas float32 (or int8 exponents); some forms have offsets or a codebook.

    Everything that forward multiplies by is derived from them at its first call, and again when
    they change. A native program reads the bits and derives nothing. forward computes in the type
    of its input. `.half()` and its like leave the stored buffers as they are, and change the type
    of an empty tensor, `like`.

    product: the form of the weight that the input meets. Where it differs from `form`, sums of
    `summed` neighbouring channels take the place of the input first (1: no sums).
    input_binarizer: is applied to the input first, or None.
    """

    tile_bits: Tensor
    alphas: Tensor
    like: Tensor
    input_binarizer: ActivationBinarizer | None

    def __init__(self, layer: nn.Module, form: Form, tensors: dict[str, Tensor]):
        super().__init__()
        source: Any = layer
        self.form = form
        self.shape = form.shape
        self.p = form.p
        self.groups: int = getattr(source, "groups", 1)
        self.how = how_computed(form, len(form.shape) == 2, self.groups)
        self.reuses = self.how == "tile reuse"
        self.two_steps = self.how == "two factors"
        self.product = form.product if self.reuses else form
        self.summed = 1 if self.product is form else form.p
        self.segment = 0
        if self.how == "segments":
            self.segment = _tile.segment(self.shape, form.p, form.scales)
        for name, tensor in tensors.items():
            self.register_buffer(BUFFERS[name], tensor)
        like = self.tile_bits.new_empty(0, dtype=source.weight.dtype)
        self.register_buffer("like", like, persistent=False)
        self.bias: Tensor | None = None
        if source.bias is not None:  # the same object: other layers may share it
            self.bias = source.bias.requires_grad_(False)
        self.input_binarizer = getattr(source, "input_binarizer", None)
        self.training = layer.training
        self.in_graph = False
        self.by_kernel = False
        self.kept = Kept()
        self.kept_weight = Kept()

    @property
    def factor(self) -> Tensor | None:
        """The tile, first factor or weight that forward multiplied by last; None before that."""
        kept: Factors | None = self.kept.value
        return None if kept is None else kept[0]

    @property
    def row_scales(self) -> Tensor | None:
        """The scales per row, or the second factor, that belong to `factor`."""
        kept: Factors | None = self.kept.value
        return None if kept is None else kept[1]

    @property
    def weight(self) -> Tensor:
        """The dense weight in form.weight_shape, for code that reads its layers' weights.

        It has the type that the weight had before packing. It is made when it is read and then
        kept, which `weight_bytes` counts. Writing to it changes nothing.
        """
        if self.how == "expanded" and not self.by_kernel:
            return self.factors(self.like)[0]
        if self._keeps_nothing():
            return self._typed_weight()
        dtype = self.like.dtype
        found: Tensor = self.kept_weight.get(self._sources(), self._typed_weight, dtype)
        return found

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors of the form, as numpy arrays."""
        return {name: tensor.cpu().numpy() for name, tensor in self._stored().items()}

    def scales(self) -> Tensor:
        """(k,) floating point."""
        return float_scales(self.form, self.alphas)

    def sign_form(self) -> tuple[Tensor, Tensor, int] | None:
        """(tile_bits, scales, p) of an equal weight of signs in aligned copies, for native kernels.

        Its shape is that of `product`. None where there is none.
        """
        if self.product.plain:
            return self.tile_bits, self.alphas, self.product.p
        form = self.form
        if form.code in ("ternary", "low_rank") or form.offsets or form.kind == "shifted":
            return None
        values = form.values(self.tensors())
        return torch.from_numpy(bits.pack(np.asarray(values))), self.scales(), 1

    def expanded(self) -> Tensor:
        """The dense float32 weight, in form.weight_shape."""
        return dense_weight(self.form, self._stored())

    def factor_signs(self) -> tuple[Tensor, Tensor]:
        """Of code low_rank: U: (rows, rank) and V: (rank, *shape[1:]), +-1."""
        return factor_signs(self.form, self.tile_bits)

    def factor_scales(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of code low_rank: u: (rows,), m: (rank,), v: (C_in,)."""
        return factor_scales(self.form, self.alphas)

    def materialize_(self) -> None:
        """Derives what forward multiplies by, on the device of the bits.

        Does nothing where that is done and the bits have not changed, or where kernels read bits.
        """
        if not self.by_kernel:
            self.factors(self.like)

    def unpack_in_forward_(self) -> None:
        """From now on forward derives what it needs in each call and keeps nothing."""
        self.in_graph = True
        self.kept.clear()

    def why_no_kernel(self) -> str:
        """Why implement_ leaves this layer to torch; "" where the kernels take it."""
        if not self.product.plain:
            return "its weight is not p copies of one tile of signs"
        if self.form.scales and self.shape[0] % self.form.scales:
            return "a scale changes inside a row"
        return ""

    def weight_bytes(self) -> int:
        """Bytes of weights that one forward reads, with the dense weight where code asked for it.

        A forward reads the float tile with its row scales, two factors or the expanded weight. By
        Triton it reads words of 32 signs of one channel run per tap, of all rows where the copies
        are not whole rows, with a scale per row.
        """
        asked: Tensor | None = self.kept_weight.value
        dense = 0 if asked is None else _nbytes(asked)
        if self.by_kernel:
            return dense + self._kernel_bytes()
        read = [tensor for tensor in self.factors(self.like) if tensor is not None]
        return dense + sum(map(_nbytes, read))

    def _kernel_bytes(self) -> int:
        rows, channels, *taps = self.product.shape
        p = self.product.p
        stored_rows = rows // p if _tile.aligned(rows, p, self.form.scales) else rows
        words = -(-channels // 32)
        return 4 * stored_rows * math.prod(taps) * words + 4 * rows

    def factors(self, x: Tensor) -> Factors:
        """The tensors that x meets, in its type.

        They are (tile, row scales), (tile, None) for segments, both factors, or (weight, None).
        """
        dtype = x.dtype if x.is_floating_point() else self.like.dtype
        if self._keeps_nothing():
            return self._derived(dtype)
        found: Factors = self.kept.get(self._sources(), lambda: self._derived(dtype), dtype)
        return found

    def forward(self, input: Tensor) -> Tensor:  # torch's name: callers may give it by keyword
        if self.input_binarizer is None:
            return self.multiply(input)
        y = self.multiply(self.input_binarizer(input))
        return self.input_binarizer.scale_output(self, input, y)

    def multiply(self, x: Tensor) -> Tensor:
        """The layer's output for an input that is binarized already."""
        raise NotImplementedError  # abstract

    def typed_bias(self, y: Tensor) -> Tensor | None:
        """The bias in the type of y."""
        return None if self.bias is None else self.bias.to(y.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Packed":
        with types_kept(self, [BUFFERS[name] for name in self.form.sizes]):
            base: Any = super()
            base._apply(fn, recurse)
        return self

    def _stored(self) -> dict[str, Tensor]:
        return {name: getattr(self, BUFFERS[name]) for name in self.form.sizes}

    def _sources(self) -> list[Tensor]:
        return list(self._stored().values())

    def _keeps_nothing(self) -> bool:
        """A graph that is compiled or exported holds the bits and nothing derived."""
        return self.in_graph or torch.compiler.is_compiling()

    def _typed_weight(self) -> Tensor:
        return self.expanded().to(self.like.dtype)

    def _derived(self, dtype: torch.dtype) -> Factors:
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
        per_row = _tile.row_scales(scales, self.shape[0])
        taps = [1] * (len(self.shape) - 2)
        return tile.reshape(-1, *self.shape[1:]), per_row.reshape(self.p, -1, *taps)

    def _two_factors(self) -> tuple[Tensor, Tensor]:
        """(rank, *shape[1:]) with the scales m and v, then (rows, rank) with u."""
        left, right = self.factor_signs()
        u, m, v = self.factor_scales()
        taps = [1] * (len(self.shape) - 2)
        first = right * m.reshape(-1, 1, *taps) * v.reshape(1, -1, *taps)
        second = left * u[:, None]
        return first, second.reshape(*left.shape, *taps)


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
