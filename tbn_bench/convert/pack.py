"""pack_: trainable -> deployable. Each binarized weight becomes bits. Returns a row per weight.

The way of a tile into bytes:

    _stored_weight   (here)                  asks the weight's method for its stored form
    stored           (binarizers/_base.py)   takes the method's `signs`, the tile, and `scales`
    Form.encode      (format/form.py)        chooses the bytes by the form's code
    bits.pack        (format/bits.py)        puts eight signs into a byte

The packed layer (layers/packed.py) keeps the bytes as its buffer `tile_bits`.
"""

import copy
import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tbn_bench.binarizers._base import WeightBinarizer
from tbn_bench.convert.fuse import unfuse_
from tbn_bench.derived import place
from tbn_bench.format import bits
from tbn_bench.format.form import Form
from tbn_bench.layers.bits_inside import keep_bits_
from tbn_bench.layers.packed import (
    How,
    Packed,
    PackedConv1d,
    PackedConv2d,
    PackedLinear,
    how_computed,
)


@dataclass(frozen=True)
class PackRow:
    """One packed weight.

    how: the layer multiplies. tile_bytes: of the values, with a codebook. alpha_bytes: of the
    scales, with offsets. dense_bytes: memory of the dense weight once it is read. Every forward
    reads it where how is "expanded"; elsewhere only code that asks the layer for its `.weight`
    does.
    """

    name: str
    shape: tuple[int, ...]
    p: int
    tile_bytes: int
    alpha_bytes: int
    how: How
    dense_bytes: int = 0


@dataclass(frozen=True)
class _BinarizedModule:
    """A module with binarized weights. chains: attribute -> its parametrizations."""

    name: str
    module: nn.Module
    chains: dict[str, Any]

    def weight_name(self, attribute: str) -> str:
        return f"{self.name}.{attribute}".lstrip(".")


@dataclass(frozen=True)
class _StoredWeight:
    """The stored form of a binarized weight, and its tensors on the device of the weight."""

    form: Form
    tensors: dict[str, Tensor]


def pack_(model: nn.Module) -> list[PackRow]:
    """Replaces each binarized Linear, Conv1d and Conv2d of a trained model by its packed layer.

    nn.MultiheadAttention reads its projections' weights itself: they stay in it as bits, and are
    expanded when it reads them. Weights that were one parameter share their buffers.

    Raises ValueError for a model without binarized weights, for a bare layer, and for a layer that
    a foreign parametrization changes too; then nothing was replaced.
    """
    found = list(_binarized_modules(model))
    _check(model, found)
    stored = _stored_weights(found)
    rows = []
    packed = {}
    for entry in found:
        weights = {name: stored[place(chain.original)] for name, chain in entry.chains.items()}
        rows += [_row(entry, attribute, weight) for attribute, weight in weights.items()]
        module = entry.module
        kind = packed_kind(module)
        if kind is None:
            _keep_bits_inside_(module, weights)
        else:
            weight = weights["weight"]
            packed[module] = kind(module, weight.form, weight.tensors)
    modules = list(model.named_modules(remove_duplicate=False))
    for name, module in modules:
        if module in packed:
            model.set_submodule(name, packed[module])
    call_layers_(model)
    unfuse_(model)
    return rows


def _keep_bits_inside_(module: nn.Module, weights: dict[str, _StoredWeight]) -> None:
    """For a module that reads its weights itself."""
    _expand_(module)
    for attribute, weight in weights.items():
        keep_bits_(module, attribute, weight.form, weight.tensors)


def dense(model: nn.Module) -> nn.Module:
    """A copy of a binarized model in which the weights that it computes are plain parameters."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if parametrize.is_parametrized(module):
            _expand_(module)
    return model


def call_layers_(model: nn.Module) -> None:
    """Turns off torch's fused path of TransformerEncoderLayer, which reads linear1.weight."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0


_KINDS: dict[type[nn.Module], type[Packed]] = {
    nn.Linear: PackedLinear,
    nn.Conv1d: PackedConv1d,
    nn.Conv2d: PackedConv2d,
}


def packed_kind(module: nn.Module) -> type[Packed] | None:
    """The class of the packed layer that can replace a module.

    None where the module does more with its weight than torch's own layer: attention's projections,
    standardised weights.
    """
    is_projection = isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear)
    if is_projection or not computes_as_torch(module):
        return None
    for known, packed in _KINDS.items():
        if isinstance(module, known):
            return packed
    return None


def computes_as_torch(module: nn.Module) -> bool:
    """Whether forward is that of torch's own layer, or our reuse of it.

    A subclass may standardise its weight, pad by itself, ...
    """
    owner = ""
    for kind in reversed(type(module).__mro__):
        home = kind.__module__
        is_ours = home.startswith("tbn_bench.")
        if "forward" in vars(kind) and not is_ours:
            owner = home
    return owner.startswith("torch.nn.")


def _expand_(module: nn.Module) -> None:
    """Puts the computed weights in the place of their parametrizations.

    torch's remove_parametrizations would break copies of the module: it deletes the property from
    the class that they share.
    """
    chains = module.get_submodule("parametrizations")
    values = {}
    for attribute, _ in chains.named_children():
        computed = getattr(module, attribute)
        values[attribute] = computed.detach().clone()
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]
    for attribute, value in values.items():
        setattr(module, attribute, nn.Parameter(value, requires_grad=False))


def _binarized_modules(model: nn.Module) -> Iterator[_BinarizedModule]:
    """Raises ValueError where a foreign parametrization changes a module too."""
    for name, module in model.named_modules():
        if not parametrize.is_parametrized(module):
            continue
        ours = {}
        foreign = []
        chains = module.get_submodule("parametrizations")
        for attribute, chain in chains.named_children():
            if isinstance(chain.get_submodule("0"), WeightBinarizer):
                ours[attribute] = chain
            else:
                foreign.append(attribute)
        if ours and foreign:
            raise ValueError(
                f"{name}.{min(foreign)} is parametrized by something else; "
                "remove that before packing"
            )
        if ours:
            yield _BinarizedModule(name, module, ours)


def _check(model: nn.Module, found: list[_BinarizedModule]) -> None:
    kind = type(model).__name__
    if not found:
        raise ValueError(
            f"{kind} has no binarized weight inside; call binarize_ and train it first"
        )
    is_itself_binarized = any(entry.module is model for entry in found)
    if is_itself_binarized and packed_kind(model) is not None:
        raise ValueError(
            f"a bare {kind} cannot be replaced in place; wrap it: nn.Sequential(layer)"
        )


def _stored_weights(found: list[_BinarizedModule]) -> dict[Hashable, _StoredWeight]:
    """The stored weights, each once, by the place of its latent weight."""
    chains = {}
    for entry in found:
        for chain in entry.chains.values():
            where = place(chain.original)
            chains[where] = chain
    stored = {}
    for where, chain in chains.items():
        stored[where] = _stored_weight(chain)
    return stored


def _stored_weight(chain: Any) -> _StoredWeight:
    """Packs one weight. chain: its method and its latent weight."""
    method: WeightBinarizer = chain[0]
    latent: Tensor = chain.original
    arrays = method.stored(latent.detach())
    tensors = {}
    for name, array in arrays.items():
        tensor = torch.from_numpy(array)
        tensors[name] = tensor.to(latent.device)
    form = method.form(latent)
    return _StoredWeight(form, tensors)


def _row(entry: _BinarizedModule, attribute: str, weight: _StoredWeight) -> PackRow:
    form = weight.form
    sizes = {name: bits.packed_bytes(count) for name, count in form.sizes.items()}
    kind = packed_kind(entry.module)
    how: How = "expanded"
    if kind is not None:
        groups = getattr(entry.module, "groups", 1)
        how = how_computed(form, groups)
    value_bytes = entry.chains[attribute].original.dtype.itemsize
    return PackRow(
        name=entry.weight_name(attribute),
        shape=form.shape,
        p=form.p,
        tile_bytes=sizes["tile"] + sizes.get("codebook", 0),
        alpha_bytes=sizes["alphas"] + sizes.get("offsets", 0),
        how=how,
        dense_bytes=math.prod(form.weight_shape) * value_bytes,
    )
