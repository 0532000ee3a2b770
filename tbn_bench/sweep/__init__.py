"""A sweep file becomes checked configurations, then runs."""

import sys
from types import ModuleType
from typing import Any


class _Called(ModuleType):
    """tb.sweep is this package and a function, because Python gives both the same name."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        """As sweep.python.sweep."""
        from tbn_bench.sweep.python import sweep

        return sweep(*args, **settings)


sys.modules[__name__].__class__ = _Called
