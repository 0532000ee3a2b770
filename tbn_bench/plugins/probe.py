"""One small weight through a binarizer: are its answers of the right kind and shape?"""

from collections.abc import Callable
from typing import Any

SHAPE = (12, 18)


def binarizer_fault(made: Callable[..., Any]) -> str:
    """What is wrong with the answers of a binarizer with its default options, or ''.

    A ValueError is the method's own refusal of so small a weight, and no fault.
    """
    import torch

    from tbn_bench.binarizers import _contract
    from tbn_bench.binarizers._base import Decision, Target

    with torch.random.fork_rng([]):
        layer = torch.nn.Linear(SHAPE[1], SHAPE[0])
        target = Target("probe", layer.weight, layer, (layer,))
        try:
            decisions = made().decide([target])
        except ValueError:
            return ""
        except (TypeError, AttributeError, RuntimeError, LookupError) as error:
            return f"layer() failed with {type(error).__name__}: {error}"
        if not isinstance(decisions, list) or len(decisions) != 1:
            return f"decide() must return a list with a Decision per target, got {decisions!r}"
        decision = decisions[0]
        if not isinstance(decision, Decision):
            kind = type(decision).__name__
            return f"layer() must return Decision(parametrization or None, reason), got {kind}"
        return _parametrization_fault(decision, layer.weight, _contract.fault)


def _parametrization_fault(decision: Any, weight: Any, fault: Callable[..., str]) -> str:
    from tbn_bench.binarizers._base import WeightBinarizer

    method = decision.parametrization
    if method is None:
        return ""
    kind = type(method).__name__
    if not isinstance(method, WeightBinarizer):
        return f"Decision's parametrization must be a WeightBinarizer or None, got {kind}"
    found = fault(method, weight)
    return f"{kind}, on a weight of {SHAPE[0]} x {SHAPE[1]}: {found}" if found else ""
