"""Layers whose input is binarized before they multiply: W1A1 and its relatives, on any Linear, Conv1d or Conv2d."""

import copy
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

from tbn_bench.binarizers._base import ActivationBinarizer


class BinaryInput:
    """Mixed into a layer's class. forward(input) multiplies by input_binarizer(input) and lets the binarizer scale the result."""

    input_binarizer: ActivationBinarizer

    def forward(self, input: Tensor) -> Tensor:  # by torch's name: callers may give it by keyword
        return self.input_binarizer.scale_output(
            self, input, super().forward(self.input_binarizer(input))
        )


@cache
def _with_binary_input(kind: type) -> type:
    return type(
        f"BinaryInput{kind.__name__}",
        (BinaryInput, kind),
        {"__module__": __name__, "__doc__": kind.__doc__},
    )


def binarize_input_(module: nn.Module, binarizer: ActivationBinarizer) -> None:
    """Swaps the class of a layer, in place and before its weight is parametrized, for one that binarizes its input."""
    module.input_binarizer = binarizer
    module.__class__ = _with_binary_input(type(module))


def call_layers_(model: nn.Module) -> None:
    """torch's fused path of TransformerEncoderLayer reads its layers' weights; where a layer does more than that, it must be called."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and any(
            isinstance(m, BinaryInput) for m in module.modules()
        ):
            module.activation_relu_or_gelu = 0


def constant_signs(model: nn.Module, in_shape: Sequence[int]) -> list[str]:
    """Layers whose binarized input is one sign throughout for random images: (C, H, W). Behind a ReLU nothing is negative.

    Nothing is known of a model on the meta device: none are named.
    """
    found, handles = [], []
    if any(p.is_meta for p in model.parameters()):
        return found

    def watch(name: str):
        def look(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            if out.numel() and bool((out == out.flatten()[0]).all()):
                found.append(name)

        return look

    probe = copy.deepcopy(model).train()
    for name, module in probe.named_modules():
        if isinstance(module, BinaryInput) and module.input_binarizer.bits == 1:
            handles.append(module.input_binarizer.register_forward_hook(watch(name)))
    try:
        with torch.no_grad():
            if handles:  # as in the first training step, with the statistics of a batch, and on a copy that keeps them
                images = torch.randn(8, *in_shape, generator=torch.Generator().manual_seed(0))
                probe(images.to(next(model.parameters()).dtype))
    finally:
        for handle in handles:
            handle.remove()
    return found
