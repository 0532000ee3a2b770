"""What every weight binarizer promises, checked on one weight in milliseconds.

    returns     forward gives a tensor of the weight's shape, signs and scales the stored sizes
    stored      forward equals the weight that signs, scales, offsets and codebook describe
    gradient    every latent tensor gets a gradient that is finite and not 0 everywhere
    moves       the stored signs change where the weight changes its sign
    tile        where `reuse`, training_tile holds the stored signs, or factors() the weight

Training checks each layer before its first step, and `tbn-bench check` each method of a file.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tbn_bench.binarizers._base import WeightBinarizer
from tbn_bench.format.form import Form

RTOL = 1e-4  # of the largest stored weight
_KNOWN_VALUES = {"sign": (-1, 1), "low_rank": (-1, 1), "codebook": (-1, 1), "ternary": (-1, 0, 1)}


@dataclass
class Case:
    """A method in evaluation, and what it gives for one latent weight."""

    method: WeightBinarizer
    weight: Tensor
    form: Form
    out: Tensor
    signs: Tensor
    scales: Tensor


def fault(method: WeightBinarizer, latent: Tensor) -> str:
    """The first promise that a method breaks on a latent weight, with advice; '' where none.

    latent: (C_out, ...). Neither the method, nor the weight, nor the random state is changed.
    """
    weight = latent.detach().clone()
    own = copy.deepcopy(method).eval()
    devices = [weight.device] if weight.is_cuda else []
    with torch.random.fork_rng(devices):
        try:
            return _first(own, weight)
        except NotImplementedError:
            return f"{_unwritten(own) or 'a method'} must be written; see WeightBinarizer"
        except (ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
            said = " ".join(str(error).split())
            return f"its own code failed with {type(error).__name__}: {said}"


def _first(method: WeightBinarizer, weight: Tensor) -> str:
    """The first fault that a check finds."""
    with torch.no_grad():
        found = method(weight), method.signs(weight), method.scales(weight)
        if said := _count(method, weight, found[2]):
            return said
        case = Case(method, weight, method.form(weight), *found)
        for check in (_returns, _values, _stored, _moves, _tile):
            if said := check(case):
                return said
    return _gradient(case)


def _unwritten(method: WeightBinarizer) -> str:
    """The abstract methods that a class has not overridden."""
    kind = type(method)
    names = ("forward", "signs", "scales", "num_scales")
    missing = [name for name in names if getattr(kind, name) is getattr(WeightBinarizer, name)]
    return ", ".join(missing)


def _count(method: WeightBinarizer, weight: Tensor, scales: Tensor) -> str:
    """Does num_scales count what scales gives? The form, which is made of it, cannot say so."""
    if type(method).form is not WeightBinarizer.form:
        return ""

    said = method.num_scales(weight)
    if not isinstance(said, int):
        return f"num_scales(weight) must return an int, got {type(said).__name__}"

    if not isinstance(scales, Tensor) or scales.ndim != 1 or len(scales) == said:
        return ""
    return (
        f"num_scales(weight) is {said}, but scales(weight) has shape {tuple(scales.shape)}; "
        "num_scales must be the number of scales: 1 for a layer, weight.shape[0] for one per row"
    )


def _returns(case: Case) -> str:
    form = case.form
    stored = form.q
    if form.code == "low_rank":
        stored = sum(form.factor_sizes)
    found = {
        "forward(weight)": (case.out, form.weight_shape),
        "signs(weight)": (case.signs, (stored,)),
        "scales(weight)": (case.scales, (form.scales,)),
    }
    for call, (value, shape) in found.items():
        if not isinstance(value, Tensor):
            return f"{call} must return a tensor of shape {shape}, got {type(value).__name__}"

        if tuple(value.shape) != shape:
            return f"{call} must have shape {shape}, got {tuple(value.shape)}"
    return ""


def _values(case: Case) -> str:
    known = _KNOWN_VALUES[case.form.code]
    signs = case.signs
    wanted = torch.tensor(known, dtype=signs.dtype, device=signs.device)
    others = signs[~torch.isin(signs, wanted)]
    if not len(others):
        return ""

    listed = ", ".join(map(str, known))
    return f"signs(weight) must hold {listed} alone, got {float(others[0]):g}"


def _stored(case: Case) -> str:
    said = case.form.dense(case.method.stored(case.weight)).reshape(-1)
    given = case.out.float().cpu().numpy().reshape(-1)
    limit = RTOL * float(np.abs(said).max(initial=0))
    differs = ~(np.abs(given - said) <= limit)
    if not differs.any():
        return ""

    first = int(differs.argmax())
    count = int(differs.sum())
    return (
        f"signs() disagrees with forward(): {count:,} of {len(said):,} weights differ, "
        f"weight {first} is {given[first]:g} in forward and {said[first]:g} as stored; "
        "forward must return what signs, scales, num_scales and form describe"
    )


def _gradient(case: Case) -> str:
    weight = case.weight
    if not weight.any():
        return ""  # zeros have no sign to learn from; the model's choice, not the method's

    training = copy.deepcopy(case.method).train()
    own = weight.clone().requires_grad_()
    out = training(own)
    if not out.requires_grad:
        return (
            "detached gradient: autograd sees no way from forward's result to the weight; "
            "use e.g. clip_ste for the sign"
        )
    places = torch.arange(out.numel(), dtype=out.dtype, device=out.device)
    out.backward(torch.cos(places).reshape(out.shape))
    for name, latent in _latents(training, own):
        found = gradient_fault(latent.grad, training.frozen)
        if found:
            return f"{found} ({name})"
    return ""


def gradient_fault(gradient: Tensor | None, frozen: bool) -> str:
    """What is wrong with the gradient of a latent tensor, or ''. frozen: it may be 0."""
    if frozen:
        return ""

    if gradient is None:
        return "detached gradient: none reaches the latent tensor; use e.g. clip_ste for the sign"

    if not torch.isfinite(gradient).all():
        return "its gradient is not finite; look for a division by 0 or the root of 0 in forward"

    if not gradient.any():
        return (
            "weight that never changes: its gradient is 0 everywhere; let gradients through the "
            "sign (clip_ste), or set `frozen = True` if it is not to learn"
        )
    return ""


def _latents(method: WeightBinarizer, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(name, latent tensor) of what learns."""
    if method.learns_latent:
        yield "the weight", weight
    for name in method.latents:
        yield name, getattr(method, name)


def _moves(case: Case) -> str:
    method = case.method
    if method.frozen or not method.learns_latent or not case.weight.any():
        return ""

    if not torch.equal(case.signs, method.signs(-case.weight)):
        return ""
    return (
        "weight that never changes: signs(weight) equals signs(-weight); compute the signs from "
        "the weight, or set `frozen = True` if it is not to learn"
    )


def _tile(case: Case) -> str:
    method = case.method
    if not method.reuse:
        return ""

    if method.factored:
        first, second = method.factors()
        given = second.flatten(1) @ first.flatten(1)
        said = case.out
        what = "factors()"
    else:
        given = method.training_tile(case.weight)
        said = case.signs
        what = "training_tile()"
    limit = RTOL * float(said.abs().max())
    if given.numel() == said.numel():
        differences = given.reshape(-1) - said.reshape(-1)
        if bool((differences.abs() <= limit).all()):
            return ""
    return f"{what} disagrees with what is stored: the layer would train by another weight"
