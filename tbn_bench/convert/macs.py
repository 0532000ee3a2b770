"""Multiply-adds of a network for one sample, counted by one forward pass.

Hooks count those of weights; a dispatch mode counts products of activations with each other.
"""

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.hooks import RemovableHandle

from tbn_bench.format.layouts import Copies

# A product of activations has a batch of samples on both sides; one with a weight has not.
_BATCHED = ("aten.bmm", "aten.baddbmm")


class MacCounter:
    """Counts of one forward pass, by the qualified name of the weight.

    macs: multiply-adds. position_factors: of layers with shifted copies, by which the positions of
    their tile exceed their outputs. inputs: values that a Linear or a convolution reads.
    activation_macs: multiply-adds of activations with each other, of the whole network.
    """

    def __init__(self) -> None:
        self.macs: Counter[str] = Counter()
        self.position_factors: dict[str, float] = {}
        self.inputs: Counter[str] = Counter()
        self.activation_macs = 0

    def watch(self, name: str, module: nn.Module) -> RemovableHandle:
        """From now on every call of the module counts, until the handle is removed."""
        prefix = f"{name}." if name else ""

        def count(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
        ) -> None:
            signature = inspect.signature(module.forward)
            given = signature.bind(*args, **kwargs)
            inputs = list(given.arguments.values())
            if isinstance(module, nn.MultiheadAttention):
                self._count_attention(prefix, module, inputs)
            else:
                self._count_layer(f"{prefix}weight", module, inputs[0], out)

        return module.register_forward_hook(count, with_kwargs=True)

    def _count_attention(
        self, prefix: str, module: nn.MultiheadAttention, inputs: Sequence[Tensor]
    ) -> None:
        query, key, value = inputs[:3]
        width = module.embed_dim
        projected = {
            "q": width * query.numel(),
            "k": width * key.numel(),
            "v": width * value.numel(),
        }
        if module._qkv_same_embed_dim:
            self.macs[f"{prefix}in_proj_weight"] += sum(projected.values())
        else:
            for letter, macs in projected.items():
                self.macs[f"{prefix}{letter}_proj_weight"] += macs
        self.macs[f"{prefix}out_proj.weight"] += width * query.numel()

    def _count_layer(self, weight: str, module: Any, x: Tensor, out: Tensor) -> None:
        self.inputs[weight] += x.numel()
        if isinstance(module, nn.Linear):
            self.macs[weight] += out.numel() * module.in_features
            return
        copies = _copies(module)
        shape = module.weight.shape if copies is None else copies.shape
        _, *others = shape
        columns = prod(others)
        self.macs[weight] += out.numel() * columns
        if copies is not None and copies.kind == "shifted":
            factor = _position_factor(module, x, out, copies.reach)
            self.position_factors[weight] = factor


class _ActivationProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the batched products of a forward pass, those of attention included.

    Products inside of a layer with a weight, or of a parametrization, belong to the weight: they do
    not count.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self._depth = 0  # of modules with weights, in which the pass is now

    def leave_out(self, module: nn.Module) -> list[RemovableHandle]:
        """What the module computes does not count, until the handles are removed."""

        def enter(*_: Any) -> None:
            self._depth += 1

        def leave(*_: Any) -> None:
            self._depth -= 1

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def __torch_dispatch__(
        self,
        operator: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        out = operator(*args, **given)
        packet = operator._overloadpacket
        if not self._depth and _is_product(packet):
            flop = flop_registry[packet](*args, **given, out_val=out)
            self.macs += flop // 2
        return out


def _is_product(packet: Any) -> bool:
    """Whether torch's flop counter knows the operator as a batched product or as attention."""
    name = str(packet)
    return packet in flop_registry and (name in _BATCHED or "attention" in name)


def count_macs(model: nn.Module, in_shape: Sequence[int]) -> MacCounter:
    """The counts for one input of in_shape: (C, H, W). Afterwards the model is what it was."""
    first = next(model.parameters())
    x = torch.zeros(1, *in_shape, device=first.device, dtype=first.dtype)
    counter = MacCounter()
    attentions = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    # an attention multiplies by this layer's weight itself, and never calls the layer
    uncalled = {id(attention.out_proj) for attention in attentions}
    layers = nn.Linear | nn.Conv1d | nn.Conv2d
    products = _ActivationProducts()
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, layers | nn.MultiheadAttention) and id(module) not in uncalled:
            handles.append(counter.watch(name, module))
        if isinstance(module, layers | parametrize.ParametrizationList):
            handles += products.leave_out(module)
    try:
        with _evaluated(model), _without_fused_attention(), torch.no_grad(), products:
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    counter.activation_macs = products.macs
    return counter


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards every module is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """torch's fused attention calls no layers, so hooks would count nothing."""
    mha: Any = torch.backends.mha
    fast = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(fast)


def _copies(module: nn.Module) -> Copies | None:
    """How the copies of a layer's tile are laid out; None for a layer that is not binarized."""
    if not parametrize.is_parametrized(module, "weight"):
        return None
    method: Any = module.get_submodule("parametrizations.weight.0")
    copies: Copies | None = method.copies
    return copies


def _position_factor(module: Any, x: Tensor, out: Tensor, reach: int) -> float:
    """Positions at which a shifted layer computes its tile, over its output positions.

    The tile is computed with stride 1 and with a margin for the shifts.
    """
    positions = 1
    axes = zip(x.shape[2:], module.padding, module.dilation, module.kernel_size, strict=True)
    for size, padding, dilation, kernel in axes:
        own_kernel = kernel - 2 * reach
        padded = size + 2 * padding
        span = dilation * (own_kernel - 1)
        positions *= padded - span
    outputs = prod(out.shape[2:])
    return positions / outputs
