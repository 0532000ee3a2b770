"""The network in float64 numpy: ranges for quantisation, and what the C library is compared with beside torch. Maps: (B, h, w, c)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbn_bench.mcu.graph import Graph, Node, Window

Array = NDArray[Any]


def patches(maps: Array, window: Window, outside: Any) -> Array:
    """maps: (B, h, w, c) -> (B, out_h, out_w, patch), the patch in the window's order; `outside` beyond the edges."""
    h, w, _ = window.shape
    (kh, kw), (sh, sw), (dh, dw), (oh, ow) = (
        window.kernel,
        window.stride,
        window.dilation,
        window.out,
    )
    top, left = window.padding
    below, right = (
        max(0, (o - 1) * s + d * (k - 1) + 1 - n - pad)
        for o, s, d, k, n, pad in ((oh, sh, dh, kh, h, top), (ow, sw, dw, kw, w, left))
    )
    padded = np.pad(maps, ((0, 0), (top, below), (left, right), (0, 0)), constant_values=outside)
    rows = (np.arange(oh) * sh)[:, None] + np.arange(kh) * dh
    cols = (np.arange(ow) * sw)[:, None] + np.arange(kw) * dw
    found = padded[:, rows[:, None, :, None], cols[None, :, None, :]]  # (B, oh, ow, kh, kw, c)
    if window.channels_first:
        found = found.transpose(0, 1, 2, 5, 3, 4)
    return found.reshape(len(maps), oh, ow, -1)


def dense(node: Node) -> Array:
    """The weight in the patch's order: (rows, columns), (kernel positions, channels) for depthwise; float64."""
    if node.kind != "tiled":
        assert node.dense is not None
        return node.dense
    assert node.tile is not None
    assert node.alphas is not None
    signs = np.tile(node.tile.astype(np.float64), node.p)
    return (signs.reshape(len(node.alphas), -1) * node.alphas[:, None]).reshape(
        node.rows, node.columns
    )


def inputs_of(node: Node, values: list[Array | None], outside: Any = 0.0) -> Array:
    """What the node's rows meet: (B, pixels..., columns)."""
    x = values[node.inputs[0]]
    assert x is not None
    return x.reshape(len(x), 1, 1, -1) if node.window is None else patches(x, node.window, outside)


def reduced(node: Node, x: Array) -> Array:
    """Sums or maxima per channel over the patch: (..., positions * channels) -> (..., channels)."""
    parts = x.reshape(*x.shape[:-1], -1, node.rows)
    if node.kind == "max":
        found: Array = parts.max(-2)
        return found
    return parts.mean(-2)


def padded(node: Node, x: Array, zero: Any) -> Array:
    """(.., columns) -> (.., rows): channels of `zero` before and after."""
    return np.pad(
        x,
        [(0, 0)] * (x.ndim - 1) + [(node.front, node.rows - node.columns - node.front)],
        constant_values=zero,
    )


def forward(graph: Graph, x: Array) -> list[Any]:
    """x: (B, h, w, c) as the model sees it -> every value, float64, by index; None for what the output does not need."""
    values: list[Array | None] = [None] * len(graph.shapes)
    values[0] = x.astype(np.float64)
    for node in graph.nodes:
        out = _node(node, values)
        values[node.output] = out.reshape(len(x), *graph.shapes[node.output])
    return values


def _node(node: Node, values: list[Array | None]) -> Array:
    if node.kind == "add":
        a, b = (values[i] for i in node.inputs)
        assert a is not None
        assert b is not None
        out = a + b
        return np.maximum(out, 0) if node.relu else out
    x = inputs_of(node, values, -np.inf if node.kind == "max" else 0.0)
    if node.kind in ("max", "mean"):
        return reduced(node, x)
    if node.kind == "pad":
        return padded(node, x, 0.0)
    if node.kind == "affine":
        out = x
    elif node.kind == "depthwise":
        out = (x.reshape(*x.shape[:-1], -1, node.rows) * dense(node)).sum(-2)
    else:
        out = x @ dense(node).T
    out = out * node.scale + node.shift
    return np.maximum(out, 0) if node.relu else out
