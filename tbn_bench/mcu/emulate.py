"""What the C code computes, bit for bit, in numpy: outputs of a batch, and the self-test's checksums.

Written from the numeric contract, not from the C code's algorithm: outputs of byte networks are sums over whole rows of integer weights.
"""

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbn_bench.mcu import layout, program, reference
from tbn_bench.mcu.program import Op, Program

Array = NDArray[Any]
PROBES = 4
_BATCH = 250


def run(prog: Program, x: Array) -> Array:
    """x: (B, input_len) uint8 or float32, maps as (h, w, c) -> (B, output_len) int32 or float32."""
    parts = [
        _values(prog, part)[prog.graph.output].reshape(len(part), -1)
        for part in np.split(x, range(_BATCH, len(x), _BATCH))
    ]
    found: Array = np.concatenate(parts).astype(
        np.int32 if prog.activations == "u8" else np.float32
    )
    return found


def _values(prog: Program, x: Array) -> list[Any]:
    values: list[Any] = [None] * len(prog.graph.shapes)
    values[0] = x.reshape(len(x), *prog.graph.shapes[0])
    for op in prog.ops:
        values[op.node.output] = one(prog, op, values)[0].reshape(
            len(x), *prog.graph.shapes[op.node.output]
        )
    return values


def one(prog: Program, op: Op, values: list[Any]) -> tuple[Array, Array]:
    """(outputs (B, pixels.., rows), what the kernel sums up, in its order (B, pixels.., sums)) of one op."""
    node = op.node
    nothing = np.zeros((len(values[node.inputs[0]]), 0))
    if node.kind == "add":
        return _add(op, *(values[i] for i in node.inputs)), nothing
    outside = op.pad if prog.activations == "u8" else -np.inf if node.kind == "max" else 0
    x = reference.inputs_of(node, values, outside)
    if node.kind == "max":
        return reference.reduced(node, x), nothing
    if node.kind == "pad":
        return reference.padded(
            node, x, op.bias_unit if prog.activations == "u8" else np.float32(0)
        ), nothing
    if node.kind == "mean":
        return _mean(op, x), nothing
    return _bytes(op, x, prog.layout) if prog.activations == "u8" else _floats(op, x)


def _clamp(total: Array, wide: bool) -> Array:
    out = total >> 32
    return out if wide else np.clip(out, 0, 255).astype(np.uint8)


def _start(op: Op) -> Array:
    return np.int64(2**31) + (
        np.int64(0) if op.biases is None else op.biases * np.int64(op.bias_unit)
    )


def _add(op: Op, a: Array, b: Array) -> Array:
    if op.function == "tbn_add_f32":
        out = a + b
        return np.where(op.node.relu & ~(out > 0), np.float32(0), out)
    return _clamp(
        _start(op)
        + a.astype(np.int64) * 256 * op.scales[0]
        + b.astype(np.int64) * 256 * op.scales[1],
        False,
    )


def _mean(op: Op, x: Array) -> Array:
    parts = x.reshape(*x.shape[:-1], -1, op.node.rows)
    if op.row == "tbn_mean_u8":
        return _clamp(2**31 + parts.astype(np.int64).sum(-2) * op.scales[0], False)
    total = np.zeros((*x.shape[:-1], op.node.rows), np.float32)
    for i in range(parts.shape[-2]):
        total = total + parts[..., i, :]
    return total * op.scales[0]


# -- bytes


def _bytes(op: Op, x: Array, form: str) -> tuple[Array, Array]:
    node = op.node
    if node.kind == "affine":
        return _clamp(_start(op) + x.astype(np.int64) * 256 * op.scales, op.wide), np.zeros(
            (len(x), 0)
        )
    if node.kind == "tiled":
        return _tiled_bytes(op, x)
    weights = _whole(op)
    if node.kind == "depthwise":
        sums = (x.reshape(*x.shape[:-1], -1, node.rows).astype(np.int64) * weights).sum(-2)
    else:
        sums = _matmul(x, weights)
    return _clamp(_start(op) + sums * op.scales, op.wide), sums.astype(np.int32)


def _matmul(x: Array, weights: Array) -> Array:
    """Exact: float64 holds every sum of the proved size. (.., n) by (rows, n) -> int64."""
    found: Array = (x.astype(np.float64) @ weights.astype(np.float64).T).astype(np.int64)
    return found


def _whole(op: Op) -> Array:
    """The int8 weights of an op, read back from its words: (rows, columns), (positions, channels) for depthwise."""
    node = op.node
    values = (
        ((op.weights[:, None] >> (8 * np.arange(4))) & 255).astype(np.uint8).view(np.int8)
    )  # (words, 4)
    if node.kind == "depthwise":
        return values.reshape(-1)[: node.columns].reshape(-1, node.rows)
    return _rows(values, node.rows).reshape(node.rows, -1)[:, : node.columns]


def _rows(table: Array, rows: int) -> Array:
    """Undoes the interleaving of four rows: (words, ..) -> (rows, words of a row, ..)."""
    each, block = len(table) // rows, rows // 4 * 4
    mixed = (
        table[: block * each]
        .reshape(-1, each, 4, *table.shape[1:])
        .swapaxes(1, 2)
        .reshape(block, each, *table.shape[1:])
    )
    return np.concatenate(
        [mixed, table[block * each :].reshape(rows - block, each, *table.shape[1:])]
    )


def _signs(op: Op) -> Array:
    form = "lane4" if op.row.endswith("lane4") else "nat"
    return layout.unpack(op.weights.astype(np.uint32), op.node.q, op.node.segment, form)


def _tiled_bytes(op: Op, x: Array) -> tuple[Array, Array]:
    node, g = op.node, op.node.segment
    signs = _signs(op)
    rows = np.tile(signs, node.p).reshape(node.rows, -1)
    terms = program.pieces(node)
    masks = np.zeros((len(terms), node.columns), np.int8)
    for i, t in enumerate(terms):
        span = slice(t.start * g, (t.start + t.length) * g)
        masks[i, span] = rows[t.row, span]
    scales = op.scales if op.per_row else op.scales[[t.alpha for t in terms]]
    products = _matmul(x, masks) * scales
    firsts = [i for i, t in enumerate(terms) if t.start == 0]
    out = _clamp(_start(op) + np.add.reduceat(products, firsts, axis=-1), op.wide)
    return out, _distinct(x, signs.reshape(-1, g)).astype(np.int32)


def _distinct(x: Array, tile: Array) -> Array:
    """The sums of each input segment and tile segment, input segments outermost: (.., per_input * per_tile)."""
    parts = x.reshape(*x.shape[:-1], -1, tile.shape[1])
    found: Array = _matmul(parts, tile).reshape(*x.shape[:-1], -1)
    return found


# -- floats: additions in the C code's order


def _floats(op: Op, x: Array) -> tuple[Array, Array]:
    node = op.node
    if node.kind == "tiled":
        sums = _tiled_sums(op, x)
        return _gathered(op, sums), sums
    zero = np.zeros(node.rows, np.float32) if op.biases is None else op.biases
    if node.kind == "affine":
        return _relu(op, zero + x * op.scales), np.zeros((len(x), 0))
    sums = np.zeros((*x.shape[:-1], node.rows), np.float32)
    if node.kind == "depthwise":
        parts, weights = x.reshape(*x.shape[:-1], -1, node.rows), op.weights.reshape(-1, node.rows)
        for i in range(len(weights)):
            sums = sums + weights[i] * parts[..., i, :]
    else:
        rows = _rows(op.weights, node.rows)
        for i in range(node.columns):
            sums = sums + rows[:, i] * x[..., i, None]
    return _relu(op, zero + sums * (op.scales if op.per_row else op.scales[0])), sums


def _relu(op: Op, out: Array) -> Array:
    return np.where(op.node.relu & ~(out > 0), np.float32(0), out)


def _tiled_sums(op: Op, x: Array) -> Array:
    g = op.node.segment
    tile = _signs(op).reshape(-1, g).astype(np.float32)
    parts = x.reshape(*x.shape[:-1], -1, 1, g)  # (.., input segments, 1, g)
    short = -g % 4
    parts = np.concatenate([parts, np.zeros((*parts.shape[:-1], short), np.float32)], -1)
    tile = np.pad(tile, ((0, 0), (0, short)), constant_values=-1)
    sums = np.zeros((*parts.shape[:-2], len(tile)), np.float32)
    for word in range(0, tile.shape[1], layout.WORD):
        total = None
        for at in range(word, min(word + layout.WORD, tile.shape[1]), 4):
            s = tile[:, at : at + 4] * parts[..., at : at + 4]
            nibble = (s[..., 0] + s[..., 1]) + (s[..., 2] + s[..., 3])
            total = nibble if total is None else total + nibble
        sums = sums + total
    return sums.reshape(*x.shape[:-1], -1)


def _gathered(op: Op, sums: Array) -> Array:
    node = op.node
    out = np.zeros((*sums.shape[:-1], node.rows), np.float32)
    if op.biases is not None:
        out = out + op.biases
    for i, term in enumerate(program.pieces(node)):
        total = np.zeros(sums.shape[:-1], np.float32)
        for k in range(term.start, term.start + term.length):
            total = (
                total
                + sums[..., k * node.per_tile + (term.row * node.per_input + k) % node.per_tile]
            )
        out[..., term.row] = out[..., term.row] + total * op.scales[i if op.per_row else term.alpha]
    return _relu(op, out)


# -- self-test


def checksums(prog: Program) -> list[int]:
    """What tbn_selftest expects: of each op the CRC-32 over its sums and outputs on PROBES dense inputs of its own, then that over the
    outputs of the whole network for one more."""
    found, state = [], 1
    for op in prog.ops:
        crc = 0
        for _ in range(PROBES):
            values: list[Any] = [None] * len(prog.graph.shapes)
            for value in op.node.inputs if op.node.kind == "add" else op.node.inputs[:1]:
                filled, state = _fill(prog.graph.size(value), prog.activations == "f32", state)
                values[value] = filled.reshape(1, *prog.graph.shapes[value])
            out, sums = one(prog, op, values)
            crc = zlib.crc32(np.ascontiguousarray(sums).tobytes(), crc)  # pixel by pixel
            crc = zlib.crc32(_stored(op, out, prog.activations).tobytes(), crc)
        found.append(crc)
    filled, state = _fill(prog.input_len, prog.activations == "f32", state)
    out = _values(prog, filled.reshape(1, -1))[prog.graph.output]
    return [*found, zlib.crc32(_stored(prog.output_op, out, prog.activations).tobytes())]


def _stored(op: Op, out: Array, activations: str) -> Array:
    kind = np.float32 if activations == "f32" else np.int32 if op.wide else np.uint8
    return np.ascontiguousarray(out.astype(kind))


def _fill(n: int, f32: bool, state: int) -> tuple[Array, int]:
    values = np.empty(n, np.int64)
    for i in range(n):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values[i] = state >> 24 | 1
    return (
        (values - 128).astype(np.float32) * np.float32(0.0078125)
        if f32
        else values.astype(np.uint8)
    ), state
