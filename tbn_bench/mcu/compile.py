"""From a network to its C program, with the checks that need no compiler."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tbn_bench import convert
from tbn_bench.mcu import graph, lowering, memory, reference
from tbn_bench.mcu.build_program import build_program
from tbn_bench.mcu.cores import TARGETS
from tbn_bench.mcu.graph import McuError
from tbn_bench.mcu.program import Op, Program, Quant

GRAPH_TOLERANCE = 1e-4  # of the largest output, float64 against torch's float32


def compile_(
    model: nn.Module, x: Tensor, activations: str, target: str, source: Quant | None = None
) -> Program:
    """The C program of a network, with its arena laid out.

    model: trained, of any binary method or full precision. x: calibration inputs (B, *in_shape).
    source: see build_program. Raises McuError for what cannot run, or a choice that does not exist.
    """
    if target not in TARGETS:
        known = ", ".join(TARGETS)
        raise McuError(f"--target must be one of {known}, got {target!r}")
    small = copy.deepcopy(model).eval()
    if any(hasattr(m, "parametrizations") for m in small.modules()):
        convert.pack_(small)
    network = lowering.lower(small, tuple(x.shape[1:]))
    _check_graph(network, model, x)
    bit_order = TARGETS[target].bit_order if activations == "u8" else "nat"
    prog = build_program(network, activations, bit_order, maps(x.numpy(), network), source)
    memory.plan(prog)
    _check_sizes(prog)
    prog.warnings += _warnings(prog)
    return prog


def _check_graph(network: graph.Graph, model: nn.Module, x: Tensor) -> None:
    """The graph that was read must be the network: in float64 it gives torch's outputs."""
    x = x[:64]
    with torch.no_grad():
        y = convert.dense(model).eval()(x.clone())  # the network may change it in place
    if y.dim() == 4:
        y = y.permute(0, 2, 3, 1)
    expected = y.reshape(len(y), -1).numpy()
    values = reference.forward(network, maps(x.numpy(), network))
    found = values[network.output].reshape(expected.shape)
    largest = max(float(np.abs(expected).max()), 1e-30)
    error = float(np.abs(found - expected).max() / largest)
    if not error <= GRAPH_TOLERANCE:
        raise McuError(
            f"the graph read from the network differs from it by {error:.1e} of the largest output "
            f"(allowed {GRAPH_TOLERANCE:.0e}): it does something that is not seen, e.g. changes a "
            "value in place; please report this network"
        )


def maps(x: Any, network: graph.Graph) -> Any:
    """(B, C, H, W), (B, C, L) or (B, N) -> (B, h, w, c)."""
    h, w, c = network.shapes[0]
    images = x.reshape(len(x), c, h, w)
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def _check_sizes(prog: Program) -> None:
    """The C code keeps sizes in 16 bits."""
    for op in prog.ops:
        largest = max(_sizes(op))
        if largest > 65_535:
            raise McuError(
                f"{op.node.name}: a size of {largest:,} is more than 65,535; "
                "this is no network for a microcontroller"
            )


def _sizes(op: Op) -> list[int]:
    node = op.node
    sizes = [node.columns]
    if node.kind != "add":
        sizes.append(node.rows)
    if node.kind == "tiled":
        sizes += [node.per_input, node.per_tile]
    window = node.window
    if window is not None:
        pixels = window.out[0] * window.out[1]
        pixel_bytes = op.out_bytes // max(1, pixels)
        sizes += [*window.shape, *window.kernel, *window.out, pixel_bytes]
    return sizes


def _warnings(prog: Program) -> list[str]:
    found = []
    for op in prog.ops:
        node = op.node
        if node.kind == "tiled" and node.p > 1:
            found += _short_segments(node)
        if node.has_weights and node.method.startswith("expanded"):
            kind = "bytes" if prog.activations == "u8" else "floats"
            found.append(f"{node.name}: {node.method}; stored as {kind}")
    return found


def _short_segments(node: graph.Node) -> list[str]:
    """A warning where the segments of a tiled layer cost much RAM or padding."""
    ram = 4 * node.per_input * node.per_tile
    if node.segment >= 16 and ram <= 8192:
        return []
    better = max(p for p in range(1, node.p + 1) if node.rows % p == 0)
    return [
        f"{node.name}: rows of {node.columns} and tiles of {node.q} share segments of "
        f"{node.segment} only: {ram:,} bytes of RAM for their sums, padded words; "
        f"p = {better} would divide its {node.rows} rows"
    ]


def source_of(data: Any) -> Quant | None:
    """The real values of raw bytes, for a data set of images.

    Images of one channel are normalised by (u / 255 - mean) / std. None where the firmware has to
    normalise.
    """
    raw, _ = data.splits["test"]
    mean: tuple[float, ...] = getattr(data, "mean", ())
    std: tuple[float, ...] = getattr(data, "std", ())
    if raw.dtype != torch.uint8 or len(mean) != 1 or len(std) != 1:
        return None
    return Quant(1 / (255 * std[0]), 255 * mean[0])


def quantised(prog: Program, raw: Any, prepared: Any) -> Any:
    """Inputs as the firmware gives them: (B, input_len) uint8 or float32.

    raw: as the data set has them, or None. prepared: as the model sees them.
    """
    if prog.activations == "f32":
        values = prepared.numpy().astype(np.float32)
    elif raw is not None:
        values = raw.numpy()
    else:
        steps = np.round(prepared.numpy() / prog.input.scale + prog.input.offset)
        values = np.clip(steps, 0, 255).astype(np.uint8)
    return maps(values, prog.graph).reshape(len(values), -1)
