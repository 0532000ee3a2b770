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
        names = _buffers(attribute, form)
        tensors = {part: getattr(self, buffer) for part, buffer in names.items()}
        dtype = getattr(self, f"{attribute}_like").dtype

        def make() -> Tensor:
            return dense_weight(form, tensors).to(dtype)

        if torch.compiler.is_compiling():
            return make()
        found: Tensor = self.kept_weights[attribute].get(list(tensors.values()), make, dtype)
        return found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        stored: list[str] = []
        for attribute, form in self.packed_weights.items():
            stored += _buffers(attribute, form).values()
        with types_kept(self, stored):
            base: Any = super()
            base._apply(fn, recurse)
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        attributes = tuple(self.packed_weights)
        return _blank, (_plain_kind(self), attributes), self.__dict__.copy()


def keep_bits_(module: nn.Module, attribute: str, form: Form, tensors: dict[str, Tensor]) -> None:
    """Puts the bits of a weight into a module, in the place of the weight.

    tensors: of the form, by its names.
    """
    dtype = getattr(module, attribute).dtype
    del module._parameters[attribute]
    kind = _plain_kind(module)
    target: Any = module
    forms = dict(target.packed_weights) if isinstance(module, BitsInside) else {}
    kept = dict(target.kept_weights) if isinstance(module, BitsInside) else {}
    target.packed_weights = forms | {attribute: form}
    target.kept_weights = kept | {attribute: Kept()}
    buffers = _buffers(attribute, form)
    for part, tensor in tensors.items():
        module.register_buffer(buffers[part], tensor)
    like = tensors["tile"].new_empty(0, dtype=dtype)
    module.register_buffer(f"{attribute}_like", like, persistent=False)
    module.__class__ = _with_bits(kind, tuple(target.packed_weights))


def _buffers(attribute: str, form: Form) -> dict[str, str]:
    """Name of a tensor of the form -> name of its buffer."""
    return {part: f"{attribute}_{BUFFERS[part]}" for part in form.sizes}


def _plain_kind(module: nn.Module) -> type:
    """The class of a module before bits were put into it."""
    kind = type(module)
    return kind.__bases__[1] if isinstance(module, BitsInside) else kind


@cache
def _with_bits(kind: type, attributes: tuple[str, ...]) -> type:
    """A subclass of `kind` in which these attributes are expanded from bits."""
    members: dict[str, Any] = {"__module__": kind.__module__, "__doc__": kind.__doc__}
    for name in attributes:
        members[name] = _expanded_property(name)
    return type(kind.__name__, (BitsInside, kind), members)


def _expanded_property(attribute: str) -> property:
    def read(module: BitsInside) -> Tensor:
        return module.expanded(attribute)

    return property(read)


def _blank(kind: type, attributes: tuple[str, ...]) -> Any:
    made: Any = _with_bits(kind, attributes)
    return made.__new__(made)
