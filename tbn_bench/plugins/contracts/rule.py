"""What a contract is made of."""

from collections.abc import Callable
from dataclasses import dataclass


class Broken(AssertionError):
    """An entry breaks its contract: what was expected, what was got, what to do."""


@dataclass(frozen=True)
class Rule:
    """One promise of a shelf. check(call) raises Broken; call: an entry with options."""

    claim: str
    check: Callable[[str], None]


def require(holds: bool, said: str) -> None:
    """Raises Broken unless it holds."""
    if not holds:
        raise Broken(said)
