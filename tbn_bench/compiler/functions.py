"""Activation functions that both back ends run, apart from ReLU and clamps: one row for each.

A new function takes a row here, and on CPUs a loop with a row of kKinds in native/src/ops.inc.
Microcontrollers compute with bytes, so there the formula alone gives a table of 256 values. Rules,
lowering, the arena (the op works in place) and the tests read this table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Function:
    """y = formula(x), number by number.

    name: of the op in the library. torch: the modules, functions and operators that compute it.
    formula: the same by other operations, for x of any type; the tests compare. options: torch's
    arguments, with the values that the op computes ({"inplace": False} for a function that may
    change its argument). otherwise: the words for other values.
    """

    name: str
    torch: tuple[Any, ...]
    formula: Callable[[Tensor], Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    otherwise: str = ""


def _gelu(x: Tensor) -> Tensor:
    """x Phi(x), Phi the distribution function of the normal distribution."""
    share: Tensor = torch.special.ndtr(x)
    return x * share


FUNCTIONS = (
    Function(
        "gelu",
        torch=(nn.GELU, F.gelu, torch.ops.aten.gelu.default),
        formula=_gelu,
        options={"approximate": "none"},
        otherwise="GELU by an approximation",
    ),
)
