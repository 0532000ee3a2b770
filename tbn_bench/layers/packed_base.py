"""The base of packed layers: a weight as the tensors of its stored form (format/form.py).

What forward multiplies by is derived from the bits: the tile alone where p > 1 divides the output
rows (1 / p of the products), two factors one after the other, or else the expanded weight.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tbn_bench.binarizers._base import ActivationBinarizer
from tbn_bench.derived import Kept
from tbn_bench.format import bits
from tbn_bench.format.description import BUFFERS
from tbn_bench.format.form import Form
from tbn_bench.kernels import stored_tile
from tbn_bench.layers import mixed_copies
from tbn_bench.layers.dense import dense_weight, factor_scales, factor_signs, float_scales

Factors = tuple[Tensor, Tensor | None]

How = Literal[stored_tile.How, "two factors"]
"""How a packed layer multiplies.

two factors: by one low-rank factor after the other. The others are those of stored_tile.How.
"""


def how_computed(form: Form, groups: int) -> How:
    """How a layer of this form multiplies."""
    one_group = groups == 1
    if form.kind in mixed_copies.KINDS:
        shares = form.has_shared_products and one_group
        return "tile reuse" if shares else "expanded"
    if form.code == "low_rank" and one_group:
        return "two factors"
    if not form.plain:
        return "expanded"
    return stored_tile.how(form.shape, form.p, form.scales, groups)


@contextmanager
def types_kept(module: nn.Module, stored: list[str]) -> Iterator[None]:
    """Keeps the types of stored buffers while `.half()`, `.to()` and their like move a module."""
    before = {name: module.get_buffer(name) for name in stored}
    yield
    for name, old in before.items():
        new = module.get_buffer(name)
        if new.dtype == old.dtype:
            continue
        moved = old.to(new.device)
        module._buffers[name] = moved


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
        self.groups: int = getattr(source, "groups", 1)
        self._set_form(form)
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

    def _set_form(self, form: Form) -> None:
        """The form, and how the layer multiplies by a weight of it."""
        self.form = form
        self.shape = form.shape
        self.p = form.p
        self.how = how_computed(form, self.groups)
        self.product = form.product if self.how == "tile reuse" else form
        self.summed = 1 if self.product is form else form.p

    @property
    def factor(self) -> Tensor | None:
        """The tile, first factor or weight that forward multiplied by last; None before that."""
        kept: Factors | None = self.kept.value
        if kept is None:
            return None
        first, _ = kept
        return first

    @property
    def row_scales(self) -> Tensor | None:
        """The scales per row, or the second factor, that belong to `factor`."""
        kept: Factors | None = self.kept.value
        if kept is None:
            return None
        _, second = kept
        return second

    @property
    def weight(self) -> Tensor:
        """The dense weight in form.weight_shape, for code that reads its layers' weights.

        It has the type that the weight had before packing. It is made when it is read and then
        kept, which `weight_bytes` counts. Writing to it changes nothing.
        """
        if self.how == "expanded" and not self.by_kernel:
            weight, _ = self.factors(self.like)
            return weight
        if self._keeps_nothing():
            return self._typed_weight()
        sources = self._sources()
        dtype = self.like.dtype
        found: Tensor = self.kept_weight.get(sources, self._typed_weight, dtype)
        return found

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors of the form, as numpy arrays."""
        arrays = {}
        for name, tensor in self._stored().items():
            arrays[name] = tensor.cpu().numpy()
        return arrays

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
        not_signs = form.code in ("ternary", "low_rank")
        if not_signs or form.offsets or form.kind == "shifted":
            return None
        tensors = self.tensors()
        signs = form.values(tensors)
        packed = bits.pack(signs)
        return torch.from_numpy(packed), self.scales(), 1

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
        dense = self._asked_bytes()
        if self.by_kernel:
            return dense + self._kernel_bytes()
        factors = self.factors(self.like)
        read = [tensor for tensor in factors if tensor is not None]
        sizes = map(_nbytes, read)
        return dense + sum(sizes)

    def _asked_bytes(self) -> int:
        """Bytes of the dense weight that is kept because code asked for it."""
        asked: Tensor | None = self.kept_weight.value
        return 0 if asked is None else _nbytes(asked)

    def _kernel_bytes(self) -> int:
        rows, channels, *taps = self.product.shape
        p = self.product.p
        stored_rows = rows
        if stored_tile.how(self.product.shape, p, self.form.scales) == "tile reuse":
            stored_rows = rows // p
        words_of_tap = -(-channels // 32)
        words_of_row = math.prod(taps) * words_of_tap
        words = stored_rows * words_of_row
        scales = rows
        return 4 * (words + scales)

    def factors(self, x: Tensor) -> Factors:
        """The tensors that x meets, in its type.

        They are (tile, row scales), (tile, None) for segments, both factors, or (weight, None).
        """
        dtype = x.dtype if x.is_floating_point() else self.like.dtype

        def derive() -> Factors:
            return self._derived(dtype)

        if self._keeps_nothing():
            return derive()
        sources = self._sources()
        found: Factors = self.kept.get(sources, derive, dtype)
        return found

    def forward(self, input: Tensor) -> Tensor:  # torch's name: callers may give it by keyword
        binarizer = self.input_binarizer
        if binarizer is None:
            return self.multiply(input)
        binary = binarizer(input)
        y = self.multiply(binary)
        return binarizer.scale_output(self, input, y)

    def multiply(self, x: Tensor) -> Tensor:
        """The layer's output for an input that is binarized already."""
        raise NotImplementedError  # abstract

    def typed_bias(self, y: Tensor) -> Tensor | None:
        """The bias in the type of y."""
        if self.bias is None:
            return None
        return self.bias.to(y.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Packed":
        stored = [BUFFERS[name] for name in self.form.sizes]
        layer: Any = super()
        with types_kept(self, stored):
            layer._apply(fn, recurse)
        return self

    def _stored(self) -> dict[str, Tensor]:
        tensors = {}
        for name in self.form.sizes:
            buffer = BUFFERS[name]
            tensors[name] = getattr(self, buffer)
        return tensors

    def _sources(self) -> list[Tensor]:
        return list(self._stored().values())

    def _keeps_nothing(self) -> bool:
        """A graph that is compiled or exported holds the bits and nothing derived."""
        return self.in_graph or torch.compiler.is_compiling()

    def _typed_weight(self) -> Tensor:
        return self.expanded().to(self.like.dtype)

    def _derived(self, dtype: torch.dtype) -> Factors:
        if self.how == "two factors":
            first, second = self._two_factors()
            return first.to(dtype), second.to(dtype)
        if self.how == "expanded":
            weight = self.expanded()
            return weight.to(dtype), None
        q = self.numel // self.p
        tile = stored_tile.unpack(self.tile_bits, q, dtype)
        if self.how == "segments":
            return tile, None
        return self._tile_and_scales(tile)

    def _tile_and_scales(self, tile: Tensor) -> Factors:
        """tile: (q,) -> (the tile in the shape of a weight, its scales in the tile's type)."""
        scales = self.scales()
        typed = scales.to(tile.dtype)
        layout = self.form.copies
        if layout is not None:
            return tile.reshape(layout.tile_shape), typed
        rows, *others = self.shape
        per_row = stored_tile.row_scales(typed, rows)
        by_copy = per_row.reshape(self.p, -1, *self._ones_per_tap())
        return tile.reshape(-1, *others), by_copy

    def _two_factors(self) -> tuple[Tensor, Tensor]:
        """(rank, *shape[1:]) with the scales m and v, then (rows, rank) with u."""
        left, right = self.factor_signs()
        u, m, v = self.factor_scales()
        ones = self._ones_per_tap()
        by_rank = m.reshape(-1, 1, *ones)
        by_channel = v.reshape(1, -1, *ones)
        first = right * by_rank * by_channel
        second = left * u.unsqueeze(1)
        return first, second.reshape(*left.shape, *ones)

    def _ones_per_tap(self) -> list[int]:
        """A 1 for each axis of the kernel, to reshape scales by."""
        spatial = len(self.shape) - 2
        return [1] * spatial


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
