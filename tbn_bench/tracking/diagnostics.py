"""What the tiles of a network look like: histograms of the column sums and of the scales, for mirrors alone."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tbn_bench.binarizers._base import WeightBinarizer
from tbn_bench.binarizers.tbn import TBNWeight
from tbn_bench.tasks._base import binary_weights
from tbn_bench.tiling import aggregate

LAYERS = 12
BINS = 64
REACH = 4.0  # column sums beyond +-4 mean magnitudes are counted in the outermost bins


@dataclass(frozen=True)
class Histogram:
    """counts: (BINS,), edges: (BINS + 1,)."""

    counts: NDArray[np.int64]
    edges: NDArray[np.float64]


def tile_histograms(model: nn.Module) -> dict[str, Histogram]:
    """ "tile/s/<layer>": the column sums s of a tiled layer over mean |s|; "tile/alphas/<layer>": its scales. At most LAYERS layers of
    each, evenly spread from the first to the last; layers without column sums or scales have none."""
    weights = binary_weights(model)
    found: dict[str, Histogram] = {}
    with torch.no_grad():
        for name, method, weight in _spread([w for w in weights if isinstance(w[1], TBNWeight)]):
            found[f"tile/s/{name}"] = _sums(aggregate(weight.detach(), method.p, method.copies))
        for name, method, weight in _spread([w for w in weights if w[1].num_scales(w[2])]):
            scales = method.scales(weight).detach().double().cpu().numpy()
            counts, edges = np.histogram(scales[np.isfinite(scales)], BINS)
            found[f"tile/alphas/{name}"] = Histogram(counts, edges)
    return found


def _spread(
    weights: list[tuple[str, WeightBinarizer, Tensor]],
) -> list[tuple[str, WeightBinarizer, Tensor]]:
    chosen = sorted({round(i) for i in np.linspace(0, len(weights) - 1, LAYERS)}) if weights else []
    return [(_label(weights[i][0]), *weights[i][1:]) for i in chosen]


def _label(name: str) -> str:
    """Dots mean nesting in W&B."""
    return name.removesuffix(".weight").replace(".", "_")


def _sums(s: Tensor) -> Histogram:
    s = s.float() / s.abs().mean().clamp_min(torch.finfo(torch.float32).tiny)
    counts = torch.histc(s.clamp(-REACH, REACH), BINS, -REACH, REACH)  # not finite: in no bin
    return Histogram(counts.cpu().numpy().astype(np.int64), np.linspace(-REACH, REACH, BINS + 1))
