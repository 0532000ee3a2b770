"""Histograms of a network's column sums and scales, for mirrors alone."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tbn_bench.binarizers._base import WeightBinarizer
from tbn_bench.tasks._base import binary_weights

LAYERS = 12
BINS = 64
REACH = 4.0  # column sums beyond +-4 mean magnitudes are counted in the outermost bins

Item = TypeVar("Item")


@dataclass(frozen=True)
class Histogram:
    """counts: (BINS,), edges: (BINS + 1,)."""

    counts: NDArray[np.int64]
    edges: NDArray[np.float64]


def tile_histograms(model: nn.Module) -> dict[str, Histogram]:
    """ "tile/s/<layer>": the column sums s of a tiled layer over mean |s|.

    "tile/alphas/<layer>": its scales. At most LAYERS layers of each, evenly spread from the first
    to the last. Layers without column sums or scales have none.
    """
    summed: list[tuple[str, Tensor]] = []
    scaled: list[tuple[str, WeightBinarizer, Tensor]] = []
    found: dict[str, Histogram] = {}
    with torch.no_grad():
        for name, method, weight in binary_weights(model):
            sums = method.column_sums(weight.detach())
            if sums is not None:
                summed.append((name, sums))
            if method.num_scales(weight):
                scaled.append((name, method, weight))
        for name, sums in _spread(summed):
            found[f"tile/s/{_label(name)}"] = _sums(sums)
        for name, method, weight in _spread(scaled):
            scales = method.scales(weight).detach()
            found[f"tile/alphas/{_label(name)}"] = _scales(scales)
    return found


def _spread(items: list[Item]) -> list[Item]:
    """At most LAYERS of them."""
    if not items:
        return []
    places = np.linspace(0, len(items) - 1, LAYERS)
    chosen = sorted({round(place) for place in places})
    return [items[place] for place in chosen]


def _label(name: str) -> str:
    """Dots mean nesting in W&B."""
    return name.removesuffix(".weight").replace(".", "_")


def _sums(s: Tensor) -> Histogram:
    """Sums that are not finite are in no bin."""
    least = torch.finfo(torch.float32).tiny
    magnitude = s.abs().mean().clamp_min(least)
    relative = s.float() / magnitude
    within = relative.clamp(-REACH, REACH)
    counts = torch.histc(within, BINS, -REACH, REACH)
    edges = np.linspace(-REACH, REACH, BINS + 1)
    return Histogram(counts.cpu().numpy().astype(np.int64), edges)


def _scales(scales: Tensor) -> Histogram:
    values = scales.double().cpu().numpy()
    finite = values[np.isfinite(values)]
    return Histogram(*np.histogram(finite, BINS))
