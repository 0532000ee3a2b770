"""Tiled Bit Networks (Gorbett, Shirazi, Ray; arXiv 2407.12075). The equations are in tbn_bench/tiling.py.

Forward   B = alpha * (tile repeated p times), tile = sign of the column sums of W read as (p, q); sign(0) = -1
Backward  gradient="elementwise" (the authors' code) or "tile"; alphas by ordinary autograd
Stored    q = N / p bits and p (alpha="tile") or 1 (alpha="layer") 32-bit scales per layer
Kept      biases, normalisation, embeddings. A layer of fewer than min_layer_size weights takes p = 1 and is still binary.
"""

import torch
from torch import Tensor, nn

from tbn_bench import tiling
from tbn_bench.binarizers._base import Binarizer, Decision, Target, WeightBinarizer


class TBNWeight(WeightBinarizer):
    """weight: (N elements) -> alpha * tile in weight's shape. `A`, same shape, exists only with alpha_source="A"."""

    def __init__(self, weight: Tensor, p: int, alpha: tiling.AlphaKind, alpha_source: str, gradient: tiling.Gradient):
        super().__init__()
        self.p, self.alpha, self.gradient = p, alpha, gradient
        self.A = None
        if alpha_source == "A":  # Kaiming normal, fan_in, ReLU gain: the authors' initialisation of A
            self.A = nn.Parameter(torch.empty_like(weight, requires_grad=True))
            nn.init.kaiming_normal_(self.A, mode="fan_in", nonlinearity="relu")

    def forward(self, weight: Tensor) -> Tensor:
        return tiling.tiled_weight(weight, self.scales(weight), self.p, self.gradient)

    def signs(self, weight: Tensor) -> Tensor:
        return tiling.tile(weight, self.p)

    def scales(self, weight: Tensor) -> Tensor:
        return tiling.alphas(weight if self.A is None else self.A, self.p, self.alpha)

    def num_scales(self, weight: Tensor) -> int:
        return self.p if self.alpha == "tile" else 1


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"tbn: {name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


class TBN(Binarizer):
    """Give exactly one of: p, tile_length (each layer takes the p whose tile comes nearest), per_layer (a p per weight).

    alpha: "tile" | "layer"; alpha_source: "A" (a separate learned tensor, the authors' default) | "W";
    min_layer_size: weights below which p = 1 (not applied to per_layer); gradient: "elementwise" | "tile".
    """

    def __init__(
        self,
        p: int | None = None,
        tile_length: int | None = None,
        alpha: str = "tile",
        alpha_source: str = "A",
        min_layer_size: int = 64_000,
        gradient: str = "elementwise",
        per_layer: list[int] | None = None,
    ):
        given = [n for n, v in (("p", p), ("tile_length", tile_length), ("per_layer", per_layer)) if v is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none of them"
            raise ValueError(f"tbn needs exactly one of p, tile_length, per_layer, got {got}; write e.g. tbn(p=4)")
        for name, values in (("p", [p]), ("tile_length", [tile_length]), ("per_layer", per_layer or [])):
            for value in values:
                if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                    raise ValueError(f"tbn: {name} must be a positive integer, got {value!r}; use 1, 2, 4, ...")
        if isinstance(min_layer_size, bool) or not isinstance(min_layer_size, int) or min_layer_size < 0:
            raise ValueError(f"tbn: min_layer_size counts weights, an integer >= 0, got {min_layer_size!r}")
        _choice("alpha", alpha, ("layer", "tile"))
        _choice("alpha_source", alpha_source, ("W", "A"))
        _choice("gradient", gradient, ("elementwise", "tile"))
        self.p, self.tile_length, self.per_layer, self.min_layer_size = p, tile_length, per_layer, min_layer_size
        self.options = {"alpha": alpha, "alpha_source": alpha_source, "gradient": gradient}

    def decide(self, targets: list[Target]) -> list[Decision]:
        if self.per_layer is not None and len(self.per_layer) != len(targets):
            listed = ", ".join(t.name for t in targets)
            raise ValueError(f"per_layer must list {len(targets)} values, one per weight, got {len(self.per_layer)}: {listed}")
        decisions, errors = [], []
        for index, target in enumerate(targets):
            p, reason = self._choose(index, target.weight.numel())
            try:
                tiling.tile_length(target.weight.numel(), p, target.name)
            except ValueError as error:
                errors.append(str(error))
            else:
                decisions.append(Decision(TBNWeight(target.weight, p, **self.options), reason))
        if errors:
            raise ValueError("\n".join(errors))
        return decisions

    def _choose(self, index: int, n: int) -> tuple[int, str]:
        if self.per_layer is not None:
            p = self.per_layer[index]
            return p, "tiled, p listed" if p > 1 else "p = 1 listed"
        if n < self.min_layer_size:
            return 1, f"below min_layer_size {self.min_layer_size:,}: p = 1"
        if self.tile_length is not None:
            p = tiling.nearest_p(n, self.tile_length)
            return p, f"tiled, nearest to tile_length {self.tile_length:,}"
        return self.p, "tiled" if self.p > 1 else "p = 1"
