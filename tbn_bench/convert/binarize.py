"""binarize_: full precision -> trainable binary, in place, on any nn.Module. Returns a plan."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tbn_bench import catalog
from tbn_bench.binarizers._base import ActivationBinarizer, Binarizer, Decision, WeightBinarizer
from tbn_bench.convert.advice import warnings_for
from tbn_bench.convert.plan import Plan, PlanRow
from tbn_bench.convert.weights import SharedWeight, WeightUse, find_weights
from tbn_bench.layers import binary_input, reuse
from tbn_bench.layers.mixed_copies import enlarge_

FULL_PRECISION_BITS = 32  # of an input that nothing binarizes


def binarize_(model: nn.Module, spec: str | Binarizer, keep: Sequence[str] = ()) -> Plan:
    """Parametrizes the weights of `model` in place by the binarizer `spec`, e.g. "tbn(p=4)".

    keep: names (shell patterns such as "fc.*") of weights that stay full precision. Tied weights
    are converted once; a weight tied to a module that is not converted (an embedding, say) is kept.

    Afterwards layer.weight is the binary weight and layer.parametrizations.weight.original the
    latent one. Parameters that a method adds are frozen where the weight is frozen.

    Raises ValueError, before anything is changed, where a p does not divide a weight, a pattern
    matches nothing, the model is already converted, it has no weight to convert, or a weight is
    computed from something else. After any other exception the model is what it was before.
    """
    binarizer = _binarizer(spec)
    weights = find_weights(model, keep)
    free = [weight for weight in weights if not weight.kept]
    targets = [weight.target for weight in free]
    decided = binarizer.decide(targets)
    decisions = dict(zip(free, decided, strict=True))
    inputs = [binarizer.activation(target) for target in targets]
    activations = dict(zip(free, inputs, strict=True))
    rows = []
    with _all_or_nothing(model):
        for weight in weights:
            activation = activations.get(weight)
            activation_bits = _binarize_inputs(weight, activation)
            kept = Decision(None, weight.kept)
            decision = decisions.get(weight, kept)
            row = _convert(weight, decision, activation_bits)
            rows.append(row)
        binary_input.call_layers_(model)
        warnings = warnings_for(model, rows)
        return Plan(rows, warnings)


def binarize_inputs_(model: nn.Module, spec: str | Binarizer, keep: Sequence[str] = ()) -> None:
    """Gives a full-precision model the input binarizers of binarize_; its weights stay as they are.

    Raises ValueError as binarize_ does.
    """
    binarizer = _binarizer(spec)
    weights = find_weights(model, keep)
    with _all_or_nothing(model):
        for weight in weights:
            if not weight.kept:
                _binarize_inputs(weight, binarizer.activation(weight.target))
        binary_input.call_layers_(model)


def _binarizer(spec: str | Binarizer) -> Binarizer:
    if not isinstance(spec, str):
        return spec
    built: Binarizer = catalog.build("binarizers", spec)
    return built


@contextmanager
def _all_or_nothing(model: nn.Module) -> Iterator[None]:
    """Restores every module of the model where an exception comes out of the block."""
    modules = [(module, type(module), _contents(module)) for module in model.modules()]
    parameters = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    except BaseException:
        for module, kind, contents in modules:
            module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(contents)
        for parameter, learned in parameters:
            parameter.requires_grad_(learned)
        raise


def _contents(module: nn.Module) -> dict[str, Any]:
    """A module's attributes; dictionaries (parameters, buffers, modules, hooks) as copies."""
    contents = {}
    for name, value in vars(module).items():
        if isinstance(value, dict):
            value = copy.copy(value)
        contents[name] = value
    return contents


def _binarize_inputs(weight: SharedWeight, activation: ActivationBinarizer | None) -> int:
    """Puts an activation binarizer before each layer that uses the weight.

    Returns the bits of their input.
    """
    if activation is None:
        return FULL_PRECISION_BITS
    for i, use in enumerate(weight.uses):
        module = use.module
        own = activation if i == 0 else copy.deepcopy(activation)
        _settle(own, module, use.tensor)
        binary_input.binarize_input_(module, own)
    return activation.bits


def _settle(part: nn.Module, module: nn.Module, latent: Tensor) -> None:
    """Gives a new part of a module its mode and device; freezes it where the weight is frozen."""
    part.train(module.training)
    if not latent.is_meta:
        part.to(latent.device)
    if not latent.requires_grad:
        part.requires_grad_(False)


def _convert(weight: SharedWeight, decision: Decision, activation_bits: int) -> PlanRow:
    method = decision.parametrization
    if method is None:
        return _full_precision_row(weight, decision.reason, activation_bits)
    form = method.form(weight.tensor)
    _settle(method, weight.uses[0].module, weight.tensor)
    reused = [_parametrize(use, method, form.reach) for use in weight.uses]
    return PlanRow(
        names=weight.names,
        shape=form.shape,
        numel=form.numel,
        p=form.p,
        q=form.q,
        weight_bits=form.sizes["tile"],
        alpha_bits=form.sizes["alphas"] + form.sizes.get("offsets", 0),
        binarized=True,
        reuse=all(reused),
        reason=decision.reason,
        codebook_bits=form.sizes.get("codebook", 0),
        activation_bits=activation_bits,
        code=form.code,
        copies=form.kind,
        rank=form.rank,
    )


def _full_precision_row(weight: SharedWeight, reason: str, activation_bits: int) -> PlanRow:
    tensor = weight.tensor
    numel = tensor.numel()
    return PlanRow(
        names=weight.names,
        shape=tuple(tensor.shape),
        numel=numel,
        p=1,
        q=numel,
        weight_bits=8 * tensor.element_size() * numel,
        alpha_bits=0,
        binarized=False,
        reuse=False,
        reason=reason,
        activation_bits=activation_bits,
    )


def _parametrize(use: WeightUse, method: WeightBinarizer, reach: int) -> bool:
    """Puts the method over one use of a weight. Returns whether the layer reuses its tile.

    reach: of shifted copies, by which the layer's kernel grows on every side; else 0.
    """
    module = use.module
    reuses = use.attribute == "weight" and reuse.reusable(module, method)
    if reuses:
        reuse.reuse_(module)
    grows = bool(reach)
    if grows:
        enlarge_(module, reach)
    # unsafe: torch would refuse a weight that is larger than the latent one
    parametrize.register_parametrization(module, use.attribute, method, unsafe=grows)
    chains = module.get_submodule("parametrizations")
    chains.train(module.training)
    if not method.learns_latent:
        latent = chains.get_parameter(f"{use.attribute}.original")
        latent.requires_grad_(False)
    return reuses
