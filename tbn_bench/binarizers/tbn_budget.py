"""tbn (tbn.py, arXiv 2407.12075) with a p per layer that is chosen from a budget of stored bits.

Forward   as tbn
Backward  as tbn
Source    the choice is ours (_budget.py)
Stored    as tbn: N / p bits and p (alpha="tile") or 1 (alpha="layer") 32-bit scales per layer.
          Over all layers that are not kept, at most `bits` per weight, scales included
Kept      biases, normalisation, embeddings. A small layer is tiled too where that costs least.

Without `path`, the damage of a layer at p is that of a rule. With it, the damages were measured on
a trained network by `tbn-bench allocate`.
"""

import json
import math
from pathlib import Path

from tbn_bench.binarizers import _budget
from tbn_bench.binarizers._base import Binarizer, Decision, Target
from tbn_bench.binarizers._budget import Layer
from tbn_bench.binarizers.tbn import TBN


class TBNBudget(Binarizer):
    """bits: stored bits per weight over all layers that are not kept, scales included.

    path: a file of measured losses (tbn-bench allocate); without it, a rule by size.
    most_p: the largest p of the rule. The other options are tbn's.
    """

    def __init__(
        self,
        bits: float,
        path: str | None = None,
        most_p: int = _budget.MOST_P,
        alpha: str = "tile",
        alpha_source: str = "A",
        gradient: str = "elementwise",
        copies: str = "aligned",
    ):
        if isinstance(bits, bool) or not 0 < bits < math.inf:
            raise ValueError(f"tbn_budget: bits per weight must be above 0, got {bits!r}")
        if isinstance(most_p, bool) or most_p < 1:
            raise ValueError(f"tbn_budget: most_p must be a positive integer, got {most_p!r}")
        self.bits = bits
        self.path = path
        self.most_p = most_p
        self.alpha = alpha
        self.alpha_source = alpha_source
        self.gradient = gradient
        self.copies = copies
        self._tiled([])  # tbn checks its options

    def _tiled(self, per_layer: list[int]) -> TBN:
        try:
            return TBN(
                alpha=self.alpha,
                alpha_source=self.alpha_source,
                gradient=self.gradient,
                per_layer=per_layer,
                copies=self.copies,
            )
        except ValueError as error:  # the same checks under the name that the user wrote
            raise ValueError(str(error).replace("tbn:", "tbn_budget:")) from None

    def layers(self, targets: list[Target]) -> list[Layer]:
        """The targets with the damages of the file, or of the rule.

        Raises ValueError for a file that cannot be read, or is that of another network.
        """
        known = None if self.path is None else self._measured(self.path)
        found = []
        for target in targets:
            numel = target.weight.numel()
            if known is None:
                damage = _budget.usual_damage(target.weight.shape[0], numel, self.most_p)
            elif target.name in known:
                damage = known[target.name]
            else:
                raise ValueError(
                    f"tbn_budget: {self.path} has no losses of {target.name}; "
                    "measure this network with tbn-bench allocate, or keep the layer"
                )
            found.append(Layer(target.name, numel, damage))
        return found

    def _measured(self, path: str) -> dict[str, dict[int, float]]:
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"tbn_budget: cannot read {path} ({error}); write it with tbn-bench allocate"
            ) from error
        return _budget.measured(content, path)

    def decide(self, targets: list[Target]) -> list[Decision]:
        layers = self.layers(targets)
        try:
            chosen = _budget.allocate(layers, self.bits, self.alpha)
        except ValueError as error:
            raise ValueError(f"tbn_budget: {error}") from None
        word = "noise" if self.path is None else "loss"
        decisions = []
        tiled = self._tiled(chosen).decide(targets)
        for layer, p, decision in zip(layers, chosen, tiled, strict=True):
            listed = "tiled, p listed" if p > 1 else "p = 1 listed"
            rest = decision.reason.removeprefix(listed)
            predicted = f"{word} +{layer.damage[p]:.4g}"
            reason = f"p = {p} of {self.bits:g} bits, {predicted}{rest}"
            decisions.append(Decision(decision.parametrization, reason))
        return decisions
