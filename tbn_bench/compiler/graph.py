"""A region: layers of a network that become one native plan, and the values between them."""

from dataclasses import dataclass, field
from typing import Any

from torch import fx

from tbn_bench.native import Op


class Unsupported(Exception):
    """This node cannot be lowered; torch runs it."""


@dataclass
class Value:
    """(H, W, C) in the arena, of one image; `last` where torch has channels last (tokens), `rank` as torch sees it."""

    shape: tuple[int, int, int]
    rank: int
    last: bool

    def torch_shape(self, batch: int) -> tuple[int, ...]:
        h, w, c = self.shape
        spatial = {2: (), 3: (w,), 4: (h, w)}[self.rank]
        return (batch, *spatial, c) if self.last else (batch, c, *spatial)


@dataclass
class Region:
    """Ops in order over values by index; inputs: (node, channels last?) -> value; of_node: what each lowered node became.

    factor: images of the region to one of the network, more than 1 between windows or patches that were put into the batch.
    """

    ops: list[Op] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    inputs: dict[tuple[fx.Node, bool], int] = field(default_factory=dict)
    of_node: dict[fx.Node, int] = field(default_factory=dict)
    nodes: list[fx.Node] = field(default_factory=list)
    factor: int = 0
    plan: Any = None
    plan_nhwc: Any = None  # the same with images as channels last outside
    outputs: list[fx.Node] = field(default_factory=list)

    def new(self, shape: tuple[int, int, int], rank: int, last: bool) -> int:
        self.values.append(Value(shape, rank, last))
        return len(self.values) - 1
