"""What each layer of a C program takes."""

from typing import Any

from tbn_bench.mcu import graph
from tbn_bench.mcu.program import Op
from tbn_bench.mcu.table import aligned


def layer_row(op: Op) -> dict[str, Any]:
    """One line of the size table."""
    node = op.node
    row: dict[str, Any] = {
        "name": node.name,
        "kind": node.kind,
        "outputs": node.rows,
        "inputs": node.columns,
        "stored": node.method,
    }
    if node.has_weights:
        row |= _weights_of(op)
    row |= {
        "weight_bytes": 4 * len(op.weights),
        "scale_bytes": 4 * len(op.scales),
        "bias_bytes": 0 if op.biases is None else 4 * len(op.biases),
    }
    return row


def _weights_of(op: Op) -> dict[str, Any]:
    """Multiply-adds, padding and reuse of a layer with weights."""
    node = op.node
    pixels = 1
    if node.window is not None:
        pixels = node.window.out[0] * node.window.out[1]
    if node.kind == "tiled":
        used_bytes = -(-node.q // 8)
        return {
            "p": node.p,
            "q": node.q,
            "g": node.segment,
            "plan": _plan(node),
            "macs": pixels * node.rows * node.columns,
            "distinct_macs": pixels * node.per_input * node.per_tile * node.segment,
            "padding_bytes": 4 * len(op.weights) - used_bytes,
        }
    weights = node.columns if node.kind == "depthwise" else node.rows * node.columns
    return {
        "p": 1,
        "plan": "full precision",
        "macs": pixels * weights,
        "distinct_macs": pixels * weights,
        "padding_bytes": 0,
    }


def _plan(node: graph.Node) -> str:
    if node.p == 1:
        return "untiled"
    return "aligned" if node.per_input == 1 else "segmented"


# key of a report's layer -> head of the column in the size table
_NAMES = {
    "name": "layer",
    "kind": "kind",
    "plan": "plan",
}


_FORM = {
    "p": "p",
    "g": "g",
}


_COUNTS = {
    "macs": "MACs",
    "distinct_macs": "distinct",
    "weight_bytes": "weights B",
    "padding_bytes": "padding B",
    "scale_bytes": "scales B",
    "bias_bytes": "biases B",
}


def show(report: dict[str, Any]) -> str:
    """The size table, a line per layer."""
    columns = _NAMES | _FORM | _COUNTS
    layers = report["layers"]
    lines = [list(columns.values())]
    for layer in layers:
        lines.append([_cell(layer.get(key, "—")) for key in columns])
    totals = []
    for key in _COUNTS:
        total = sum(layer.get(key, 0) for layer in layers)
        totals.append(f"{total:,}")
    lines.append(["total", "", "", "", "", *totals])
    tail = [
        f"tables {report['table_bytes']:,} bytes, arena {report['arena_bytes']:,} bytes, "
        f"layout {report['layout']}, activations {report['activations']}",
        f"test set ({report['test_samples']:,}, {report['computed_by']}): "
        f"top-1 {report['top1_c']:.2%}, torch {report['top1_torch']:.2%}, "
        f"same class {report['agreement']:.2%}",
        *(f"warning: {w}" for w in report["warnings"]),
    ]
    return "\n".join([aligned(lines, left=len(_NAMES)), *tail])


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
