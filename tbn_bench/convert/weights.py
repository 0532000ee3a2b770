"""The weights of a network that binarize_ may convert, and the layers that share each of them."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tbn_bench.binarizers._base import Target
from tbn_bench.derived import place

_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True)
class WeightUse:
    """A layer's use of a weight: `module.attribute`, under its qualified name in the network."""

    name: str
    module: nn.Module
    attribute: str

    @property
    def tensor(self) -> Tensor:
        found: Tensor = getattr(self.module, self.attribute)
        return found

    def matches(self, pattern: str) -> bool:
        """Whether a shell pattern matches the name of the weight or of its layer."""
        layer, _, _ = self.name.rpartition(".")
        names = (self.name, layer)
        return any(fnmatch(name, pattern) for name in names)


@dataclass(frozen=True, eq=False)
class SharedWeight:
    """One weight with all its uses, and why it stays full precision ("" where it need not)."""

    uses: tuple[WeightUse, ...]
    kept: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        names = [use.name for use in self.uses]
        return tuple(names)

    @property
    def tensor(self) -> Tensor:
        return self.uses[0].tensor

    @property
    def target(self) -> Target:
        """The weight as a binarizer sees it."""
        first = self.uses[0]
        modules = [use.module for use in self.uses]
        users = tuple(modules)
        return Target(first.name, first.tensor, first.module, users)


def weights_of(model: nn.Module) -> Iterator[WeightUse]:
    """Every weight of a Linear, Conv1d, Conv2d and attention projection, in order of definition."""
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            yield WeightUse(f"{prefix}weight", module, "weight")
        elif isinstance(module, nn.MultiheadAttention):
            for attribute in _ATTENTION_WEIGHTS:
                if getattr(module, attribute, None) is not None:
                    yield WeightUse(f"{prefix}{attribute}", module, attribute)


def find_weights(model: nn.Module, keep: Sequence[str]) -> list[SharedWeight]:
    """The weights of a full-precision model, in order of their first use.

    keep: shell patterns of weights that stay full precision. Raises ValueError as binarize_ says.
    """
    found = list(weights_of(model))
    _check(model, found, keep)
    foreign = _foreign_places(model, found)
    by_place: dict[Hashable, list[WeightUse]] = {}
    for use in found:
        by_place.setdefault(place(use.tensor), []).append(use)
    weights = []
    for where, uses in by_place.items():
        why = "kept: tied to a module that is not converted" if where in foreign else ""
        if not why and any(_kept_by_name(use, keep) for use in uses):
            why = "kept"
        weights.append(SharedWeight(tuple(uses), why))
    return weights


def _kept_by_name(use: WeightUse, keep: Iterable[str]) -> bool:
    return any(use.matches(pattern) for pattern in keep)


def _check(model: nn.Module, found: Sequence[WeightUse], keep: Sequence[str]) -> None:
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no Linear, Conv1d, Conv2d or attention weight to convert"
        )
    for use in found:
        _check_use(use)
    for pattern in keep:
        if not any(use.matches(pattern) for use in found):
            names = ", ".join(use.name for use in found)
            raise ValueError(
                f"keep pattern {pattern!r} matches no weight; the weights are: {names}"
            )


def _check_use(use: WeightUse) -> None:
    if parametrize.is_parametrized(use.module, use.attribute):
        raise ValueError(
            f"{use.name} is already parametrized; binarize_ expects a full-precision model"
        )
    if use.module._parameters.get(use.attribute) is None:
        kind = type(use.module).__name__
        raise ValueError(
            f"{use.name} of a {kind} is computed, not a parameter "
            "(weight_norm, spectral_norm, pruning?); "
            "remove what computes it, or give the model without it"
        )
    if isinstance(use.tensor, nn.parameter.UninitializedParameter):
        raise ValueError(f"{use.name} has no shape yet; run one batch through the lazy model first")


def _foreign_places(model: nn.Module, found: Sequence[WeightUse]) -> set[Hashable]:
    """Places of parameters that a module outside `found` uses too."""
    ours = {(id(use.module), use.attribute) for use in found}
    places = set()
    for module in model.modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None and (id(module), attribute) not in ours:
                places.add(place(parameter))
    return places
