"""A network given in Python: what it is, and whether it fits its data."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench.experiment import identity
from tbn_bench.experiment.given_data import Held
from tbn_bench.experiment.random_state import random_state, restore_random_state

_OFFERED = ("num_classes", "in_shape")


def of_network(model: nn.Module) -> Held:
    """A network; each run trains a copy of it, on the CPU at first."""
    kept = copy.deepcopy(model).cpu()

    def make(**_: Any) -> nn.Module:
        return copy.deepcopy(kept)

    return Held("models", identity.of_model(model), make)


def of_function(function: Callable[..., nn.Module], data: Any, seed: int) -> Held:
    """A function or class that makes networks; it gets num_classes and in_shape if it has them."""
    known = _parameters(function)

    def make(**offered: Any) -> nn.Module:
        given = {}
        for name in _OFFERED:
            if name in known:
                given[name] = offered.get(name)
        return function(**given)

    kept = random_state()
    torch.manual_seed(seed)
    try:
        network = make(num_classes=getattr(data, "num_classes", None), in_shape=data.in_shape)
    except TypeError as error:
        raise ValueError(
            f"model: {identity.type_name(function)} cannot make a network ({error}); it is called "
            "with num_classes and in_shape where it has them, and must have defaults for the rest"
        ) from error
    finally:
        restore_random_state(kept)
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"model: {identity.type_name(function)} must return a torch.nn.Module, "
            f"got {type(network).__name__}"
        )
    found = {
        "type": identity.type_name(function),
        "architecture": identity.of_architecture(network),
        "source": identity.of_source(function),
    }
    return Held("models", found, make)


def _parameters(function: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a builtin without a signature
        return set()


def classes_of(model: nn.Module, x: Tensor) -> int:
    """The number of outputs for each sample. x: (B, *in_shape).

    Raises ValueError where the network cannot take x, or its output is not (B, classes).
    """
    outputs = _outputs(model, x)
    name = type(model).__name__
    if not isinstance(outputs, Tensor):
        raise ValueError(
            f"model: {name} must return one tensor (B, classes), got {type(outputs).__name__}"
        )
    if outputs.ndim != 2 or len(outputs) != len(x):
        raise ValueError(
            f"model: {name} must return (B, classes) for inputs {tuple(x.shape)}, got shape "
            f"{tuple(outputs.shape)}; task='...' names another task than classification"
        )
    return outputs.shape[1]


def _outputs(model: nn.Module, x: Tensor) -> Any:
    network = copy.deepcopy(model).cpu().eval()
    try:
        with torch.no_grad():
            return network(x)
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise ValueError(
            f"model: {type(model).__name__} cannot take a batch of the data, shape "
            f"{tuple(x.shape)}, {x.dtype}: {type(error).__name__}: {said}"
        ) from error
