"""A network as a list of nodes that the C runtime can run. Maps are (height, width, channels)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tbn_bench.compiler.geometry import Map, Window

Array = NDArray[Any]


Kind = Literal[
    "tiled",
    "dense",
    "depthwise",
    "max",
    "mean",
    "affine",
    "add",
    "pad",
    "lookup",
]


class McuError(ValueError):
    """The C runtime cannot represent the network, or a number in it.

    The message says which layer it is and what to do.
    """


def _none() -> Array:
    return np.zeros(0)


@dataclass
class Node:
    """y = relu(scale * (W x) + shift) at each pixel, a pooling of x, or a function of its values.

    kind: tiled, dense and depthwise have weights; pad adds channels of zeros; lookup computes
    `formula`, number by number. inputs, output: values by index. tile: (q,) of +-1, reused p times
    with alphas (k,), each for N / k weights. dense: (rows, inputs of a row) in the patch's order;
    for depthwise layers (kernel positions, channels). scale, shift: (outputs,). Arrays that a kind
    does not have are empty.
    """

    name: str
    kind: Kind
    inputs: tuple[int, ...]
    output: int
    rows: int = 0
    columns: int = 0
    window: Window | None = None
    tile: Array = field(default_factory=_none)
    p: int = 1
    alphas: Array = field(default_factory=_none)
    dense: Array = field(default_factory=_none)
    scale: Array = field(default_factory=_none)
    shift: Array = field(default_factory=_none)
    relu: bool = False
    formula: Callable[[Tensor], Tensor] | None = None
    front: int = 0  # channels of zeros before the input's
    method: str = ""  # how the weights are stored, for the report

    @property
    def q(self) -> int:
        return len(self.tile)

    @property
    def segment(self) -> int:
        """g: both a row and the tile are whole numbers of segments."""
        return math.gcd(self.columns, self.q)

    @property
    def per_input(self) -> int:
        return self.columns // self.segment

    @property
    def per_tile(self) -> int:
        return self.q // self.segment

    @property
    def has_weights(self) -> bool:
        return self.kind in ("tiled", "dense", "depthwise")


@dataclass
class Graph:
    """Nodes in order; shapes of the values, (height, width, channels); value 0 is the input."""

    nodes: list[Node] = field(default_factory=list)
    shapes: list[Map] = field(default_factory=list)
    output: int = 0

    def size(self, value: int) -> int:
        return math.prod(self.shapes[value])
