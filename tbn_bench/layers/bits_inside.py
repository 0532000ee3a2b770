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
from tbn_bench.layers.packed import types_kept


class BitsInside:
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
            return dense_weight(form, tensors).to(dtype)

        if torch.compiler.is_compiling():
            return make()
        found: Tensor = self.kept_weights[attribute].get(list(tensors.values()), make, dtype)
        return found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        stored = [
            f"{a}_{BUFFERS[name]}" for a, form in self.packed_weights.items() for name in form.sizes
        ]
        with types_kept(self, stored):
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
        (BitsInside, kind),
        {"__module__": kind.__module__, "__doc__": kind.__doc__, **weights},
    )


def _blank(kind: type, attributes: tuple[str, ...]) -> Any:
    made = _with_bits(kind, attributes)
    return made.__new__(made)


def keep_bits_(module: nn.Module, attribute: str, form: Form, tensors: dict[str, Tensor]) -> None:
    """Puts the bits of a weight into a module in its place."""
    dtype = getattr(module, attribute).dtype
    del module._parameters[attribute]
    inside = isinstance(module, BitsInside)
    kind = type(module).__bases__[1] if inside else type(module)
    module.packed_weights = {**(module.packed_weights if inside else {}), attribute: form}
    module.kept_weights = {**(module.kept_weights if inside else {}), attribute: Kept()}
    for name, tensor in tensors.items():
        module.register_buffer(f"{attribute}_{BUFFERS[name]}", tensor)
    module.register_buffer(
        f"{attribute}_like", tensors["tile"].new_empty(0, dtype=dtype), persistent=False
    )
    module.__class__ = _with_bits(kind, tuple(module.packed_weights))
