"""Batch normalisation in two numbers per channel instead of four, for small packed files.

In evaluation, batch normalisation is a scale and a shift:

    y = gamma (x - mean) / sqrt(var + eps) + beta = scale x + shift        (Ioffe and Szegedy, 2015)

The folded layer has mean 0 and var 1, which a small file states without bytes, and

    gamma' = scale sqrt(1 + eps),   beta' = shift = beta - mean scale

so that a network reads it without knowing that it was folded.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

Array = NDArray[Any]


def fold_norms(
    model: nn.Module, tensors: dict[str, Array], aliases: dict[str, str]
) -> dict[str, Array]:
    """The tensors with every batch norm of the model folded that has its four vectors for itself.

    tensors, aliases: of a packed file. Layers without gamma and beta store two vectors already;
    layers that share a vector are left as they are.
    """
    folded = dict(tensors)
    shared = set(aliases.values())
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.modules.batchnorm._BatchNorm):
            continue
        names = [f"{name}.{part}".lstrip(".") for part in _PARTS]
        is_own = all(part in tensors and part not in shared for part in names)
        if is_own:
            vectors = [tensors[part] for part in names]
            folded |= zip(names, _folded(vectors, layer.eps), strict=True)
    return folded


_PARTS = ("weight", "bias", "running_mean", "running_var")


def _folded(vectors: list[Array], eps: float) -> list[Array]:
    """gamma, beta, mean, var -> those of the folded layer, in the same types."""
    gamma, beta, mean, var = (vector.astype(np.float64) for vector in vectors)
    scale = gamma / np.sqrt(var + eps)
    shift = beta - mean * scale
    found = [scale * math.sqrt(1 + eps), shift, np.zeros_like(mean), np.ones_like(var)]
    return [new.astype(old.dtype) for new, old in zip(found, vectors, strict=True)]
