"""Whether a network is still as it was when it was compiled."""

from itertools import chain
from operator import is_
from typing import Any

from torch import nn

from tbn_bench.derived import Snapshot


class Watch:
    """The tensors and modules of a network, as they are now."""

    def __init__(self, model: nn.Module):
        self._modules = list(model.modules())
        self._parts: list[Any] = []
        self._stores: list[Any] = []
        for module in self._modules:
            self._parts.append(module._modules)
            self._stores.append(module._parameters)
            self._stores.append(module._buffers)
        # empty ones are not looked at again
        self._parts = [part for part in self._parts if part]
        self._stores = [store for store in self._stores if store]
        self._children = _entries(self._parts)
        self._snapshot = Snapshot(self._tensors())

    def _tensors(self) -> list[Any]:
        return [tensor for tensor in _entries(self._stores) if tensor is not None]

    def holds(self) -> bool:
        """True where no tensor was written to or replaced, and no module either."""
        children = _entries(self._parts)
        if len(children) != len(self._children):
            return False
        return all(map(is_, children, self._children)) and self._snapshot.holds(self._tensors())

    def check_mode(self) -> None:
        """Raises ValueError where a module is in training mode."""
        if True in [module.training for module in self._modules]:
            raise ValueError(
                "the network is in training mode and native layers are not; call model.eval() first"
            )


def _entries(stores: Any) -> list[Any]:
    """All values of several dictionaries."""
    return list(chain.from_iterable([store.values() for store in stores]))
