"""What a network does, in operations that both back ends read, and the reason where there is none.

The rules of `rules/` turn each node of a traced graph into one operation. The CPU plan (`cpu/`) and
the microcontroller program (`tbn_bench.mcu`) are made of operations and never look at torch's
functions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


class Unsupported(Exception):
    """A node cannot be lowered. reason: a clause that a user can act on, without a full stop."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


class NoRule(Unsupported):
    """Nothing lowers `what`, e.g. SiLU. hint: what the user can do instead."""

    def __init__(self, what: str, hint: str = ""):
        super().__init__(f"no rule for {what}")
        self.what = what
        self.hint = hint


@dataclass(frozen=True)
class Operation:
    """x: the node of the graph whose value is read; a constant where the network gives one."""

    x: Any


class Same(Operation):
    """y = x: dropout in eval mode, an identity."""


@dataclass(frozen=True)
class Relu(Operation):
    """y = max(x, 0). in_place: x itself changes."""

    in_place: bool = False


@dataclass(frozen=True)
class Activation:
    """An activation function y = formula(x), number by number: a row of rules/activations.py.

    name: of its op in the native library. torch: the modules, functions and operators that compute
    it. formula: the same by other operations, for x of any type; the tests compare. options:
    torch's arguments, with the values that the op computes ({"inplace": False} for a function that
    may change its argument). otherwise: the words for other values.
    """

    name: str
    torch: tuple[Any, ...]
    formula: Callable[[Tensor], Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    otherwise: str = ""


@dataclass(frozen=True)
class Elementwise(Operation):
    """y = activation.formula(x), number by number."""

    activation: Activation


@dataclass(frozen=True)
class Clamp(Operation):
    """y = min(max(x, low), high). in_place: x itself changes."""

    low: float
    high: float
    in_place: bool = False


@dataclass(frozen=True)
class Layer(Operation):
    """A linear layer or a convolution, packed or in full precision."""

    module: Any


@dataclass(frozen=True)
class BatchNorm(Operation):
    """Batch normalisation by its running statistics."""

    module: Any


@dataclass(frozen=True)
class LayerNorm(Operation):
    """Layer normalisation over the last axis."""

    module: Any


@dataclass(frozen=True)
class Add(Operation):
    """x + y of two values of one shape. in_place: x itself changes."""

    y: Any
    in_place: bool = False


@dataclass(frozen=True)
class Scale(Operation):
    """factor * x, of a number above 0."""

    factor: float


class Flatten(Operation):
    """(B, ...) -> (B, N)."""


@dataclass(frozen=True)
class Reshape(Operation):
    """shape: of the result, with the batch first."""

    shape: tuple[Any, ...]


@dataclass(frozen=True)
class Mean(Operation):
    """The mean over the axes."""

    axes: tuple[int, ...]
    keepdim: bool = False


@dataclass(frozen=True)
class Maximum(Operation):
    """The maximum over one axis, which disappears."""

    axis: int


@dataclass(frozen=True)
class Pool(Operation):
    """Max or average pooling over `axes` axes. The pairs are (height, width).

    average: padding counts as zeros, and each window is divided by its size. ceil: sizes are
    rounded up.
    """

    axes: int
    average: bool
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    ceil: bool = False


@dataclass(frozen=True)
class Subsample(Operation):
    """x[:, :, ::steps[0], ::steps[1]]."""

    steps: tuple[int, int]


@dataclass(frozen=True)
class PadChannels(Operation):
    """Channels of zeros before and behind those of x, (B, C, H, W)."""

    front: int
    back: int


@dataclass(frozen=True)
class PadMap(Operation):
    """Zeros below and to the right of each map of x, (B, C, H, W)."""

    below: int
    right: int


@dataclass(frozen=True)
class Transpose(Operation):
    """Two axes exchanged."""

    axes: tuple[Any, ...]


@dataclass(frozen=True)
class Select(Operation):
    """One token: x[:, position]."""

    position: Any


@dataclass(frozen=True)
class Attention(Operation):
    """patterns.SelfAttention. causal: a token sees itself and the tokens before it."""

    heads: int
    causal: bool = False


@dataclass(frozen=True)
class Patches(Operation):
    """patterns.Patches."""

    patch: int


@dataclass(frozen=True)
class Tokens(Operation):
    """patterns.Tokens. front: (1, n, C); table: (1, n + T, C)."""

    front: Tensor
    table: Tensor
