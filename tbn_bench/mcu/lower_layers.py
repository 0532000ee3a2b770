"""Linear layers and convolutions as nodes of a C program."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from torch import fx

from tbn_bench.compiler.geometry import Window
from tbn_bench.compiler.graph import Layer, Unsupported
from tbn_bench.compiler.layer import bias, convolution_window, float64, is_packed, weight_shape
from tbn_bench.format import bits
from tbn_bench.kernels.stored_tile import is_depthwise
from tbn_bench.mcu.builder import Builder
from tbn_bench.mcu.graph import Array, Node


def layer(operation: Layer, node: fx.Node, build: Builder) -> int:
    module = operation.module
    x = build.operand(operation.x)
    shape = weight_shape(module)
    groups = getattr(module, "groups", 1)
    if len(shape) == 2:
        window = _linear_window(shape[1], x, build)
    else:
        window = _conv_window(module, shape[1] * groups, x, build)
    if groups > 1 and not is_depthwise(shape, groups):
        raise Unsupported(
            f"{groups} groups; only plain (1) and depthwise (one per channel) "
            "convolutions are known"
        )
    height, width = window.out if window else (1, 1)
    made = _with_weights(str(node.target), module, shape, groups, window)
    made.inputs = (x,)
    made.output = build.new((height, width, shape[0]))
    made.scale = np.ones(shape[0])
    made.shift = bias(module)
    return build.add(made)


def _linear_window(columns: int, x: int, build: Builder) -> Window | None:
    """A linear layer on a flattened map is a convolution by a kernel of the map's size."""
    height, width, channels = build.shape(x)
    is_pixel = (height, width) == (1, 1)
    if x in build.flat and not is_pixel and columns == height * width * channels:
        shape = height, width, channels
        return None if channels == 1 else Window(shape, (height, width), (1, 1))
    if columns != channels or not is_pixel:
        raise Unsupported(
            f"a linear layer of {columns} inputs on a map of {height} x {width} x {channels}; "
            "flatten it first"
        )
    return None


def _conv_window(module: Any, expected: int, x: int, build: Builder) -> Window:
    shape = build.shape(x)
    if shape[2] != expected:
        raise Unsupported(f"{expected} input channels on a map of {shape[2]}")
    return convolution_window(module, shape)


def _with_weights(
    name: str, module: Any, shape: tuple[int, ...], groups: int, window: Window | None
) -> Node:
    """A node with the weights in the order of its patch."""
    node = Node(name, "dense", (), 0, shape[0], math.prod(shape[1:]), window)
    if is_packed(module) and module.form.plain and groups == 1:
        _set_tile(node, module)
        return node
    if is_packed(module):
        weight = module.form.dense(module.tensors()).astype(np.float64)
        node.method = "expanded to numbers: no bit kernel for this form"
    else:
        weight = float64(module.weight)
        node.method = "full precision"
    if groups > 1:
        node.kind = "depthwise"
        node.columns = node.rows * node.columns
        node.dense = weight.reshape(node.rows, -1).T
        return node
    if window is not None:
        weight = _channels_last(weight, *_patch(node, window))
    node.dense = weight.reshape(node.rows, node.columns)
    return node


def _patch(node: Node, window: Window) -> tuple[int, tuple[int, int]]:
    """(channels, kernel) of a row of weights."""
    return node.columns // math.prod(window.kernel), window.kernel


def _set_tile(node: Node, module: Any) -> None:
    """Makes a tiled layer of the node."""
    form = module.form
    tensors = module.tensors()
    node.kind = "tiled"
    node.p = form.p
    node.tile = bits.unpack(tensors["tile"], form.q)
    node.alphas = tensors["alphas"].astype(np.float64) if form.scales else np.ones(1)
    node.method = "1 bit" if form.p == 1 else f"tile of {form.q:,} bits, p = {form.p}"
    if form.numel // len(node.alphas) % node.segment:
        raise Unsupported(f"scales that change inside a segment of {node.segment} weights")
    if node.window is None:
        return
    channels, kernel = _patch(node, node.window)
    if channels == 1 or math.prod(kernel) == 1:  # the order of the patch is that of the tile
        return
    if node.segment == node.columns:  # the tile holds whole rows: their columns may be sorted
        node.tile = _channels_last(node.tile, channels, kernel)
    else:
        node.window = replace(node.window, channels_first=True)


def _channels_last(rows: Array, channels: int, kernel: tuple[int, int]) -> Array:
    """(..., channels, kernel) -> (..., kernel, channels), flat."""
    parts = rows.reshape(-1, channels, *kernel)
    return parts.transpose(0, 2, 3, 1).reshape(-1)
