"""The network in float64 numpy. Maps: (B, h, w, c).

It gives the ranges for quantisation. The C library is compared with it, and with torch.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tbn_bench.compiler.geometry import Window
from tbn_bench.mcu.graph import Graph, McuError, Node

Array = NDArray[Any]


def patches(maps: Array, window: Window, outside: Any) -> Array:
    """maps: (B, h, w, c) -> (B, out_h, out_w, patch), the patch in the window's order.

    outside: the value beyond the edges.
    """
    rows = _positions(window, 0)
    columns = _positions(window, 1)
    margins = [(0, 0), _margin(window, rows, 0), _margin(window, columns, 1), (0, 0)]
    padded = np.pad(maps, margins, constant_values=outside)
    found = padded[:, rows[:, None, :, None], columns[None, :, None, :]]  # (B, oh, ow, kh, kw, c)
    if window.channels_first:
        found = found.transpose(0, 1, 2, 5, 3, 4)
    return found.reshape(len(maps), *window.out, -1)


def _positions(window: Window, axis: int) -> Array:
    """Positions in the padded map that each output reads: (outputs, kernel)."""
    starts = np.arange(window.out[axis]) * window.stride[axis]
    taps = np.arange(window.kernel[axis]) * window.dilation[axis]
    found: Array = starts[:, None] + taps
    return found


def _margin(window: Window, positions: Array, axis: int) -> tuple[int, int]:
    """(padding before the map, padding behind it) that the positions need."""
    before = window.padding[axis]
    behind = positions[-1, -1] + 1 - window.shape[axis] - before
    return before, max(0, int(behind))


def dense(node: Node) -> Array:
    """The weight in the patch's order, float64.

    (rows, columns); for depthwise layers (kernel positions, channels).
    """
    if node.kind != "tiled":
        return node.dense
    signs = np.tile(node.tile.astype(np.float64), node.p)
    runs = signs.reshape(len(node.alphas), -1)
    scaled = runs * node.alphas[:, None]
    return scaled.reshape(node.rows, node.columns)


def inputs_of(node: Node, values: list[Array | None], outside: Any = 0.0) -> Array:
    """The inputs of the node's rows: (B, pixels..., columns)."""
    x = values[node.inputs[0]]
    assert x is not None
    if node.window is None:
        return x.reshape(len(x), 1, 1, -1)
    return patches(x, node.window, outside)


def by_channel(x: Array, channels: int) -> Array:
    """(..., positions * channels) -> (..., positions, channels)."""
    return x.reshape(*x.shape[:-1], -1, channels)


def reduced(node: Node, x: Array) -> Array:
    """Maxima or means per channel over the patch.

    (..., positions * channels) -> (..., channels).
    """
    parts = by_channel(x, node.rows)
    found: Array = parts.max(-2) if node.kind == "max" else parts.mean(-2)
    return found


def padded(node: Node, x: Array, zero: Any) -> Array:
    """(..., columns) -> (..., rows): channels of `zero` before and after."""
    behind = node.rows - node.columns - node.front
    margins = [(0, 0)] * (x.ndim - 1)
    margins.append((node.front, behind))
    return np.pad(x, margins, constant_values=zero)


def function_values(node: Node, x: Array) -> Array:
    """The function of a lookup node, of each value of x. Raises McuError where it is not finite."""
    assert node.formula is not None
    found: Array = node.formula(torch.from_numpy(x)).numpy()
    if not np.isfinite(found).all():
        raise McuError(
            f"{node.name}: its function is not finite for inputs from {x.min():.3g} to "
            f"{x.max():.3g}; bound its input"
        )
    return found


def forward(graph: Graph, x: Array) -> list[Any]:
    """x: (B, h, w, c) as the model sees it -> every value by index, float64.

    None for values that the output does not need.
    """
    values: list[Array | None] = [None] * len(graph.shapes)
    values[0] = x.astype(np.float64)
    for node in graph.nodes:
        out = _node(node, values)
        shape = graph.shapes[node.output]
        values[node.output] = out.reshape(len(x), *shape)
    return values


def _node(node: Node, values: list[Array | None]) -> Array:
    if node.kind == "add":
        a, b = (values[i] for i in node.inputs)
        assert a is not None
        assert b is not None
        return _relu(node, a + b)
    outside = -np.inf if node.kind == "max" else 0.0
    x = inputs_of(node, values, outside)
    if node.kind in ("max", "mean"):
        return reduced(node, x)
    if node.kind == "pad":
        return padded(node, x, 0.0)
    if node.kind == "lookup":
        return function_values(node, x)
    out = _products(node, x) * node.scale + node.shift
    return _relu(node, out)


def _products(node: Node, x: Array) -> Array:
    """W x: (B, pixels..., columns) -> (B, pixels..., rows)."""
    if node.kind == "affine":
        return x
    weight = dense(node)
    if node.kind == "depthwise":
        found: Array = (by_channel(x, node.rows) * weight).sum(-2)
        return found
    return x @ weight.T


def _relu(node: Node, out: Array) -> Array:
    if not node.relu:
        return out
    found: Array = np.maximum(out, 0)
    return found
