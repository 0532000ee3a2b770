"""Linear layers and convolutions, packed or in full precision."""

from torch import nn

from tbn_bench.compiler.graph import Layer, NoRule, Operation, Unsupported
from tbn_bench.compiler.names import Call, lowers
from tbn_bench.layers import packed


@lowers(packed.PackedLinear, nn.Linear)
def linear(call: Call) -> Operation:
    _check_input(call)
    return Layer(call.x, call.module)


@lowers(
    packed.PackedConv1d,
    packed.PackedConv2d,
    nn.Conv1d,
    nn.Conv2d,
)
def convolution(call: Call) -> Operation:
    _check_input(call)
    module = call.module
    mode = getattr(module, "padding_mode", "zeros")
    if mode != "zeros":
        raise Unsupported(f"padding must be zeros, got {mode}")
    if packed.padding_of(module) is None:
        raise Unsupported(
            f"padding must be the same on both sides, got {module.padding!r} of an even kernel; "
            "give it as numbers"
        )
    return Layer(call.x, module)


def _check_input(call: Call) -> None:
    """A layer whose input is binarized multiplies by other numbers than x."""
    if getattr(call.module, "input_binarizer", None) is not None:
        raise NoRule("binary activations", "export a method of binary weights alone")
