"""Whether batch normalisation or ReLU may become part of the layer before them.

An operation may be folded into the one that makes its input only where nothing else reads that
input, by any of its names: an identity or a view is another name of the same value.
"""

from typing import Any

import numpy as np
from torch import fx

from tbn_bench.compiler.layer import Array, float64


def scale_and_shift(module: Any) -> tuple[Array, Array]:
    """Batch normalisation as scale * x + shift, each (channels,) float64.

    scale = gamma / sqrt(var + eps), shift = beta - mean * scale (Ioffe and Szegedy, 2015).
    """
    mean = float64(module.running_mean)
    variance = float64(module.running_var)
    deviation = np.sqrt(variance + module.eps)
    gamma = 1.0 if module.weight is None else float64(module.weight)
    beta = 0.0 if module.bias is None else float64(module.bias)
    scale = 1.0 / deviation * gamma
    shift = -mean * scale + beta
    return scale, shift


def readers(values: dict[fx.Node, int], value: int) -> set[fx.Node]:
    """The nodes that read a value. values: node -> its value, for all nodes so far."""
    names = {node for node, found in values.items() if found == value}
    found: set[fx.Node] = set()
    for name in names:
        found |= set(name.users)
    return found - names
