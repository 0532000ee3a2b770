"""Training of a tiled convolution and behind it (training.inc), by addresses of memory."""

import ctypes

from tbn_bench.native.abi import HadamardStruct, NormStruct, SignConvStruct
from tbn_bench.native.levels import index_of
from tbn_bench.native.library import NativeUnavailable, load


def takes(channels: int, p: int) -> bool:
    """Whether there is code for p copies of `channels` channels.

    False where the library was not built.
    """
    try:
        lib = load()
    except NativeUnavailable:
        return False
    return bool(lib.tbn_norm_takes(channels, p))


def mixes(channels: int, p: int) -> bool:
    """Whether there is code for `channels` channels that are mixed from p parts.

    False where the library was not built.
    """
    try:
        lib = load()
    except NativeUnavailable:
        return False
    return bool(lib.tbn_norm_mixes(channels, p))


def forward(call: NormStruct, level: str) -> None:
    """Writes mean, variance, channel_mean, channel_variance and out."""
    load().tbn_norm_forward(index_of(level), ctypes.byref(call))


def backward(call: NormStruct, level: str) -> None:
    """Writes the gradients that have an address."""
    load().tbn_norm_backward(index_of(level), ctypes.byref(call))


def is_built() -> bool:
    """Whether the library was built."""
    try:
        load()
    except NativeUnavailable:
        return False
    return True


def hadamard_tile(call: HadamardStruct) -> None:
    """Writes call.tile from call.weight."""
    load().tbn_hadamard_tile(ctypes.byref(call))


def hadamard_gradient(call: HadamardStruct) -> None:
    """Writes call.weight from call.tile, which are gradients."""
    load().tbn_hadamard_gradient(ctypes.byref(call))


def looks_signs_up(level: str) -> bool:
    """Whether sign_conv runs at a level."""
    return bool(load().tbn_sign_conv_takes(index_of(level)))


def sign_conv(call: SignConvStruct, level: str, of_gradient: bool) -> None:
    """Writes the convolution of call.x, or the gradient of x from that of the output, call.g."""
    if load().tbn_sign_conv(index_of(level), ctypes.byref(call), of_gradient):
        raise MemoryError("no memory for a convolution by table lookup")


def takes_weight_gradient(channels: int, rows: int) -> bool:
    """Whether weight_gradient has code for these input channels and rows of a group."""
    return bool(load().tbn_weight_gradient_takes(channels, rows))


def weight_gradient(call: SignConvStruct, level: str) -> None:
    """Writes the gradient of the tile from call.x and call.g."""
    load().tbn_weight_gradient(index_of(level), ctypes.byref(call))


def takes_groups(level: str, inputs: int, outputs: int, groups: int) -> bool:
    """Whether group_conv has code for groups of these inputs and outputs at a level."""
    return bool(load().tbn_group_conv_takes(index_of(level), inputs, outputs, groups))


def group_conv(call: SignConvStruct, level: str, of_gradient: bool) -> None:
    """As sign_conv, by multiply-adds; the gradient of x at any stride."""
    if load().tbn_group_conv(index_of(level), ctypes.byref(call), of_gradient):
        raise MemoryError("no memory for a convolution in groups")


def takes_group_gradient(level: str, channels: int, rows: int, groups: int) -> bool:
    """Whether group_gradient has code for groups of these input channels and rows at a level."""
    return bool(load().tbn_group_gradient_takes(index_of(level), channels, rows, groups))


def group_gradient(call: SignConvStruct, level: str) -> None:
    """As weight_gradient, faster where rows of the output are long."""
    if load().tbn_group_gradient(index_of(level), ctypes.byref(call)):
        raise MemoryError("no memory for the weight gradient of a convolution in groups")
