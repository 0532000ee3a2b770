"""gate -> warm up -> time -> LatencyRecord.

timing states the rules, peers has the competitors, networks and ops have the cases.
"""

import sys
from types import ModuleType
from typing import Any


class _Called(ModuleType):
    """tb.latency is this package and a function, because Python gives both the same name."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        """As latency.given.latency."""
        from tbn_bench.latency.given import latency

        return latency(*args, **settings)


sys.modules[__name__].__class__ = _Called
