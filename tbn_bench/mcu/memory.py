"""The layout of the arena: a byte offset for each value and each scratch area.

First fit by size. Buffers that are alive at the same time do not overlap.
"""

from dataclasses import dataclass

from tbn_bench.mcu import layout
from tbn_bench.mcu.program import Op, Program

_ALIGN = 4


@dataclass
class _Buffer:
    """Bytes that are in use from op `first` to op `last`, both included.

    key: ("value", index), or ("scratch" | "patch", index of the op).
    """

    key: tuple[str, int]
    first: int
    last: int
    size: int
    start: int = 0  # offset in the arena

    @property
    def end(self) -> int:
        return self.start + self.size

    def alive_with(self, other: "_Buffer") -> bool:
        return self.first <= other.last and other.first <= self.last


def plan(program: Program) -> None:
    """Sets the sizes and offsets of every op, and program.arena_bytes.

    A kernel loads whole words, so it may read behind its last input. The arena holds these bytes.
    """
    _set_sizes(program)
    buffers = _buffers(program)
    _place(buffers)
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


def _buffers(program: Program) -> list[_Buffer]:
    """All values in the order of their ops, then the scratch areas of each op."""
    last_use = _last_uses(program)
    input_size = _up(program.graph.size(0) * program.element)
    buffers = [_Buffer(("value", 0), -1, last_use.get(0, 0), input_size)]
    for i, op in enumerate(program.ops):
        value = op.node.output
        buffers.append(_Buffer(("value", value), i, last_use[value], _up(op.out_bytes)))
    for i, op in enumerate(program.ops):
        sizes = {"scratch": _scratch(op), "patch": _patch(op, program.element)}
        for kind, size in sizes.items():
            if size:
                buffers.append(_Buffer((kind, i), i, i, size))
    return buffers


def _last_uses(program: Program) -> dict[int, int]:
    """Value -> index of the last op that needs it. The output is needed after all ops."""
    last_use: dict[int, int] = {}
    for i, op in enumerate(program.ops):
        for value in op.node.inputs:
            last_use[value] = i
        last_use[op.node.output] = i
    last_use[program.graph.output] = len(program.ops)
    return last_use


def _up(n: int) -> int:
    return -(-n // _ALIGN) * _ALIGN


def _place(buffers: list[_Buffer]) -> None:
    """Sets the start of each buffer: the lowest offset that is free for its whole life.

    The largest buffers are placed first.
    """
    placed: list[_Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.first)):
        neighbours = [other for other in placed if other.alive_with(buffer)]
        taken = sorted((other.start, other.end) for other in neighbours)
        for low, high in taken:
            if buffer.end <= low:
                break
            buffer.start = max(buffer.start, high)
        placed.append(buffer)


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
    axes = zip(w.out, w.stride, w.kernel, w.shape[:2], strict=True)
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
