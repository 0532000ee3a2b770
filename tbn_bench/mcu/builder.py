"""The graph of a C program while it is built, and what may be folded into its nodes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, fx

from tbn_bench.compiler import fold
from tbn_bench.compiler.geometry import Map, Window
from tbn_bench.compiler.graph import Unsupported
from tbn_bench.mcu.graph import Array, Graph, Kind, Node


class Builder:
    """values: node of the traced graph -> its value. flat: values that torch sees as rows."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.values: dict[fx.Node, int] = {}
        self.flat: set[int] = set()

    def operand(self, x: object) -> int:
        """The value of a node. Raises Unsupported for a constant."""
        if not isinstance(x, fx.Node) or x not in self.values:
            raise Unsupported(f"its input is no map of the network ({x!r})")
        return self.values[x]

    def shape(self, value: int) -> Map:
        return self.graph.shapes[value]

    def new(self, shape: Map) -> int:
        """A new value. Raises Unsupported for an empty map."""
        if min(shape) < 1:
            raise Unsupported(f"nothing is left of the map: {shape}")
        self.graph.shapes.append(shape)
        return len(self.graph.shapes) - 1

    def add(self, node: Node) -> int:
        """Appends a node. Returns the value it makes."""
        self.graph.nodes.append(node)
        return node.output

    def affine(
        self,
        name: str,
        x: int,
        scale: Array,
        shift: Array,
        relu: bool = False,
    ) -> int:
        """scale * x + shift per channel, as a node of its own."""
        return self._pointwise(name, "affine", x, scale=scale, shift=shift, relu=relu)

    def relu(self, name: str, x: int) -> int:
        """max(x, 0), as a node of its own."""
        channels = self.shape(x)[2]
        return self.affine(
            name,
            x,
            np.ones(channels),
            np.zeros(channels),
            relu=True,
        )

    def lookup(self, name: str, x: int, formula: Callable[[Tensor], Tensor]) -> int:
        """A function of single values."""
        return self._pointwise(name, "lookup", x, formula=formula)

    def _pointwise(self, name: str, kind: Kind, x: int, **how: Any) -> int:
        """A node that maps each value by itself. how: fields of Node that say what it computes."""
        height, width, channels = shape = self.shape(x)
        out = self.new(shape)
        node = Node(
            name,
            kind,
            inputs=(x,),
            output=out,
            rows=channels,
            columns=channels,
            window=Window(shape, (1, 1), (height, width)),
            **how,
        )
        self.keep_flat(x, out)
        return self.add(node)

    def keep_flat(self, x: int, out: int) -> None:
        """Where x is a row in torch, so is out."""
        if x in self.flat:
            self.flat.add(out)

    # -- folding

    def check_in_place(self, x: int, node: fx.Node) -> None:
        """Raises Unsupported where others than `node` read a value that it changes in place.

        Torch shows such a change to all readers of the value.
        """
        if fold.readers(self.values, x) != {node}:
            raise Unsupported(
                "changes in place what other layers read too; use an operation that is not in place"
            )

    def maker(self, value: int, node: fx.Node) -> Node | None:
        """The node whose result `value` is, if only `node` reads it."""
        if fold.readers(self.values, value) != {node}:
            return None
        return self._producer(value)

    def before_max(self, made: Node | None) -> Node | None:
        """The layer before a max pooling, if nothing else reads it.

        Monotone functions give the same before and after the pooling.
        """
        if made is None or made.kind != "max":
            return made
        value = made.inputs[0]
        if len(fold.readers(self.values, value)) != 1:
            return made
        return self._producer(value) or made

    def _producer(self, value: int) -> Node | None:
        return next((node for node in self.graph.nodes if node.output == value), None)
