"""Values that are not computed yet, so that the operations behind a tiled layer become one.

A tiled convolution hands out the R channels of its tile (`TileOutput`) instead of p copies. Batch
norm hands on what it would do with them (`Normalized`). A residual sum is noted, and ReLU, or any
other operation, computes the value. Both objects act as the tensor that they stand for: whatever
asks them for more gets that tensor, computed as without fusion.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tbn_bench.layers.fused.norm import Norm, Normed, copies_norm, mix, mixed_back

_RELU = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
_ADD = (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__)


class Pending:
    """A tensor that is computed when it is needed. `value` computes it, once."""

    _value: Tensor | None = None

    def value(self) -> Tensor:
        if self._value is None:
            self._value = self._compute()
        return self._value

    def _compute(self) -> Tensor:
        raise NotImplementedError  # abstract

    def _relu(self) -> Tensor:
        return F.relu(self.value())

    def _plus(self, other: Any) -> Any:
        return self.value() + settled(other)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in _RELU and isinstance(args[0], Pending):
            return args[0]._relu()
        if function in _ADD and len(args) == 2 and not kwargs:
            first, second = args
            if isinstance(first, Pending):
                return first._plus(second)
            return second._plus(first)
        given = [settled(value) for value in args]
        named = {name: settled(value) for name, value in kwargs.items()}
        return function(*given, **named)

    def __add__(self, other: Any) -> Any:
        return self._plus(other)

    __radd__ = __add__
    __iadd__ = __add__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.value(), name)

    def __getitem__(self, index: Any) -> Any:
        return self.value()[index]

    def __len__(self) -> int:
        return len(self.value())

    def __neg__(self) -> Tensor:
        return -self.value()

    def __mul__(self, other: Any) -> Any:
        return self.value() * settled(other)

    __rmul__ = __mul__

    def __sub__(self, other: Any) -> Any:
        return self.value() - settled(other)

    def __rsub__(self, other: Any) -> Any:
        return settled(other) - self.value()

    def __truediv__(self, other: Any) -> Any:
        return self.value() / settled(other)


def settled(value: Any) -> Any:
    """The value with every pending tensor in it computed."""
    if isinstance(value, Pending):
        return value.value()
    if type(value) in (list, tuple):
        return type(value)(settled(entry) for entry in value)

    return value


class TileOutput(Pending):
    """p copies of t: (B, R, H, W), copy i times scales[i]: (B, p R, H, W).

    scales: (k,), each for C / k channels, or None for 1. added: zeros of that shape, which take the
    gradient of the copies, or None. mixed, is_mixed: of hadamard copies, as in norm.Norm.
    """

    def __init__(
        self,
        t: Tensor,
        scales: Tensor | None,
        p: int,
        added: Tensor | None,
        note: "Note",
        mixed: int = 1,
        is_mixed: bool = False,
    ):
        self.t = t
        self.scales = scales
        self.p = p
        self.added = added
        self.note = note
        self.mixed = mixed
        self.is_mixed = is_mixed

    def _compute(self) -> Tensor:
        self.note.add("copies written out, because batch norm does not read them")
        t = self.t
        if self.is_mixed:
            t = mixed_back(t, self.mixed)
        elif self.mixed > 1:
            t = mix(t, self.mixed)
        copies = t.unsqueeze(1).expand(-1, self.p, *t.shape[1:])
        if self.scales is not None:
            rows = t.shape[1] * self.p // len(self.scales)
            by_channel = self.scales.to(t.dtype).repeat_interleave(rows)
            copies = copies * by_channel.reshape(self.p, -1, 1, 1)
        out = copies.flatten(1, 2)
        return out if self.added is None else out + self.added


class Note:
    """What became of a layer in its last forward pass."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text = text

    def add(self, text: str) -> None:
        self.text = f"{self.text}; {text}" if self.text else text


class Statistics(NamedTuple):
    """Of a batch norm: where the running ones are, and how fast they follow."""

    mean: Tensor | None
    variance: Tensor | None
    momentum: float

    @torch.no_grad()
    def follow(self, found: Normed) -> None:
        """Moves the running statistics towards those of a batch."""
        if self.mean is None or self.variance is None:
            return
        self.mean.lerp_(found.mean.to(self.mean.dtype), self.momentum)
        self.variance.lerp_(found.variance.to(self.variance.dtype), self.momentum)


class Affine(NamedTuple):
    """Scale and shift of a batch norm: (C,), and its eps."""

    weight: Tensor | None
    bias: Tensor | None
    eps: float


class Normalized(Pending):
    """Batch norm of a tile's copies, and perhaps a residual: (B, C, H, W)."""

    def __init__(
        self,
        source: TileOutput,
        affine: Affine,
        statistics: Statistics,
        level: str | None,
        note: Note,
        residual: Tensor | None = None,
    ):
        self.source = source
        self.affine = affine
        self.statistics = statistics
        self.level = level
        self.note = note
        self.residual = residual

    def _run(self, relu: bool) -> Tensor:
        source = self.source
        parts = ["batch norm"]
        if self.residual is not None:
            parts.append("residual sum")
        if relu:
            parts.append("ReLU")
        by = f"native {self.level}" if self.level else "torch"
        kind = str(source.t.dtype).removeprefix("torch.")
        rows = source.t.shape[1]
        if source.mixed > 1:
            parts.insert(0, f"sums of {source.mixed} parts")
        self.note.write(f"{', '.join(parts)} in one: {source.p} x {rows} channels, {kind}, {by}")
        norm = Norm(source.p, self.affine.eps, relu, self.level, source.mixed, source.is_mixed)
        found = copies_norm(
            source.t,
            source.scales,
            self.affine.weight,
            self.affine.bias,
            self.residual,
            source.added,
            norm,
        )
        self.statistics.follow(found)
        return found.out

    def _compute(self) -> Tensor:
        return self._run(relu=False)

    def _relu(self) -> Tensor:
        if self._value is not None:
            return F.relu(self._value)
        return self._run(relu=True)

    def _plus(self, other: Any) -> Any:
        other = settled(other)
        if not self._takes(other):
            return self.value() + other
        return Normalized(
            self.source, self.affine, self.statistics, self.level, self.note, residual=other
        )

    def _takes(self, other: Any) -> bool:
        """Whether `other` can be the residual."""
        if self._value is not None or self.residual is not None:
            return False
        if not isinstance(other, Tensor):
            return False
        t = self.source.t
        batch, rows, *sizes = t.shape
        shape = (batch, rows * self.source.p, *sizes)
        return tuple(other.shape) == shape and other.dtype == t.dtype and other.device == t.device
