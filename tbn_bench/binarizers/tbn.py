"""Tiled Bit Networks (Gorbett, Shirazi, Ray; arXiv 2407.12075).

The equations are in tbn_bench/tiling.py.

Forward   B = alpha * (tile repeated p times), tile = sign of the column sums of W read as (p, q);
          sign(0) = -1
Backward  gradient="elementwise" (the authors' code) or "tile"; alphas by ordinary autograd
Copies    copies="aligned" is the paper's layout; "rotated", "permuted", "hadamard", "shifted" and
          "columns" (tbn_bench/format/layouts.py) make different features of the same bits. Where a
          layout does not fit a layer (e.g. shifted without spatial axes), the layer uses aligned,
          and the plan says so
Stored    q = N / p bits and p (alpha="tile") or 1 (alpha="layer") 32-bit scales per layer
Kept      biases, normalisation, embeddings. A layer of fewer than min_layer_size weights takes
          p = 1 and is still binary.
"""

import torch
from torch import Tensor, nn

from tbn_bench import tiling
from tbn_bench.binarizers._base import Binarizer, Decision, Target, WeightBinarizer
from tbn_bench.format.layouts import KINDS, Copies, default_shifts


class TBNWeight(WeightBinarizer):
    """weight: (N elements) -> alpha * tile in weight's shape.

    `A`, of the same shape, exists only with alpha_source="A".
    """

    reuse = True

    def __init__(
        self,
        weight: Tensor,
        p: int,
        alpha: tiling.AlphaKind,
        alpha_source: str,
        gradient: tiling.Gradient,
        copies: Copies | None = None,
    ):
        super().__init__()
        self.p = p
        self.alpha = alpha
        self.gradient = gradient
        self.copies = copies
        self.elementwise = gradient == "elementwise"
        self.A = None
        if alpha_source == "A":
            self.A = nn.Parameter(torch.empty_like(weight, requires_grad=True))
            # the authors' initialisation of A: Kaiming normal, fan_in, ReLU gain
            nn.init.kaiming_normal_(self.A, mode="fan_in", nonlinearity="relu")

    def forward(self, weight: Tensor) -> Tensor:
        scales = self.scales(weight)
        out = tiling.tiled_weight(weight, scales, self.p, self.gradient, self.copies)
        if self.copies is None:
            return out
        return tiling.enlarged(out, self.copies)

    def signs(self, weight: Tensor) -> Tensor:
        return tiling.tile(weight, self.p, self.copies)

    def column_sums(self, weight: Tensor) -> Tensor:
        return tiling.aggregate(weight, self.p, self.copies)

    def training_tile(self, weight: Tensor) -> Tensor:
        make = tiling.tile if self.elementwise else tiling.tile_ste
        return make(weight, self.p, self.copies)

    def scales(self, weight: Tensor) -> Tensor:
        source = weight if self.A is None else self.A
        return tiling.alphas(source, self.p, self.alpha)

    def num_scales(self, weight: Tensor) -> int:
        return self.p if self.alpha == "tile" else 1


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        known = ", ".join(map(repr, allowed))
        raise ValueError(f"tbn: {name} must be one of {known}, got {value!r}")


def _pads_with_zeros(module: nn.Module | None) -> bool:
    """Whether a layer's padding, if it has one, is a number of zeros."""
    padding = getattr(module, "padding", 0)
    mode = getattr(module, "padding_mode", "zeros")
    return not isinstance(padding, str) and mode == "zeros"


def _is_shift(value: object) -> bool:
    return isinstance(value, list) and all(type(step) is int for step in value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_p(name: str, value: object) -> None:
    if not _is_whole(value) or value < 1:
        raise ValueError(f"tbn: {name} must be a positive integer, got {value!r}; use 1, 2, 4, ...")


class TBN(Binarizer):
    """Give exactly one of p, tile_length and per_layer.

    p: how often each sign is used, so that N weights have N / p signs.
    tile_length: each layer takes the p whose tile length is nearest. per_layer: a p per weight.
    alpha: "tile" | "layer"
    alpha_source: "A" (a separate learned tensor, the authors' default) | "W"
    min_layer_size: weights below which p = 1 (not applied to per_layer)
    gradient: "elementwise" | "tile"
    copies: "aligned" | "rotated" | "permuted" | "hadamard" | "shifted" | "columns"
    shifts: for "shifted", one [dy, dx] per copy (default: nearest first)
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
        copies: str = "aligned",
        shifts: list[list[int]] | None = None,
    ):
        sizes = {"p": p, "tile_length": tile_length, "per_layer": per_layer}
        given = [name for name, value in sizes.items() if value is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none of them"
            raise ValueError(
                "tbn needs exactly one of p, tile_length, per_layer, "
                f"got {got}; write e.g. tbn(p=4)"
            )
        if p is not None:
            _check_p("p", p)
        if tile_length is not None:
            _check_p("tile_length", tile_length)
        for value in per_layer or []:
            if value is not None:
                _check_p("per_layer", value)
        if not _is_whole(min_layer_size) or min_layer_size < 0:
            raise ValueError(
                f"tbn: min_layer_size counts weights, an integer >= 0, got {min_layer_size!r}"
            )
        _choice("alpha", alpha, ("layer", "tile"))
        _choice("alpha_source", alpha_source, ("W", "A"))
        _choice("gradient", gradient, ("elementwise", "tile"))
        _choice("copies", copies, KINDS)
        if shifts is not None:
            listed = isinstance(shifts, list) and all(map(_is_shift, shifts))
            if copies != "shifted" or not listed:
                raise ValueError(
                    "tbn: shifts are for copies='shifted', a list of [dy, dx] of whole numbers, "
                    f"got {shifts!r}"
                )
        self.kind = copies
        self.shifts = shifts
        self.p = p
        self.tile_length = tile_length
        self.per_layer = per_layer
        self.min_layer_size = min_layer_size
        self.options = {
            "alpha": alpha,
            "alpha_source": alpha_source,
            "gradient": gradient,
        }

    def decide(self, targets: list[Target]) -> list[Decision]:
        if self.per_layer is not None and len(self.per_layer) != len(targets):
            listed = ", ".join(target.name for target in targets)
            raise ValueError(
                f"per_layer must list {len(targets)} values, one per weight, "
                f"got {len(self.per_layer)}: {listed}"
            )
        decisions = []
        errors = []
        for index, target in enumerate(targets):
            size = target.weight.numel()
            p, reason = self._choose(index, size)
            try:
                tiling.tile_length(size, p, target.name)
            except ValueError as error:
                errors.append(str(error))
                continue
            copies, why = self._copies(target, p)
            method = TBNWeight(target.weight, p, **self.options, copies=copies)
            decisions.append(Decision(method, reason + why))
        if errors:
            raise ValueError("\n".join(errors))
        return decisions

    def _copies(self, target: Target, p: int) -> tuple[Copies | None, str]:
        """(layout, addition to the reason); None: aligned."""
        if self.kind == "aligned" or p == 1:
            return None, ""
        shape = tuple(target.weight.shape)
        shifts: tuple[tuple[int, ...], ...] = ()
        if self.kind == "shifted":
            users = target.users or (target.module,)
            if not all(map(_pads_with_zeros, users)):
                return None, ", aligned: shifted copies need a padding of zeros given as a number"
            if self.shifts is None:
                shifts = default_shifts(p, len(shape) - 2)
            else:
                shifts = tuple(map(tuple, self.shifts))
        if target.grouped:
            return None, f", aligned: {self.kind} copies need a single group"
        if self.kind == "columns" and self.options["alpha"] == "tile" and shape[0] % p:
            needed = f"columns with alpha='tile' need a p that divides the {shape[0]} rows"
            return None, f", aligned: {needed}, got p={p}; alpha='layer' does not"
        try:
            return Copies(shape, p, self.kind, shifts), f", copies {self.kind}"
        except ValueError as error:
            return None, f", aligned ({error})"

    def _choose(self, index: int, n: int) -> tuple[int, str]:
        if self.per_layer is not None:
            p = self.per_layer[index]
            return p, "tiled, p listed" if p > 1 else "p = 1 listed"
        if n < self.min_layer_size and self.p != 1:
            return 1, f"below min_layer_size {self.min_layer_size:,}: p = 1"
        if self.tile_length is not None:
            p = tiling.nearest_p(n, self.tile_length)
            return p, f"tiled, nearest to tile_length {self.tile_length:,}"
        return self.p, "tiled" if self.p > 1 else "p = 1"
