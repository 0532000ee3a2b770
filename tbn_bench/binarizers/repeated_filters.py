"""Control for tiling along output channels: a layer of fewer binary filters, their outputs copied.

Forward   B = alpha * (T repeated p times), T = sign of the first R = C_out / p rows of W,
          alpha = mean |W| over those rows; so output channels c, c + R, c + 2R, ... are the same.
          sign(0) = -1, as tbn, so that equal tiles are equal weights
Backward  straight through to the R rows: dL/dT summed over the copies (identity, no window), as
          under tbn; alpha by ordinary autograd
Source    ours. tbn(alpha="layer") computes this function with T = its tile wherever p divides
          C_out, and a normalisation per channel removes the scales of alpha="tile" too. tbn then
          differs only in the way it learns T
Stored    N / p bits and one 32-bit scale per layer (a network without normalisation needs it)
Kept      biases, normalisation, embeddings. A layer of fewer than min_layer_size weights takes
          p = 1 and is still binary. The latent rows after the first R have no effect; they exist
          because a parametrization keeps its weight's shape.

Trained by tile reuse (reuse.py), as tbn.
"""

from torch import Tensor

from tbn_bench import tiling
from tbn_bench.binarizers._base import Binarizer, Decision, Target, WeightBinarizer


class RepeatedFiltersWeight(WeightBinarizer):
    reuse = True

    def __init__(self, p: int):
        super().__init__()
        self.p = p

    def _filters(self, weight: Tensor) -> Tensor:
        rows = weight.shape[0] // self.p
        return weight[:rows]

    def forward(self, weight: Tensor) -> Tensor:
        tile = self.training_tile(weight)
        scales = self.scales(weight)
        return tiling.expand(tile, scales, self.p, weight.shape)

    def training_tile(self, weight: Tensor) -> Tensor:
        return tiling.tile_ste(self._filters(weight), 1)

    def signs(self, weight: Tensor) -> Tensor:
        return tiling.tile(self._filters(weight), 1)

    def scales(self, weight: Tensor) -> Tensor:
        return tiling.alphas(self._filters(weight), 1, "layer")

    def num_scales(self, weight: Tensor) -> int:
        return 1


class RepeatedFilters(Binarizer):
    """p: the number of copies of each filter, a divisor of C_out.

    min_layer_size: weights below which p = 1.
    """

    def __init__(self, p: int, min_layer_size: int = 64_000):
        if not _is_whole(p) or p < 1:
            raise ValueError(
                f"repeated_filters: p must be a positive integer, got {p!r}; use 1, 2, 4, ..."
            )
        if not _is_whole(min_layer_size) or min_layer_size < 0:
            raise ValueError(
                "repeated_filters: min_layer_size counts weights, an integer >= 0, "
                f"got {min_layer_size!r}"
            )
        self.p = p
        self.min_layer_size = min_layer_size

    def decide(self, targets: list[Target]) -> list[Decision]:
        errors = [self._refused(target) for target in targets if not self._fits(target)]
        if errors:
            raise ValueError("\n".join(errors))
        return super().decide(targets)

    def layer(self, target: Target) -> Decision:
        if self._is_small(target):
            reason = f"below min_layer_size {self.min_layer_size:,}: p = 1"
            return Decision(RepeatedFiltersWeight(1), reason)
        reason = "filters repeated" if self.p > 1 else "p = 1"
        return Decision(RepeatedFiltersWeight(self.p), reason)

    def _is_small(self, target: Target) -> bool:
        return target.weight.numel() < self.min_layer_size

    def _fits(self, target: Target) -> bool:
        rows = target.weight.shape[0]
        return self._is_small(target) or rows % self.p == 0

    def _refused(self, target: Target) -> str:
        """The message for a layer that p does not divide."""
        rows = target.weight.shape[0]
        by_distance = sorted(tiling.divisors(rows), key=lambda divisor: abs(divisor - self.p))
        near = ", ".join(map(str, sorted(by_distance[:6])))
        return (
            f"p must divide the number of filters, got p={self.p} for {rows} filters "
            f"(layer {target.name}); "
            f"use one of {near}, keep the layer, or raise min_layer_size"
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
