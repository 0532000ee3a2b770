"""pack_: trainable -> deployable. Every binarized weight becomes bits. Returns a plan: one line per weight."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tbn_bench.binarizers._base import WeightBinarizer
from tbn_bench.derived import place
from tbn_bench.format import bits
from tbn_bench.format.form import Form
from tbn_bench.layers.bits_inside import keep_bits_
from tbn_bench.layers.packed import Packed, PackedConv1d, PackedConv2d, PackedLinear, how_computed


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
    if model in found and packed_kind(model) is not None:
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
        kind = packed_kind(module)
        for attribute, (form, _) in parts.items():
            how = (
                "expanded"
                if kind is None
                else how_computed(form, kind is PackedLinear, getattr(module, "groups", 1))
            )
            rows.append(
                _row(f"{name}.{attribute}".lstrip("."), form, how, chains[attribute].original.dtype)
            )
        if kind is not None:
            made[module] = kind(module, *parts["weight"])
            continue
        _expand_(module)
        for attribute, (form, tensors) in parts.items():
            keep_bits_(module, attribute, form, tensors)
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in made:
            model.set_submodule(name, made[module])
    call_layers_(model)
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


def call_layers_(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = (
                0  # its fused path would read linear1.weight; this makes it call the layers
            )


def packed_kind(module: nn.Module) -> type[Packed] | None:
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
