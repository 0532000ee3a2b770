"""Operations on float activations."""

import numpy as np

from tbn_bench.mcu import layout
from tbn_bench.mcu.graph import Array, McuError, Node
from tbn_bench.mcu.program import Op, function_of
from tbn_bench.mcu.scales import tiled_scales
from tbn_bench.mcu.words import by_four_rows


def float_op(node: Node) -> Op:
    """The op of a node. Raises McuError for a function of single values, which needs bytes."""
    if node.kind == "lookup":
        raise McuError(
            f"{node.name}: activation functions other than ReLU are tables of 256 bytes; "
            "use --activations u8"
        )
    if node.kind in ("max", "mean", "pad", "add"):
        return _float_op_without_weights(node)
    biases = None
    if node.shift.any() or node.kind == "affine":
        biases = node.shift.astype(np.float32)
    if node.kind == "tiled":
        tiled = tiled_scales(node)
        return Op(
            node,
            function=function_of(node),
            row="tbn_tiled_f32_nat",
            weights=layout.pack(node.tile, node.segment, "nat").astype(np.int64),
            scales=tiled.values.astype(np.float32),
            biases=biases,
            run=tiled.run,
            per_row=tiled.per_row,
        )
    scales, per_row = _float_scales(node)
    return Op(
        node,
        function=function_of(node),
        row=f"tbn_{node.kind}_f32",
        weights=_float_weights(node),
        scales=scales,
        biases=biases,
        per_row=per_row,
    )


def _float_op_without_weights(node: Node) -> Op:
    none = np.zeros(0, np.float32)
    op = Op(
        node,
        function="tbn_window_op",
        row=f"tbn_{node.kind}_f32",
        weights=none,
        scales=none,
        biases=None,
    )
    if node.kind == "max":
        op.pad = int(np.float32(-np.inf).view(np.uint32))
    elif node.kind == "mean":
        op.scales = np.array([node.rows / node.columns], np.float32)
    elif node.kind == "pad":
        op.run = node.front
    else:
        op.function = "tbn_add_f32"
        op.row = ""
    return op


def _float_scales(node: Node) -> tuple[Array, bool]:
    """(scales, one for each row?). Equal scales of a layer with weights are stored once."""
    scales = node.scale.astype(np.float32)
    is_uniform = bool(np.all(node.scale == node.scale[0]))
    if is_uniform and node.kind != "affine":
        return scales[:1], False
    return scales, True


def _float_weights(node: Node) -> Array:
    if node.kind == "affine":
        return np.zeros(0, np.float32)
    weights = node.dense.astype(np.float32)
    if node.kind == "depthwise":
        return weights.reshape(-1)
    return by_four_rows(weights)
