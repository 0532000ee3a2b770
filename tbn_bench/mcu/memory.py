"""The layout of the arena: a byte offset for each value and each scratch area."""

from tbn_bench.compiler.arena import Buffer, lifetimes, place
from tbn_bench.mcu import layout
from tbn_bench.mcu.program import Op, Program

_ALIGN = 4


def plan(program: Program) -> None:
    """Sets the sizes and offsets of every op, and program.arena_bytes.

    A kernel loads whole words, so it may read behind its last input. The arena holds these bytes.
    """
    _set_sizes(program)
    buffers = _buffers(program)
    place(buffers)
    at = {buffer.key: buffer.start for buffer in buffers}
    for i, op in enumerate(program.ops):
        inputs = op.node.inputs
        op.in_at = at["value", inputs[0]]
        op.out_at = at["value", op.node.output]
        op.patch_at = at.get(("patch", i), 0)
        if op.node.kind == "add":
            op.scratch_at = at["value", inputs[1]]
        else:
            op.scratch_at = at.get(("scratch", i), 0)
    ends = [buffer.end for buffer in buffers]
    read_ends = [_read_end(op) for op in program.ops]
    program.arena_bytes = _up(max(ends + read_ends))


def _set_sizes(program: Program) -> None:
    graph = program.graph
    for op in program.ops:
        each = 4 if op.wide else program.element
        op.in_bytes = graph.size(op.node.inputs[0]) * program.element
        op.out_bytes = graph.size(op.node.output) * each


def _buffers(program: Program) -> list[Buffer]:
    """All values in the order of their ops, then the scratch areas of each op."""
    steps = [(op.node.inputs, op.node.output) for op in program.ops]
    lives = lifetimes(steps, inputs=[0], kept=[program.graph.output])
    sizes = {op.node.output: op.out_bytes for op in program.ops}
    sizes[0] = program.graph.size(0) * program.element
    buffers = [Buffer(("value", v), *life, _up(sizes[v])) for v, life in lives.items()]
    for i, op in enumerate(program.ops):
        scratch = {"scratch": _scratch(op), "patch": _patch(op, program.element)}
        for kind, size in scratch.items():
            if size:
                buffers.append(
                    Buffer(
                        (kind, i),
                        i,
                        i,
                        size,
                    )
                )
    return buffers


def _up(n: int) -> int:
    return -(-n // _ALIGN) * _ALIGN


def _scratch(op: Op) -> int:
    """Bytes for the sums of a tiled layer."""
    node = op.node
    if node.kind != "tiled":
        return 0
    return 4 * node.per_input * node.per_tile


def in_place(op: Op) -> bool:
    """True where every patch is one contiguous piece of the map: `whole` in tbn_rt.c."""
    w = op.node.window
    assert w is not None
    axes = zip(
        w.out,
        w.stride,
        w.kernel,
        w.shape[:2],
        strict=True,
    )
    inside = all((out - 1) * stride + kernel <= size for out, stride, kernel, size in axes)
    one_row = w.kernel[0] == 1
    whole_rows = w.kernel[1] == w.shape[1]
    if w.padding != (0, 0) or w.dilation != (1, 1) or w.channels_first:
        return False
    return inside and (one_row or whole_rows)


def _reads_in_place(op: Op) -> bool:
    return op.function == "tbn_window_op" and in_place(op)


def _patch(op: Op, element: int) -> int:
    """Bytes for a copy of one patch, where the op needs a copy."""
    window = op.node.window
    if window is None or op.function != "tbn_window_op" or in_place(op):
        return 0
    return _up(window.patch * element)


def _read_end(op: Op) -> int:
    """End of the last word of inputs that the op's kernel loads."""
    node = op.node
    if not op.row.startswith(("tbn_tiled_u8", "tbn_dense_i8")):
        return 0
    if node.kind == "dense":
        over = -node.columns % 4
    else:
        over = layout.WORD * layout.words(node.segment) - node.segment
    if node.window is None or _reads_in_place(op):
        return op.in_at + op.in_bytes + over
    return op.patch_at + node.columns + over
