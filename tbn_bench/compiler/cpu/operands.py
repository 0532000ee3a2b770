"""The operands of an operation: values of the open region. Other values become its inputs."""

from typing import Any

from torch import Tensor, fx

from tbn_bench import native
from tbn_bench.compiler.cpu.examples import Examples
from tbn_bench.compiler.cpu.region import Region, Value
from tbn_bench.compiler.graph import Unsupported
from tbn_bench.native import Op


class Builder:
    """The open region, while an operation is added to it.

    level: the instruction set that weights are laid out for.
    """

    def __init__(
        self,
        region: Region,
        examples: Examples,
        level: str,
    ):
        self.region = region
        self.examples = examples
        self.level = level

    def operand(self, node: Any, last: bool | None = None) -> int:
        """The region's value for a node. last: the layout that is needed (None: either).

        Raises Unsupported for what is no value of images.
        """
        if not isinstance(node, fx.Node):
            raise Unsupported(f"reads the constant {node!r}")
        if node in self.region.of_node:
            return self._laid_out(self.region.of_node[node], last)
        return self._input(node, last)

    def axes(self, node: Any) -> int:
        """Axes of a node's value, as torch sees it; 0 for what is no tensor."""
        if not isinstance(node, fx.Node):
            return 0
        index = self.region.of_node.get(node)
        if index is not None:
            return self.value(index).rank
        example = self.examples.of(node)
        if isinstance(example, Tensor):
            return example.dim()
        return 0

    def value(self, index: int) -> Value:
        return self.region.values[index]

    def _laid_out(self, index: int, last: bool | None) -> int:
        source = self.value(index)
        is_vector = source.rank == 2
        is_as_asked = last is None or source.last == last
        if is_vector or is_as_asked:
            return index
        return self._turned(index)

    def _turned(self, index: int) -> int:
        """The same tensor with its last two axes the other way round in memory."""
        source = self.value(index)
        if source.rank != 3:
            raise Unsupported("reads channels on another axis")
        _, length, channels = source.shape
        out = self.region.new((1, channels, length), 3, not source.last)
        return self.region.add(Op(native.CHW, index, out))

    def _input(self, node: fx.Node, last: bool | None) -> int:
        """A value that is made outside the region."""
        region = self.region
        factor = self.examples.images(node)
        if region.factor not in (0, factor):
            raise Unsupported("reads images of other sizes of the batch")
        region.factor = factor
        example = self.examples.of(node)
        if last is None:
            last = example.dim() == 3
        if (node, last) not in region.inputs:
            sizes = list(example.shape[1:])
            channels = sizes.pop(-1 if last else 0)
            height, width = [1] * (2 - len(sizes)) + sizes
            region.inputs[node, last] = region.new((height, width, channels), example.dim(), last)
        return region.inputs[node, last]

    def foldable(self, node: Any, kinds: tuple[str, ...]) -> Op | None:
        """The op that makes a node's value, if it may be changed: only this operation reads it."""
        if not isinstance(node, fx.Node) or node not in self.region.of_node:
            return None
        index = self.region.of_node[node]
        op = self.region.maker(index)
        if op is None or op.kind not in kinds or op.relu:
            return None
        return op if self.region.is_read_once(index) else None

    def foldable_before_max(self, node: Any, kinds: tuple[str, ...]) -> Op | None:
        """`foldable`, also of the op before a max pooling that nothing else reads.

        Increasing functions give the same before and after a maximum.
        """
        pool = self.foldable(node, (native.MAX_POOL,))
        if pool is None:
            return self.foldable(node, kinds)
        op = self.region.maker(pool.input)
        if op is None or op.kind not in kinds or op.relu:
            return None
        return op if self.region.is_read_once(pool.input) else None

    def elementwise(self, kind: str, x: Any, eps: float = 0.0, high: float = 0.0) -> int:
        """An op of one operand, whose output has the shape and layout of the operand."""
        index = self.operand(x)
        out = self.region.like(index)
        return self.region.add(Op(kind, index, out, eps=eps, high=high))
