"""The C code's outputs, bit for bit, in numpy: of a batch, and the self-test's checksums.

It is written from the numeric contract, not from the C code's algorithm: outputs of byte networks
are sums over whole rows of integer weights.
"""

import zlib
from typing import Any

import numpy as np

from tbn_bench.mcu import layout, reference
from tbn_bench.mcu.graph import Array, Node
from tbn_bench.mcu.program import Op, Program
from tbn_bench.mcu.scales import Piece, pieces

PROBES = 4
_BATCH = 250


def run(prog: Program, x: Array) -> Array:
    """x: (B, input_len) uint8 or float32 -> (B, output_len) int32 or float32. Maps: (h, w, c)."""
    parts = []
    starts = range(_BATCH, len(x), _BATCH)
    for part in np.split(x, starts):
        values = _values(prog, part)
        out = values[prog.graph.output]
        parts.append(out.reshape(len(part), -1))
    kind = np.int32 if prog.activations == "u8" else np.float32
    found: Array = np.concatenate(parts).astype(kind)
    return found


def _values(prog: Program, x: Array) -> list[Any]:
    """Every value of the network, by index."""
    shapes = prog.graph.shapes
    values: list[Any] = [None] * len(shapes)
    values[0] = x.reshape(len(x), *shapes[0])
    for op in prog.ops:
        out, _ = one(prog, op, values)
        value = op.node.output
        values[value] = out.reshape(len(x), *shapes[value])
    return values


def one(prog: Program, op: Op, values: list[Any]) -> tuple[Array, Array]:
    """(outputs, sums) of one op.

    outputs: (B, pixels..., rows). sums: (B, pixels..., sums) that the kernel makes, in its order.
    """
    node = op.node
    is_bytes = prog.activations == "u8"
    if node.kind == "add":
        first, second = (values[i] for i in node.inputs)
        return _add(op, first, second), _no_sums(first)
    x = reference.inputs_of(node, values, _outside(op, is_bytes))
    if node.kind == "max":
        return reference.reduced(node, x), _no_sums(x)
    if node.kind == "pad":
        zero = op.bias_unit if is_bytes else np.float32(0)
        return reference.padded(node, x, zero), _no_sums(x)
    if node.kind == "mean":
        return _mean(op, x), _no_sums(x)
    if node.kind == "lookup":
        table = op.weights.astype("<u4").view(np.uint8)
        return table[x], _no_sums(x)
    return _bytes(op, x) if is_bytes else _floats(op, x)


def _no_sums(x: Array) -> Array:
    return np.zeros((len(x), 0))


def _outside(op: Op, is_bytes: bool) -> Any:
    """The value beyond the edges of a map."""
    if is_bytes:
        return op.pad
    return -np.inf if op.node.kind == "max" else 0


def _clamp(total: Array, wide: bool) -> Array:
    out: Array = total >> 32
    if wide:
        return out
    clamped: Array = np.clip(out, 0, 255).astype(np.uint8)
    return clamped


def _start(op: Op) -> Any:
    """The 64-bit sum before the first product: one half for rounding, and the bias."""
    half = np.int64(2**31)
    if op.biases is None:
        return half
    unit = np.int64(op.bias_unit)
    return half + op.biases * unit


def _add(op: Op, a: Array, b: Array) -> Array:
    if op.function == "tbn_add_f32":
        return _relu(op, a + b)
    scale_a, scale_b = op.scales
    first = a.astype(np.int64) * 256 * scale_a
    second = b.astype(np.int64) * 256 * scale_b
    total = _start(op) + first + second
    return _clamp(total, wide=False)


def _mean(op: Op, x: Array) -> Array:
    parts = reference.by_channel(x, op.node.rows)
    scale = op.scales[0]
    if op.row == "tbn_mean_u8":
        sums = parts.astype(np.int64).sum(-2)
        total = 2**31 + sums * scale
        return _clamp(total, wide=False)
    *batch, pixels, channels = parts.shape
    total = np.zeros((*batch, channels), np.float32)
    for i in range(pixels):
        total = total + parts[..., i, :]
    found: Array = total * scale
    return found


# -- bytes


def _bytes(op: Op, x: Array) -> tuple[Array, Array]:
    node = op.node
    if node.kind == "affine":
        products = x.astype(np.int64) * 256 * op.scales
        total = _start(op) + products
        return _clamp(total, op.wide), _no_sums(x)
    if node.kind == "tiled":
        return _tiled_bytes(op, x)
    weights = _whole(op)
    if node.kind == "depthwise":
        parts = reference.by_channel(x, node.rows)
        products = parts.astype(np.int64) * weights
        sums = products.sum(-2)
    else:
        sums = _matmul(x, weights)
    total = _start(op) + sums * op.scales
    out = _clamp(total, op.wide)
    return out, sums.astype(np.int32)


def _matmul(x: Array, weights: Array) -> Array:
    """(..., n) by (rows, n) -> int64. Exact: float64 holds every sum of the proved size."""
    a = x.astype(np.float64)
    b = weights.astype(np.float64)
    products = a @ b.T
    found: Array = products.astype(np.int64)
    return found


def _whole(op: Op) -> Array:
    """The int8 weights of an op, read back from its words.

    (rows, columns); for depthwise layers (positions, channels).
    """
    node = op.node
    places = 8 * np.arange(4)
    parts = (op.weights[:, None] >> places) & 255
    values = parts.astype(np.uint8).view(np.int8)  # (words, 4)
    if node.kind == "depthwise":
        flat = values.reshape(-1)[: node.columns]
        return flat.reshape(-1, node.rows)
    rows = _rows(values, node.rows).reshape(node.rows, -1)
    return rows[:, : node.columns]


def _rows(table: Array, rows: int) -> Array:
    """Undoes the interleaving of four rows: (words, ...) -> (rows, words of a row, ...)."""
    each = len(table) // rows
    block = rows // 4 * 4
    rest = table.shape[1:]
    interleaved = table[: block * each].reshape(
        -1,
        each,
        4,
        *rest,
    )
    first = interleaved.swapaxes(1, 2).reshape(block, each, *rest)
    last = table[block * each :].reshape(rows - block, each, *rest)
    return np.concatenate([first, last])


def _signs(op: Op) -> Array:
    """The tile, read back from its words: (q,) of +-1."""
    node = op.node
    bit_order = "lane4" if op.row.endswith("lane4") else "nat"
    words = op.weights.astype(np.uint32)
    return layout.unpack(words, node.q, node.segment, bit_order)


def _tiled_bytes(op: Op, x: Array) -> tuple[Array, Array]:
    node = op.node
    signs = _signs(op)
    terms = pieces(node)
    weights = _weights_of_terms(node, signs, terms)
    scales = op.scales
    if not op.per_row:
        scales = scales[[term.alpha for term in terms]]
    products = _matmul(x, weights) * scales
    firsts = [i for i, term in enumerate(terms) if term.start == 0]
    totals = np.add.reduceat(products, firsts, axis=-1)
    out = _clamp(_start(op) + totals, op.wide)
    sums = _distinct(x, signs.reshape(-1, node.segment))
    return out, sums.astype(np.int32)


def _weights_of_terms(node: Node, signs: Array, terms: list[Piece]) -> Array:
    """(terms, columns): the row's signs where the term adds up, 0 elsewhere."""
    g = node.segment
    rows = np.tile(signs, node.p).reshape(node.rows, -1)
    weights = np.zeros((len(terms), node.columns), np.int8)
    for i, term in enumerate(terms):
        end = term.start + term.length
        span = slice(term.start * g, end * g)
        weights[i, span] = rows[term.row, span]
    return weights


def _distinct(x: Array, tile: Array) -> Array:
    """The sums of each input segment and tile segment: (..., per_input * per_tile).

    Input segments are outermost.
    """
    parts = x.reshape(*x.shape[:-1], -1, tile.shape[1])
    found: Array = _matmul(parts, tile).reshape(*x.shape[:-1], -1)
    return found


# -- floats: additions in the C code's order


def _floats(op: Op, x: Array) -> tuple[Array, Array]:
    node = op.node
    if node.kind == "tiled":
        sums = _tiled_sums(op, x)
        return _gathered(op, sums), sums
    bias = np.zeros(node.rows, np.float32) if op.biases is None else op.biases
    if node.kind == "affine":
        return _relu(op, bias + x * op.scales), _no_sums(x)
    sums = _depthwise_sums(op, x) if node.kind == "depthwise" else _dense_sums(op, x)
    scales = op.scales if op.per_row else op.scales[0]
    return _relu(op, bias + sums * scales), sums


def _depthwise_sums(op: Op, x: Array) -> Array:
    rows = op.node.rows
    parts = reference.by_channel(x, rows)
    weights = op.weights.reshape(-1, rows)
    sums = np.zeros((*x.shape[:-1], rows), np.float32)
    for i, weight in enumerate(weights):
        sums = sums + weight * parts[..., i, :]
    return sums


def _dense_sums(op: Op, x: Array) -> Array:
    rows = op.node.rows
    weights = _rows(op.weights, rows)
    sums = np.zeros((*x.shape[:-1], rows), np.float32)
    for i in range(op.node.columns):
        sums = sums + weights[:, i] * x[..., i, None]
    return sums


def _relu(op: Op, out: Array) -> Array:
    if not op.node.relu:
        return out
    positive = out > 0
    return np.where(positive, out, np.float32(0))


def _tiled_sums(op: Op, x: Array) -> Array:
    """The sums of each input segment and tile segment, word by word and nibble by nibble."""
    g = op.node.segment
    short = -g % 4
    tile = _signs(op).reshape(-1, g).astype(np.float32)
    tile = np.pad(tile, ((0, 0), (0, short)), constant_values=-1)
    parts = x.reshape(
        *x.shape[:-1],
        -1,
        1,
        g,
    )  # (..., input segments, 1, g)
    filling = np.zeros((*parts.shape[:-1], short), np.float32)
    parts = np.concatenate([parts, filling], -1)

    sums = np.zeros((*parts.shape[:-2], len(tile)), np.float32)
    for first in range(0, tile.shape[1], layout.WORD):
        word = slice(first, first + layout.WORD)
        sums = sums + _word_sum(tile[:, word], parts[..., word])
    return sums.reshape(*x.shape[:-1], -1)


def _word_sum(tile: Array, parts: Array) -> Array:
    """tile: (segments, up to 32), parts: (..., 1, up to 32) -> (..., segments)."""
    total: Array | None = None
    for at in range(0, tile.shape[1], 4):
        s = tile[:, at : at + 4] * parts[..., at : at + 4]
        nibble = (s[..., 0] + s[..., 1]) + (s[..., 2] + s[..., 3])
        total = nibble if total is None else total + nibble
    assert total is not None
    return total


def _gathered(op: Op, sums: Array) -> Array:
    """The sums of segments -> the outputs of whole rows."""
    node = op.node
    out = np.zeros((*sums.shape[:-1], node.rows), np.float32)
    if op.biases is not None:
        out = out + op.biases
    for i, term in enumerate(pieces(node)):
        first = term.row * node.per_input
        total = np.zeros(sums.shape[:-1], np.float32)
        for k in range(term.start, term.start + term.length):
            segment = (first + k) % node.per_tile
            total = total + sums[..., k * node.per_tile + segment]
        scale = op.scales[i if op.per_row else term.alpha]
        out[..., term.row] = out[..., term.row] + total * scale
    return _relu(op, out)


# -- self-test


def checksums(prog: Program) -> list[int]:
    """The values that tbn_selftest expects.

    For each op: the CRC-32 over its sums and outputs on PROBES dense inputs of its own. Then that
    over the outputs of the whole network for one more input.
    """
    noise = _Noise(prog)
    found = [_checksum(prog, op, noise) for op in prog.ops]
    x = noise.value(0).reshape(1, -1)
    values = _values(prog, x)
    out = values[prog.graph.output]
    stored = _stored(prog.output_op, out, prog.activations)
    found.append(zlib.crc32(stored.tobytes()))
    return found


def _checksum(prog: Program, op: Op, noise: "_Noise") -> int:
    inputs = op.node.inputs if op.node.kind == "add" else op.node.inputs[:1]
    crc = 0
    for _ in range(PROBES):
        values: list[Any] = [None] * len(prog.graph.shapes)
        for value in inputs:
            values[value] = noise.value(value)
        out, sums = one(prog, op, values)
        by_pixel = np.ascontiguousarray(sums)
        crc = zlib.crc32(by_pixel.tobytes(), crc)
        stored = _stored(op, out, prog.activations)
        crc = zlib.crc32(stored.tobytes(), crc)
    return crc


def _stored(op: Op, out: Array, activations: str) -> Array:
    """Outputs in the type that the C code keeps them in."""
    kind: Any = np.int32 if op.wide else np.uint8
    if activations == "f32":
        kind = np.float32
    typed = out.astype(kind)
    return np.ascontiguousarray(typed)


class _Noise:
    """The self-test's inputs: a linear congruential generator, the same as in tbn_rt.c."""

    def __init__(self, prog: Program):
        self.prog = prog
        self.state = 1

    def value(self, index: int) -> Array:
        """A value of the network as a batch of one: (1, h, w, c)."""
        graph = self.prog.graph
        size = graph.size(index)
        numbers = self._numbers(size)
        shape = graph.shapes[index]
        return numbers.reshape(1, *shape)

    def _numbers(self, n: int) -> Array:
        values = np.empty(n, np.int64)
        for i in range(n):
            self.state = (self.state * 1664525 + 1013904223) & 0xFFFFFFFF
            values[i] = self.state >> 24 | 1
        if self.prog.activations != "f32":
            return values.astype(np.uint8)
        centred = (values - 128).astype(np.float32)
        return centred * np.float32(0.0078125)
