"""binarize_: full precision -> trainable binary, in place, on any nn.Module. Returns a plan: one line per weight."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tbn_bench import catalog, reuse
from tbn_bench.binarizers._base import Binarizer, Target

_MHA_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True)
class PlanRow:
    """One weight: N = numel weights, p copies of a tile of q = N / p bits; stored_bits = signs + 32-bit scales."""

    name: str
    shape: tuple[int, ...]
    numel: int
    p: int
    q: int
    weight_bits: int
    alpha_bits: int
    binarized: bool
    reuse: bool
    reason: str

    @property
    def stored_bits(self) -> int:
        return self.weight_bits + self.alpha_bits


@dataclass(frozen=True)
class Plan:
    """What binarize_ did. str(plan) is the table that `tbn-bench plan` prints."""

    rows: list[PlanRow]
    warnings: list[str] = field(default_factory=list)

    @property
    def weights(self) -> int:
        return sum(r.numel for r in self.rows)

    @property
    def stored_bits(self) -> int:
        return sum(r.stored_bits for r in self.rows)

    def __str__(self) -> str:
        head = ("weight", "shape", "N", "p", "q", "bits", "reuse", "why")
        body = [
            (r.name, "x".join(map(str, r.shape)), f"{r.numel:,}", str(r.p), f"{r.q:,}", f"{r.stored_bits:,}",
             "yes" if r.reuse else "-", r.reason)
            for r in self.rows
        ]  # fmt: skip
        total = ("total", "", f"{self.weights:,}", "", "", f"{self.stored_bits:,}", "", "")
        per_weight = f"{self.stored_bits / self.weights:.4f} bits per weight" if self.weights else "no weights"
        lines = [head, *body, (*total[:-1], per_weight)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        numeric = {2, 3, 4, 5}
        text = [
            "  ".join(c.rjust(w) if i in numeric else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
            for line in lines
        ]
        return "\n".join([t.rstrip() for t in text] + [f"warning: {w}" for w in self.warnings])


def weights_of(model: nn.Module) -> Iterable[tuple[str, nn.Module, str]]:
    """(qualified name, module, attribute) of every Linear, Conv1d, Conv2d and attention projection weight, in order."""
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            yield f"{prefix}weight", module, "weight"
        elif isinstance(module, nn.MultiheadAttention):
            for attribute in _MHA_WEIGHTS:
                if getattr(module, attribute, None) is not None:
                    yield f"{prefix}{attribute}", module, attribute


def binarize_(model: nn.Module, spec: str | Binarizer, keep: Sequence[str] = ()) -> Plan:
    """Parametrizes the weights of `model` in place by the binarizer `spec`, e.g. "tbn(p=4)".

    keep: names (shell patterns such as "fc.*") of weights that stay full precision. Tied weights are converted once; one tied
    to a module that is not converted (an embedding, say) is kept. Afterwards layer.weight is the binary weight and
    layer.parametrizations.weight.original the latent one. Raises ValueError, before anything is changed, where a p does not
    divide a weight, a pattern matches nothing, the model is already converted, or it has no weight to convert.
    """
    binarizer = catalog.build("binarizers", spec) if isinstance(spec, str) else spec
    found = list(weights_of(model))
    _check(model, found, keep)
    foreign = _foreign(model, found)
    groups: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for entry in found:
        groups.setdefault(id(getattr(entry[1], entry[2])), []).append(entry)
    kept = {key: why for key, entries in groups.items() if (why := _kept(entries, keep, key in foreign))}
    free = [key for key in groups if key not in kept]
    targets = [Target(groups[key][0][0], getattr(*groups[key][0][1:])) for key in free]
    decisions = dict(zip(free, binarizer.decide(targets), strict=True))
    rows = []
    for key, entries in groups.items():
        weight = getattr(entries[0][1], entries[0][2])
        if key in kept or decisions[key].parametrization is None:
            rows.append(_full_row(entries, weight, kept.get(key) or decisions[key].reason))
        else:
            rows.append(_binary_row(entries, weight, decisions[key].parametrization, decisions[key].reason))
    return Plan(rows, _warnings(rows))


def _check(model: nn.Module, found: list[tuple[str, nn.Module, str]], keep: Sequence[str]) -> None:
    if not found:
        raise ValueError(f"{type(model).__name__} has no Linear, Conv1d, Conv2d or attention weight to convert")
    names = [name for name, _, _ in found]
    for name, module, attribute in found:
        if parametrize.is_parametrized(module, attribute):
            raise ValueError(f"{name} is already parametrized; binarize_ expects a full-precision model")
        if isinstance(getattr(module, attribute), nn.parameter.UninitializedParameter):
            raise ValueError(f"{name} has no shape yet; run one batch through the lazy model first")
    for pattern in keep:
        if not any(_matches(name, pattern) for name in names):
            raise ValueError(f"keep pattern {pattern!r} matches no weight; the weights are: {', '.join(names)}")


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or fnmatch(name.rpartition(".")[0], pattern)


def _foreign(model: nn.Module, found: list[tuple[str, nn.Module, str]]) -> set[int]:
    """ids of parameters that a module outside `found` uses too."""
    ours = {(id(module), attribute) for _, module, attribute in found}
    return {
        id(parameter)
        for module in model.modules()
        for attribute, parameter in module._parameters.items()
        if parameter is not None and (id(module), attribute) not in ours
    }


def _kept(entries: list[tuple[str, nn.Module, str]], keep: Sequence[str], foreign: bool) -> str:
    if foreign:
        return "kept: tied to a module that is not converted"
    if any(_matches(name, pattern) for name, _, _ in entries for pattern in keep):
        return "kept"
    return ""


def _label(entries: list[tuple[str, nn.Module, str]]) -> str:
    return entries[0][0] + "".join(f" = {name}" for name, _, _ in entries[1:])


def _full_row(entries: list[tuple[str, nn.Module, str]], weight: Tensor, reason: str) -> PlanRow:
    n = weight.numel()
    return PlanRow(_label(entries), tuple(weight.shape), n, 1, n, 32 * n, 0, False, False, reason)


def _binary_row(entries: list[tuple[str, nn.Module, str]], weight: Tensor, method: nn.Module, reason: str) -> PlanRow:
    n, shape = weight.numel(), tuple(weight.shape)
    swapped = []
    for _, module, attribute in entries:
        swap = attribute == "weight" and hasattr(method, "gradient") and reuse.reusable(module, method.p)
        if swap:
            reuse.reuse_(module)
        swapped.append(swap)
        parametrize.register_parametrization(module, attribute, method)
    alpha_bits = 32 * method.num_scales(weight)
    return PlanRow(_label(entries), shape, n, method.p, n // method.p, n // method.p, alpha_bits, True, all(swapped), reason)


def _warnings(rows: list[PlanRow]) -> list[str]:
    """A trap of the method: a last layer tiled with one alpha gives classes identical weight rows."""
    last = rows[-1]
    repeats = last.binarized and last.p > 1 and last.alpha_bits == 32
    if not repeats or last.q % max(1, last.numel // last.shape[0]):
        return []
    rows_per_tile = last.shape[0] // last.p
    return [
        f"{last.name} is tiled with one alpha: outputs c and c + {rows_per_tile} share one weight row and cannot be told apart; "
        "use alpha='tile', keep it, or raise min_layer_size"
    ]
