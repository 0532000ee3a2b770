"""Results computed from tensors, kept until one of those tensors changes.

torch counts how often a tensor was written to: copy_, load_state_dict, optimizers and every other
operation in place. Tensors that were made in inference mode have no such count, so their values are
compared. A write that torch does not count (through .data, or through a NumPy array that shares the
memory) is not noticed; call `clear` after one.

`place` says whether two tensors are the same one.
"""

from collections.abc import Callable, Hashable, Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_PLAIN = (Tensor, nn.Parameter)


def place(tensor: Tensor) -> Hashable:
    """A key that is equal for the same object, and for the same memory read in the same way.

    Tensors without memory (empty, on the meta device, lazy) have equal keys only where they are the
    same object.
    """
    if is_lazy(tensor) or not tensor.numel() or not tensor.data_ptr():
        return id(tensor)
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def mark(tensor: Tensor) -> tuple[int, Any]:
    """(address of the values, how often they were written); for inference tensors, a copy."""
    if tensor.is_inference():
        return tensor.data_ptr(), tensor.clone()
    return tensor.data_ptr(), tensor._version


def unwritten(tensor: Tensor, found: tuple[int, Any]) -> bool:
    """Whether the tensor still has the mark that was found earlier."""
    where, seen = found
    if tensor.data_ptr() != where:
        return False
    if isinstance(seen, Tensor):
        return torch.equal(tensor, seen)
    return tensor._version == seen


class Snapshot:
    """Tensors as they were at one moment. It keeps them alive, so no other can take their place."""

    def __init__(self, tensors: Sequence[Tensor]):
        self._tensors = list(tensors)
        counted = [tensor for tensor in tensors if not tensor.is_inference()]
        self._all_counted = len(counted) == len(self._tensors)
        self._marks = [mark(tensor) for tensor in tensors]
        self._pointers = [tensor.data_ptr() for tensor in tensors]
        self._versions = [tensor._version for tensor in counted]

    def holds(self, tensors: Sequence[Any]) -> bool:
        """Whether these are the same tensors, and nothing was written to them since."""
        if len(tensors) != len(self._tensors) or not all(map(is_, tensors, self._tensors)):
            return False
        if not self._all_counted:
            return all(map(unwritten, tensors, self._marks))
        same_memory = [tensor.data_ptr() for tensor in tensors] == self._pointers
        return same_memory and [tensor._version for tensor in tensors] == self._versions


class Kept:
    """One result of a computation, with the tensors that it was made from.

    Copies of it and pickles are empty.
    """

    def __init__(self) -> None:
        self._entry: tuple[Snapshot, Hashable, Any] | None = None

    @property
    def value(self) -> Any:
        """The last result, or None."""
        return None if self._entry is None else self._entry[2]

    def get(self, tensors: Sequence[Tensor], make: Callable[[], Any], key: Hashable = None) -> Any:
        """make(), computed again where a tensor or the key is not that of the last call.

        The result is made of ordinary tensors, also in inference mode. Tensors without memory of
        their own (torch's fake ones) are neither kept nor looked at.
        """
        entry = self._entry
        if entry is not None and entry[1] == key and entry[0].holds(tensors):
            return entry[2]
        real = all(type(tensor) in _PLAIN for tensor in tensors)
        snapshot = Snapshot(tensors) if real else None
        with torch.inference_mode(False), torch.no_grad():
            value = make()
        parts = value if isinstance(value, tuple) else (value,)
        ordinary = all(part is None or type(part) is Tensor for part in parts)
        if snapshot is not None and ordinary:
            # one assignment, so that other threads see all of it or nothing
            self._entry = (snapshot, key, value)
        return value

    def clear(self) -> None:
        self._entry = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_entry": None}
