"""The p of each layer from a budget of stored bits: an exact knapsack.

A layer of N weights stores N / p bits and its scales. It has a predicted damage for each p that it
may take. The choice has the least sum of damages among all that stay within the budget. Damages
are taken to add up, which is an approximation (docs/allocate.md).

Without measured damages, that of a layer at p is pi / 2 (p - 1), the same for layers of every size:
by how much the ratio of noise to signal grows. Of independent normal weights, the sign of the sum
of p of them has the cosine sqrt(2 / (pi p)) with the p weights, so that ratio is pi p / 2 - 1.
Large layers save more bits for the same damage, and take the larger p.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbn_bench.tiling import divisors

SCALE_BITS = 32
MOST_P = 64

Front = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class Layer:
    """A weight to be tiled. damage: p -> what the layer costs at that p; at least one p."""

    name: str
    numel: int
    damage: dict[int, float]

    def stored(self, p: int, alpha: str) -> int:
        """Bits at p, scales included."""
        scales = p if alpha == "tile" else 1
        return self.numel // p + SCALE_BITS * scales


def usual_damage(rows: int, numel: int, most: int = MOST_P) -> dict[int, float]:
    """The damage by rule for every p up to `most` that divides the rows, so that a layer can reuse
    its tile."""
    possible = [p for p in divisors(rows) if p <= most and numel % p == 0]
    return {p: math.pi / 2 * (p - 1) for p in possible}


def allocate(layers: list[Layer], bits: float, alpha: str = "tile") -> list[int]:
    """The p of each layer.

    bits: per weight of these layers, scales included. Raises ValueError, with the least possible
    bits, where no choice stays within them.
    """
    if not layers:
        return []
    weights = sum(layer.numel for layer in layers)
    budget = math.floor(bits * weights + 1e-6)
    least = sum(min(layer.stored(p, alpha) for p in layer.damage) for layer in layers)
    if least > budget:
        raise ValueError(_impossible(layers, bits, least / weights))
    fronts = _fronts(layers, alpha, budget)
    place = len(fronts[-1][0]) - 1  # the last point of a front has the least damage
    chosen: list[int] = []
    for _, _, taken, before in reversed(fronts):
        chosen.append(int(taken[place]))
        place = int(before[place])
    return chosen[::-1]


def _fronts(layers: list[Layer], alpha: str, budget: int) -> list[Front]:
    """For the first 1, 2, ... layers, the choices that no other beats in both bits and damage.

    Each is (bits, growing; damage, falling; the p of the last layer; the place of the rest of the
    choice in the front before).
    """
    bits = np.zeros(1, np.int64)
    damage = np.zeros(1)
    found: list[Front] = []
    for layer in layers:
        ps = np.array(sorted(layer.damage))
        stored = np.array([layer.stored(p, alpha) for p in ps.tolist()])
        own = np.array([layer.damage[p] for p in ps.tolist()])
        all_bits = (bits[:, None] + stored).reshape(-1)
        all_damage = (damage[:, None] + own).reshape(-1)
        order = np.lexsort((all_damage, all_bits))
        order = order[all_bits[order] <= budget]
        best = np.minimum.accumulate(all_damage[order])
        is_new = np.ones(len(order), dtype=bool)
        is_new[1:] = best[1:] < best[:-1]
        kept = order[is_new]
        bits = all_bits[kept]
        damage = all_damage[kept]
        before, taken = np.divmod(kept, len(ps))
        found.append((bits, damage, ps[taken], before))
    return found


def _impossible(layers: list[Layer], bits: float, least: float) -> str:
    named = ", ".join(layer.name for layer in layers[:3])
    if len(layers) > 3:
        named += f" and {len(layers) - 3} more"
    rounded = math.ceil(10_000 * least) / 10_000
    return (
        f"bits={bits:g} cannot be met: {named} take at least {rounded:.4f} bits per weight, "
        f"scales included; use bits={rounded:.4f} or more"
    )


def measured(found: Any, path: str) -> dict[str, dict[int, float]]:
    """Layer -> damage by p, from the content of a file of allocate (docs/allocate.md).

    The damage is the growth of the loss, at least 0. Raises ValueError for another content.
    """
    try:
        base = float(found["loss"])
        out = {}
        for row in found["layers"]:
            losses = {int(p): float(loss) for p, loss in row["loss"].items()}
            out[str(row["name"])] = {p: max(0.0, loss - base) for p, loss in losses.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} has no measured losses ({type(error).__name__}: {error}); "
            "write it with tbn-bench allocate"
        ) from error
    return out
