"""A region: layers of a network that become one native program, and the values between them."""

from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx

from tbn_bench.compiler.fold import readers
from tbn_bench.compiler.geometry import Map
from tbn_bench.native import Op


@dataclass
class Value:
    """(H, W, C) in the arena, of one image.

    rank: the number of axes as torch sees it. last: True where torch has channels last (tokens).
    """

    shape: Map
    rank: int
    last: bool

    def torch_shape(self, batch: int) -> tuple[int, ...]:
        """As torch sees `batch` images."""
        spatial = self.shape[4 - self.rank : 2]
        channels = self.shape[2]
        if self.last:
            return batch, *spatial, channels
        return batch, channels, *spatial

    def is_like(self, other: "Value") -> bool:
        """True where sums of the two make sense: same shape and same layout."""
        if self.rank == other.rank == 2:
            return self.shape == other.shape
        return self == other


@dataclass
class Mark:
    """A region as it was before a node was lowered."""

    values: int
    inputs: dict[tuple[fx.Node, bool], int]
    ops: list[Op]
    factor: int


@dataclass
class Region:
    """Ops in order over values by index.

    inputs: (node, channels last?) -> value. of_node: the value that each lowered node became.
    factor: images of the region to one of the network, more than 1 between windows or patches that
    were put into the batch. plan_nhwc: the same plan for images that are channels last outside.
    sources: the values of the inputs. images: positions of the inputs that are images. Both are
    read by every call.
    """

    ops: list[Op] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    inputs: dict[tuple[fx.Node, bool], int] = field(default_factory=dict)
    of_node: dict[fx.Node, int] = field(default_factory=dict)
    nodes: list[fx.Node] = field(default_factory=list)
    factor: int = 0
    plan: Any = None
    plan_nhwc: Any = None
    outputs: list[fx.Node] = field(default_factory=list)
    sources: list[Value] = field(default_factory=list)
    images: list[int] = field(default_factory=list)

    def new(
        self,
        shape: Map,
        rank: int,
        last: bool,
    ) -> int:
        """A new value."""
        self.values.append(Value(shape, rank, last))
        return len(self.values) - 1

    def like(self, index: int, shape: Map | None = None) -> int:
        """A new value with the layout of another one, and its shape unless one is given."""
        source = self.values[index]
        self.values.append(replace(source, shape=shape or source.shape))
        return len(self.values) - 1

    def add(self, op: Op) -> int:
        """Appends an op. Returns the value it makes."""
        self.ops.append(op)
        return op.output

    def exchange(self, op: Op, by: Op, shape: Map) -> None:
        """Puts one op in the place of another. shape: of the value that it makes."""
        place = self.ops.index(op)
        self.ops[place] = by
        self.values[op.output] = replace(self.values[op.output], shape=shape)

    def maker(self, index: int) -> Op | None:
        """The op that makes a value; None for an input of the region."""
        return next((op for op in self.ops if op.output == index), None)

    def is_read_once(self, index: int) -> bool:
        """True where one node reads this value, by whatever names it has."""
        found = readers(self.of_node, index)
        return len(found) == 1

    def mark(self) -> Mark:
        return Mark(
            len(self.values),
            dict(self.inputs),
            list(self.ops),
            self.factor,
        )

    def back_to(self, mark: Mark) -> None:
        """Forgets what was added since the mark."""
        del self.values[mark.values :]
        self.inputs = mark.inputs
        self.ops[:] = mark.ops
        self.factor = mark.factor
