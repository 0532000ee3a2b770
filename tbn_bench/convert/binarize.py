"""binarize_: full precision -> trainable binary, in place, on any nn.Module. Returns a plan: one line per weight."""

import copy
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tbn_bench import catalog
from tbn_bench.binarizers._base import ActivationBinarizer, Binarizer, Target, WeightBinarizer
from tbn_bench.derived import place
from tbn_bench.layers import binary_input, reuse
from tbn_bench.layers.mixed_copies import enlarge_

_MHA_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True)
class PlanRow:
    """One weight: N = numel weights, p copies of a tile of q = N / p values; stored_bits = values + scales and offsets + codebook.

    activation_bits: of the input that its layer multiplies by. rank: of a product of two factors (then p = 1), else 0.
    """

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
    codebook_bits: int = 0
    activation_bits: int = 32
    code: str = "sign"
    copies: str = "aligned"
    rank: int = 0

    @property
    def stored_bits(self) -> int:
        return self.weight_bits + self.alpha_bits + self.codebook_bits


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

    @property
    def track(self) -> str:
        """What may be compared: "W32A32", "W1A32" (weights alone), "W1A1", ... by the fewest bits of any activation."""
        activations = min((r.activation_bits for r in self.rows), default=32)
        return f"W{1 if any(r.binarized for r in self.rows) else 32}A{activations}"

    def __str__(self) -> str:
        head = ("weight", "shape", "N", "p", "q", "bits", "input", "reuse", "why")
        body = [
            (r.name, "x".join(map(str, r.shape)), f"{r.numel:,}", str(r.p), f"{r.q:,}", f"{r.stored_bits:,}",
             f"{r.activation_bits} bit", "yes" if r.reuse else "-", r.reason)
            for r in self.rows
        ]  # fmt: skip
        total = ("total", "", f"{self.weights:,}", "", "", f"{self.stored_bits:,}", "", "", "")
        per_weight = (
            f"{self.stored_bits / self.weights:.4f} bits per weight"
            if self.weights
            else "no weights"
        )
        lines = [head, *body, (*total[:-1], per_weight)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        numeric = {2, 3, 4, 5, 6}
        text = [
            "  ".join(
                c.rjust(w) if i in numeric else c.ljust(w)
                for i, (c, w) in enumerate(zip(line, widths, strict=True))
            )
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
    divide a weight, a pattern matches nothing, the model is already converted, it has no weight to convert, or one that is computed from
    something else. Whatever else goes wrong, the model is put back to what it was. What a method adds is frozen where the weight is.
    """
    binarizer = catalog.build("binarizers", spec) if isinstance(spec, str) else spec
    groups, kept = _groups(model, keep)
    free = {key: _target(entries) for key, entries in groups.items() if key not in kept}
    decisions = dict(zip(free, binarizer.decide(list(free.values())), strict=True))
    activations = {key: binarizer.activation(target) for key, target in free.items()}
    rows = []
    with _all_or_nothing(model):
        for key, entries in groups.items():
            bits = _binarize_inputs(entries, activations.get(key))
            if key in kept or decisions[key].parametrization is None:
                rows.append(_full_row(entries, kept.get(key) or decisions[key].reason, bits))
            else:
                rows.append(
                    _binary_row(
                        entries, decisions[key].parametrization, decisions[key].reason, bits
                    )
                )
        binary_input.call_layers_(model)
        return Plan(rows, _warnings(model, rows))


def binarize_inputs_(model: nn.Module, spec: str, keep: Sequence[str] = ()) -> None:
    """Gives the layers of a full-precision model the input binarizers that binarize_ would; weights stay as they are."""
    binarizer = catalog.build("binarizers", spec)
    groups, kept = _groups(model, keep)
    with _all_or_nothing(model):
        for key, entries in groups.items():
            if key not in kept:
                _binarize_inputs(entries, binarizer.activation(_target(entries)))
        binary_input.call_layers_(model)


@contextmanager
def _all_or_nothing(model: nn.Module) -> Iterator[None]:
    """Puts every module of a model back to what it was where an exception comes out."""
    modules = [(module, type(module), _contents(module)) for module in model.modules()]
    learns = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    except BaseException:
        for module, kind, contents in modules:
            module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(contents)
        for parameter, was in learns:
            parameter.requires_grad_(was)
        raise


def _contents(module: nn.Module) -> dict[str, Any]:
    """A module's attributes; its own dictionaries (parameters, buffers, modules, hooks) as copies."""
    return {
        name: copy.copy(value) if isinstance(value, dict) else value
        for name, value in vars(module).items()
    }


def _groups(
    model: nn.Module, keep: Sequence[str]
) -> tuple[dict[Hashable, list[tuple[str, nn.Module, str]]], dict[Hashable, str]]:
    """(the users of each weight, the weights that are kept and why). Raises ValueError as binarize_ says."""
    found = list(weights_of(model))
    _check(model, found, keep)
    foreign = _foreign(model, found)
    groups: dict[Hashable, list[tuple[str, nn.Module, str]]] = {}
    for entry in found:
        groups.setdefault(place(getattr(entry[1], entry[2])), []).append(entry)
    return groups, {
        key: why for key, entries in groups.items() if (why := _kept(entries, keep, key in foreign))
    }


def _target(entries: list[tuple[str, nn.Module, str]]) -> Target:
    name, module, attribute = entries[0]
    return Target(name, getattr(module, attribute), module, tuple(user for _, user, _ in entries))


def _check(model: nn.Module, found: list[tuple[str, nn.Module, str]], keep: Sequence[str]) -> None:
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no Linear, Conv1d, Conv2d or attention weight to convert"
        )
    names = [name for name, _, _ in found]
    for name, module, attribute in found:
        if parametrize.is_parametrized(module, attribute):
            raise ValueError(
                f"{name} is already parametrized; binarize_ expects a full-precision model"
            )
        if module._parameters.get(attribute) is None:
            raise ValueError(
                f"{name} of a {type(module).__name__} is computed, not a parameter (weight_norm, spectral_norm, pruning?); "
                "remove what computes it, or give the model without it"
            )
        if isinstance(getattr(module, attribute), nn.parameter.UninitializedParameter):
            raise ValueError(f"{name} has no shape yet; run one batch through the lazy model first")
    for pattern in keep:
        if not any(_matches(name, pattern) for name in names):
            raise ValueError(
                f"keep pattern {pattern!r} matches no weight; the weights are: {', '.join(names)}"
            )


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or fnmatch(name.rpartition(".")[0], pattern)


def _foreign(model: nn.Module, found: list[tuple[str, nn.Module, str]]) -> set[Hashable]:
    """Places of parameters that a module outside `found` uses too."""
    ours = {(id(module), attribute) for _, module, attribute in found}
    return {
        place(parameter)
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


def _binarize_inputs(
    entries: list[tuple[str, nn.Module, str]], activation: ActivationBinarizer | None
) -> int:
    """Puts an activation binarizer before every layer that uses a weight; returns the bits of their input."""
    if activation is None:
        return 32
    for i, (_, module, attribute) in enumerate(entries):
        own = activation if i == 0 else copy.deepcopy(activation)
        _settle(own, module, getattr(module, attribute))
        binary_input.binarize_input_(module, own)
    return activation.bits


def _settle(part: nn.Module, module: nn.Module, latent: Tensor) -> None:
    """A new part of a module: in its mode, on its device, and frozen where its weight is."""
    part.train(module.training)
    if not latent.is_meta:
        part.to(latent.device)
    if not latent.requires_grad:
        part.requires_grad_(False)


def _full_row(
    entries: list[tuple[str, nn.Module, str]], reason: str, activation_bits: int
) -> PlanRow:
    shape = tuple(getattr(entries[0][1], entries[0][2]).shape)
    n, size = prod(shape), 8 * getattr(entries[0][1], entries[0][2]).element_size()
    return PlanRow(
        _label(entries),
        shape,
        n,
        1,
        n,
        size * n,
        0,
        False,
        False,
        reason,
        activation_bits=activation_bits,
    )


def _binary_row(
    entries: list[tuple[str, nn.Module, str]],
    method: WeightBinarizer,
    reason: str,
    activation_bits: int,
) -> PlanRow:
    weight = getattr(entries[0][1], entries[0][2])
    form = method.form(weight)
    _settle(method, entries[0][1], weight)
    swapped = []
    for _, module, attribute in entries:
        swap = attribute == "weight" and reuse.reusable(module, method)
        if swap:
            reuse.reuse_(module)
        swapped.append(swap)
        if form.weight_shape != form.shape:
            enlarge_(module, form.copies.reach)
        # unsafe: the weight of shifted copies is larger than the latent one
        parametrize.register_parametrization(
            module, attribute, method, unsafe=form.weight_shape != form.shape
        )
        module.parametrizations.train(module.training)
        if not method.learns_latent:
            module.parametrizations[attribute].original.requires_grad_(False)
    sizes = form.sizes
    return PlanRow(
        _label(entries), form.shape, form.numel, form.p, form.q, sizes["tile"], sizes["alphas"] + sizes.get("offsets", 0), True,
        all(swapped), reason, sizes.get("codebook", 0), activation_bits, form.code, form.kind,
        form.rank,
    )  # fmt: skip


def _warnings(model: nn.Module, rows: list[PlanRow]) -> list[str]:
    """The traps of row-aligned copies: classes with identical weight rows, and scales that a normalisation cancels; what is not in rows."""
    return [*_tied_classes(rows[-1]), *_cancelled_scales(model, rows), *_left_out(model, rows)]


def _left_out(model: nn.Module, rows: list[PlanRow]) -> list[str]:
    """Matrices that belong to no Linear, Conv1d, Conv2d or attention are never converted: said where they are over 1 % of all."""
    found = dict(model.named_parameters(remove_duplicate=False))
    ours = {id(found.get(name)) for row in rows for name in row.name.split(" = ")}
    others = {
        id(p): p.numel()
        for name, p in found.items()
        if id(p) not in ours
        and ".parametrizations." not in f".{name}"
        and sum(n > 1 for n in p.shape) > 1
    }
    count = sum(others.values())
    if not any(r.binarized for r in rows) or count <= 0.01 * (count + sum(r.numel for r in rows)):
        return []
    return [
        f"{count:,} values in other parameters stay full precision: raw ones, embeddings, recurrent, transposed and 3-d convolution layers"
    ]


def _tied_classes(last: PlanRow) -> list[str]:
    """A last layer tiled with one alpha gives classes identical weight rows."""
    repeats = last.binarized and last.p > 1 and last.alpha_bits == 32 and last.copies == "aligned"
    if not repeats or last.q % max(1, last.numel // last.shape[0]):
        return []
    rows_per_tile = last.shape[0] // last.p
    return [
        f"{last.name} is tiled with one alpha: outputs c and c + {rows_per_tile} share one weight row and cannot be told apart; "
        "use alpha='tile', keep it, or raise min_layer_size"
    ]


def _cancelled_scales(model: nn.Module, rows: list[PlanRow]) -> list[str]:
    """Aligned copies right before a normalisation of each channel: it removes the alphas, and the copies are the same features."""
    behind = _normalised(model)
    found = [
        r.name
        for r in rows
        if r.binarized
        and r.p > 1
        and r.copies == "aligned"
        and not r.shape[0] % r.p
        and r.name.rpartition(".")[0] in behind
    ]
    if not found:
        return []
    named = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    return [
        f"{named}: a normalisation of each channel right behind p aligned copies cancels their alphas, so the layer computes what "
        "repeated_filters does, C_out / p features and their copies; copies='shifted', 'hadamard' or 'columns' make different features of the same bits"
    ]


def _normalised(model: nn.Module) -> set[str]:
    """Names of layers whose next module with parameters, in order of definition, is a batch or instance norm of their outputs."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
    layers = [
        (n, m)
        for n, m in model.named_modules()
        if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, *norms, nn.LayerNorm))
    ]
    return {
        name
        for (name, layer), (_, after) in zip(layers, layers[1:], strict=False)
        if isinstance(after, norms)
        and after.num_features
        == getattr(layer, "out_features", getattr(layer, "out_channels", None))
    }
