"""Where values and scratch lie in the arena: offsets in bytes, first fit by size, lifetimes not overlapping."""

from tbn_bench.mcu import layout
from tbn_bench.mcu.program import Op, Program

_ALIGN = 4


def plan(program: Program) -> None:
    """Sets the offsets of every op and program.arena_bytes. What an op reads behind its inputs (whole words of bytes) stays inside."""
    graph, ops, element = program.graph, program.ops, program.element
    last_use = {op.node.output: i for i, op in enumerate(ops)}
    for i, op in enumerate(ops):
        last_use |= dict.fromkeys(op.node.inputs, i)
    last_use[graph.output] = len(ops)
    blocks = [(0, -1, last_use.get(0, 0), _up(graph.size(0) * element))]  # (value, from, to, bytes)
    for i, op in enumerate(ops):
        value = op.node.output
        op.in_bytes = graph.size(op.node.inputs[0]) * element
        op.out_bytes = graph.size(value) * (4 if op.wide else element)
        blocks.append((value, i, last_use[value], _up(op.out_bytes)))
    keys: list[tuple[str, int]] = [("value", b[0]) for b in blocks]
    spans = [b[1:] for b in blocks]
    for i, op in enumerate(ops):
        for kind, size in (("scratch", _scratch(op)), ("patch", _patch(op, element))):
            if size:
                keys.append((kind, i))
                spans.append((i, i, size))
    at = dict(zip(keys, _place(spans), strict=True))
    for i, op in enumerate(ops):
        op.in_at, op.out_at = at["value", op.node.inputs[0]], at["value", op.node.output]
        op.scratch_at = (
            at["value", op.node.inputs[1]] if op.node.kind == "add" else at.get(("scratch", i), 0)
        )
        op.patch_at = at.get(("patch", i), 0)
    ends = [at[k] + s[2] for k, s in zip(keys, spans, strict=True)]
    program.arena_bytes = _up(max(ends + [_read_end(op) for op in ops]))


def _up(n: int) -> int:
    return -(-n // _ALIGN) * _ALIGN


def _place(spans: list[tuple[int, int, int]]) -> list[int]:
    """(from, to, bytes) each -> offsets; the largest are placed first, each at the lowest place free for all its life."""
    at = [0] * len(spans)
    placed: list[int] = []
    for i in sorted(range(len(spans)), key=lambda i: (-spans[i][2], spans[i][0])):
        taken = sorted(
            (at[j], at[j] + spans[j][2])
            for j in placed
            if spans[j][0] <= spans[i][1] and spans[i][0] <= spans[j][1]
        )
        for low, high in taken:
            if at[i] + spans[i][2] <= low:
                break
            at[i] = max(at[i], high)
        placed.append(i)
    return at


def _scratch(op: Op) -> int:
    return 4 * op.node.per_input * op.node.per_tile if op.node.kind == "tiled" else 0


def in_place(op: Op) -> bool:
    """True where every patch lies on the map in one piece: tbn_rt.c's `whole`."""
    w = op.node.window
    assert w is not None
    inside = all(
        (o - 1) * s + k <= n
        for o, s, k, n in zip(w.out, w.stride, w.kernel, w.shape[:2], strict=True)
    )
    one = w.kernel[0] == 1 or w.kernel[1] == w.shape[1]
    return w.padding == (0, 0) and w.dilation == (1, 1) and one and not w.channels_first and inside


def _patch(op: Op, element: int) -> int:
    if op.node.window is None or op.function != "tbn_window_op" or in_place(op):
        return 0
    return _up(op.node.window.patch * element)


def _read_end(op: Op) -> int:
    """End of the last word of inputs that the op's kernel loads."""
    node = op.node
    if not op.row.startswith(("tbn_tiled_u8", "tbn_dense_i8")):
        return 0
    over = (
        -node.columns % 4
        if node.kind == "dense"
        else layout.WORD * layout.words(node.segment) - node.segment
    )
    if node.window is None or (op.function == "tbn_window_op" and in_place(op)):
        return op.in_at + op.in_bytes + over
    return op.patch_at + node.columns + over
