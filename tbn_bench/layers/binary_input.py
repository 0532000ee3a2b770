"""Layers whose input is binarized before they multiply: Linear, Conv1d or Conv2d (W1A1, ...)."""

import copy
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench.binarizers._base import ActivationBinarizer


class BinaryInput(nn.Module):
    """Mixed into a layer's class: the layer multiplies by input_binarizer(input).

    Then the binarizer scales the result.
    """

    input_binarizer: ActivationBinarizer

    def forward(self, input: Tensor) -> Tensor:  # torch's name: callers may give it by keyword
        layer: Any = super()
        binarizer = self.input_binarizer
        binary = binarizer(input)
        y = layer.forward(binary)
        return binarizer.scale_output(self, input, y)


@cache
def _with_binary_input(kind: Any) -> type:
    name = f"BinaryInput{kind.__name__}"
    bases = (BinaryInput, kind)
    members = {
        "__module__": __name__,
        "__doc__": kind.__doc__,
    }
    return type(name, bases, members)


def binarize_input_(module: nn.Module, binarizer: ActivationBinarizer) -> None:
    """Gives a layer an input binarizer: swaps its class, in place.

    To be called before the weight is parametrized.
    """
    module.input_binarizer = binarizer
    kind: Any = type(module)
    module.__class__ = _with_binary_input(kind)


def call_layers_(model: nn.Module) -> None:
    """Turns off torch's fused path of encoder layers that hold a layer with a binarized input.

    The fused path reads the layers' weights and does not call the layers.
    """
    for module in model.modules():
        if not isinstance(module, nn.TransformerEncoderLayer):
            continue
        if any(isinstance(part, BinaryInput) for part in module.modules()):
            module.activation_relu_or_gelu = 0


def constant_signs(model: nn.Module, in_shape: Sequence[int]) -> list[str]:
    """Names of layers whose binarized input is one sign throughout, for random images: (C, H, W).

    Behind a ReLU nothing is negative. For a model on the meta device the answer is unknown, and the
    list is empty.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        return []
    # as in the first training step: with the statistics of a batch, which a copy keeps
    probe = copy.deepcopy(model).train()
    found: list[str] = []
    handles = []
    for name, module in probe.named_modules():
        if not isinstance(module, BinaryInput):
            continue
        binarizer = module.input_binarizer
        if binarizer.bits == 1:
            hook = _hook_for_constants(name, found)
            handle = binarizer.register_forward_hook(hook)
            handles.append(handle)
    if not handles:
        return []
    seeded = torch.Generator().manual_seed(0)
    images = torch.randn(8, *in_shape, generator=seeded)
    dtype = next(model.parameters()).dtype
    try:
        with torch.no_grad():
            probe(images.to(dtype))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _hook_for_constants(name: str, found: list[str]) -> Callable[[nn.Module, Any, Tensor], None]:
    """A forward hook that appends `name` to `found` where all outputs are one value."""

    def look(module: nn.Module, args: Any, out: Tensor) -> None:
        if not out.numel():
            return
        first = out.flatten()[0]
        is_constant = (out == first).all()
        if bool(is_constant):
            found.append(name)

    return look
