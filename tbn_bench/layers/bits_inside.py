"""Weights as bits inside a module that reads them itself, as nn.MultiheadAttention does."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench.derived import Kept
from tbn_bench.format.description import BUFFERS
from tbn_bench.format.form import Form
from tbn_bench.layers.dense import dense_weight
from tbn_bench.layers.packed_base import types_kept


class BitsInside(nn.Module):
    """Mixed into the class of a module: each weight is expanded from its bits when it is read.

    packed_weights: attribute -> form. The bits are buffers <attribute>_<name by BUFFERS>. An empty
    tensor, <attribute>_like, has the type of the expanded weight.
    """

    packed_weights: dict[str, Form]
    kept_weights: dict[str, Kept]

    def expanded(self, attribute: str) -> Tensor:
        form = self.packed_weights[attribute]
        tensors = {}
        for part, buffer in _buffers(attribute, form).items():
            tensors[part] = getattr(self, buffer)
        like = getattr(self, f"{attribute}_like")
        dtype = like.dtype

        def make() -> Tensor:
            weight = dense_weight(form, tensors)
            return weight.to(dtype)

        if torch.compiler.is_compiling():
            return make()
        kept = self.kept_weights[attribute]
        sources = list(tensors.values())
        found: Tensor = kept.get(sources, make, dtype)
        return found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        stored: list[str] = []
        for attribute, form in self.packed_weights.items():
            names = _buffers(attribute, form)
            stored += names.values()
        layer: Any = super()
        with types_kept(self, stored):
            layer._apply(fn, recurse)
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        kind = _plain_kind(self)
        attributes = tuple(self.packed_weights)
        arguments = (kind, attributes)
        state = self.__dict__.copy()
        return _blank, arguments, state


def keep_bits_(module: nn.Module, attribute: str, form: Form, tensors: dict[str, Tensor]) -> None:
    """Puts the bits of a weight into a module, in the place of the weight.

    tensors: of the form, by its names.
    """
    weight = getattr(module, attribute)
    del module._parameters[attribute]
    _register_buffers(module, attribute, form, tensors, weight.dtype)
    forms: dict[str, Form] = {}
    kept: dict[str, Kept] = {}
    if isinstance(module, BitsInside):
        forms = module.packed_weights
        kept = module.kept_weights
    kind = _plain_kind(module)
    target: Any = module
    target.packed_weights = forms | {attribute: form}
    target.kept_weights = kept | {attribute: Kept()}
    attributes = tuple(target.packed_weights)
    module.__class__ = _with_bits(kind, attributes)


def _register_buffers(
    module: nn.Module,
    attribute: str,
    form: Form,
    tensors: dict[str, Tensor],
    dtype: torch.dtype,
) -> None:
    """The bits of a weight, and the empty tensor that has the type of the expanded weight."""
    buffers = _buffers(attribute, form)
    for part, tensor in tensors.items():
        name = buffers[part]
        module.register_buffer(name, tensor)
    tile = tensors["tile"]
    like = tile.new_empty(0, dtype=dtype)
    module.register_buffer(f"{attribute}_like", like, persistent=False)


def _buffers(attribute: str, form: Form) -> dict[str, str]:
    """Name of a tensor of the form -> name of its buffer."""
    names = {}
    for part in form.sizes:
        names[part] = f"{attribute}_{BUFFERS[part]}"
    return names


def _plain_kind(module: nn.Module) -> type:
    """The class of a module before bits were put into it."""
    kind = type(module)
    if not isinstance(module, BitsInside):
        return kind
    _, plain = kind.__bases__
    return plain


@cache
def _with_bits(kind: type, attributes: tuple[str, ...]) -> type:
    """A subclass of `kind` in which these attributes are expanded from bits."""
    members: dict[str, Any] = {
        "__module__": kind.__module__,
        "__doc__": kind.__doc__,
    }
    for name in attributes:
        members[name] = _expanded_property(name)
    bases = (BitsInside, kind)
    return type(kind.__name__, bases, members)


def _expanded_property(attribute: str) -> property:
    def read(module: BitsInside) -> Tensor:
        return module.expanded(attribute)

    return property(read)


def _blank(kind: type, attributes: tuple[str, ...]) -> Any:
    made: Any = _with_bits(kind, attributes)
    return made.__new__(made)
