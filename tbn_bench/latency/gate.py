"""The gate before a timing: each variant must first match its own float64 reference."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench.install.extras import install_line

TOLERANCE = 1e-5  # max |y - ref| / max |ref|, float32 against float64 through a whole network


class ParityError(RuntimeError):
    """An implementation does not compute what its reference does; nothing was timed."""


@dataclass
class Variant:
    """One implementation of one network or operation.

    tolerance: of relative_error; wider only for lossy peers, which record theirs. foreign: somebody
    else's engine; where it computes something else, its row says so and the others are timed.
    """

    binarizer: str
    implementation: str
    call: Callable[[Tensor], Tensor]
    reference: nn.Module
    weight_bytes: int
    run_id: str | None = None
    unavailable: str | None = None
    tolerance: float = TOLERANCE
    extra: dict[str, Any] = field(default_factory=dict)
    foreign: bool = False

    @property
    def name(self) -> str:
        return f"{self.binarizer} [{self.implementation}]"


def first_line(error: BaseException) -> str:
    """The error's type and the beginning of its message, for a row's reason.

    Of a package that an extra installs: how to install it.
    """
    if isinstance(error, ModuleNotFoundError):
        line = install_line(error, "")
        if line:
            return line.strip()
    lines = str(error).strip().splitlines()
    said = lines[0][:200] if lines else ""
    return f"{type(error).__name__}: {said}"


def relative_error(got: Tensor, reference: Tensor) -> float:
    """max |got - reference| / max |reference|, in float64.

    Infinite for a wrong shape or a value that is not finite.
    """
    if got.shape != reference.shape or not torch.isfinite(got).all():
        return math.inf
    exact = reference.double()
    scale = exact.abs().max().item() or 1.0
    furthest = (got.double() - exact).abs().max()
    return furthest.item() / scale


def gate(variants: Iterable[Variant], x: Tensor) -> dict[str, float]:
    """Relative error of each variant on x: (B, ...).

    Raises ParityError naming the first variant beyond its tolerance; a foreign one becomes
    unavailable instead.
    """
    errors: dict[str, float] = {}
    expected: dict[int, Tensor] = {}
    for variant in variants:
        reference = id(variant.reference)
        with torch.no_grad():
            if reference not in expected:
                expected[reference] = variant.reference.double()(x.double())
            got = _output(variant, x)
            if got is None:
                continue
            error = relative_error(got, expected[reference])
        if error <= variant.tolerance:
            errors[variant.name] = error
            continue
        why = (
            f"{variant.name} differs from its float64 reference by {error:.2e} "
            f"(allowed {variant.tolerance:.0e}); not timed"
        )
        if not variant.foreign:
            raise ParityError(why)
        variant.unavailable = why
    return errors


def _output(variant: Variant, x: Tensor) -> Tensor | None:
    """None where a foreign engine raises, which becomes unavailable."""
    try:
        return variant.call(x)
    except Exception as error:
        if not variant.foreign:
            raise
        variant.unavailable = first_line(error)
        return None
