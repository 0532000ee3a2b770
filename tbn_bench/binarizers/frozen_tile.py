"""Control for learning the tile: tbn (tbn.py, arXiv 2407.12075), its tiles left as drawn.

Forward   B = alpha * (t repeated p times). t is the first tile of tbn: the sign of the column sums
          of W as initialised, so random in a randomly initialised network; sign(0) = -1. With the
          same seed and options, frozen_tile and tbn start as the same network
Backward  none to t. alphas by ordinary autograd, to A (alpha_source="A") or to W ("W"); with "A"
          the latent W has no effect and gets a gradient of 0
Source    ours
Stored    q = N / p bits and p (alpha="tile") or 1 (alpha="layer") 32-bit scales per layer, as tbn.
          t is a buffer: checkpoints hold it
Kept      biases, normalisation, embeddings. A layer of fewer than min_layer_size weights takes
          p = 1: it is binary, and frozen too.

Trained by tile reuse (reuse.py), as tbn.
"""

from typing import Any

import torch
from torch import Tensor

from tbn_bench import tiling
from tbn_bench.binarizers._base import Decision, Target, WeightBinarizer
from tbn_bench.binarizers.tbn import TBN, TBNWeight


class _Untrained(torch.autograd.Function):
    """tile: (q,), weight: any shape -> tile.

    The weight gets a gradient of 0, so that optimizers and checks find one that moves nothing.
    """

    @staticmethod
    def forward(ctx: Any, tile: Tensor, weight: Tensor) -> Tensor:
        ctx.shape = weight.shape
        return tile.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad.new_zeros(ctx.shape)


class FrozenTileWeight(WeightBinarizer):
    """Buffer tile: (q,) of +-1. `A`, of the latent weight's shape: only with alpha_source="A"."""

    reuse = True
    frozen = True

    def __init__(self, weight: Tensor, tiled: TBNWeight):
        super().__init__()
        self.p = tiled.p
        self.alpha = tiled.alpha
        self.A = tiled.A
        self.copies = tiled.copies
        tile = tiling.tile(weight.detach(), self.p, self.copies)
        self.register_buffer("tile", tile)

    def forward(self, weight: Tensor) -> Tensor:
        out = tiling.expand(
            self.training_tile(weight),
            self.scales(weight),
            self.p,
            weight.shape,
            self.copies,
        )
        if self.copies is None:
            return out
        return tiling.enlarged(out, self.copies)

    def training_tile(self, weight: Tensor) -> Tensor:
        return _Untrained.apply(self.tile, weight)

    def signs(self, weight: Tensor) -> Tensor:
        # a copy, because the task compares signs over time
        return self.tile.clone()

    def scales(self, weight: Tensor) -> Tensor:
        source = weight if self.A is None else self.A
        return tiling.alphas(source, self.p, self.alpha)

    def num_scales(self, weight: Tensor) -> int:
        return self.p if self.alpha == "tile" else 1


class FrozenTile(TBN):
    """Options as tbn's, but for `gradient`: give exactly one of p, tile_length, per_layer."""

    def __init__(
        self,
        p: int | None = None,
        tile_length: int | None = None,
        alpha: str = "tile",
        alpha_source: str = "A",
        min_layer_size: int = 64_000,
        per_layer: list[int] | None = None,
        copies: str = "aligned",
        shifts: list[list[int]] | None = None,
    ):
        try:
            super().__init__(
                p,
                tile_length,
                alpha,
                alpha_source,
                min_layer_size,
                per_layer=per_layer,
                copies=copies,
                shifts=shifts,
            )
        except ValueError as error:  # the same checks under the name that the user wrote
            raise ValueError(str(error).replace("tbn", "frozen_tile")) from None

    def decide(self, targets: list[Target]) -> list[Decision]:
        decisions = []
        for target, tiled in zip(targets, super().decide(targets), strict=True):
            method = FrozenTileWeight(target.weight, tiled.parametrization)
            decisions.append(Decision(method, f"{tiled.reason}, frozen"))
        return decisions
