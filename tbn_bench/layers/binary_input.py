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
        y = layer.forward(self.input_binarizer(input))
        return self.input_binarizer.scale_output(self, input, y)


@cache
def _with_binary_input(kind: Any) -> type:
    members = {"__module__": __name__, "__doc__": kind.__doc__}
    return type(f"BinaryInput{kind.__name__}", (BinaryInput, kind), members)


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
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def look(module: nn.Module, args: Any, out: Tensor) -> None:
            if out.numel() and bool((out == out.flatten()[0]).all()):
                found.append(name)

        return look

    # as in the first training step: with the statistics of a batch, which a copy keeps
    probe = copy.deepcopy(model).train()
    handles = []
    for name, module in probe.named_modules():
        if isinstance(module, BinaryInput) and module.input_binarizer.bits == 1:
            handles.append(module.input_binarizer.register_forward_hook(watch(name)))
    if not handles:
        return []
    images = torch.randn(8, *in_shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            probe(images.to(next(model.parameters()).dtype))
    finally:
        for handle in handles:
            handle.remove()
    return found
