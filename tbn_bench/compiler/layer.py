"""What both back ends ask of a linear layer or a convolution, packed or in full precision."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbn_bench.compiler.geometry import Map, Window, pair, window
from tbn_bench.layers import packed

Array = NDArray[Any]


def is_packed(module: Any) -> bool:
    """True for a layer that holds the tensors of a stored form instead of a weight."""
    return isinstance(module, packed.Packed)


def weight_shape(module: Any) -> tuple[int, ...]:
    """(rows, columns) or (rows, channels / groups, *kernel)."""
    if is_packed(module):
        return tuple(module.shape)
    return tuple(module.weight.shape)


def float64(tensor: Tensor) -> Array:
    """The values in float64."""
    values = tensor.detach().cpu()
    found: Array = values.to(torch.float64).numpy()
    return found


def bias(module: Any) -> Array:
    """(rows,) float64; zeros where the layer has none."""
    if module.bias is None:
        return np.zeros(weight_shape(module)[0])
    return float64(module.bias)


def convolution_window(module: Any, shape: Map) -> Window:
    """Where the kernel of a convolution is on a map of this shape."""
    kernel = weight_shape(module)[2:]
    axes = len(kernel)
    return window(
        shape,
        kernel=pair(kernel, axes),
        stride=pair(module.stride, axes),
        padding=pair(packed.padding_of(module), axes, missing=0),
        dilation=pair(module.dilation, axes),
    )
