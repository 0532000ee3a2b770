"""Where the values of a region are in its arena."""

from tbn_bench import native
from tbn_bench.compiler.arena import Buffer, Life, lifetimes, place
from tbn_bench.compiler.cpu.region import Region
from tbn_bench.compiler.rules.activations import ACTIVATIONS
from tbn_bench.native import Op

_NAMES = [activation.name for activation in ACTIVATIONS]
_IN_PLACE = (native.ADD, native.RELU, native.AFFINE, native.COPY, native.CLAMP, *_NAMES)


def offsets(region: Region, kept: set[int]) -> list[int]:
    """The position of each value in the arena of one image, in floats. kept: alive all the time."""
    lives = lifetimes(
        _steps(region),
        inputs=region.inputs.values(),
        kept=kept & _made(region),
    )
    reused = _computed_in_place(region, lives, kept)
    _prolong(lives, reused)
    buffers = [
        Buffer(value, first, last, _size(region, value))
        for value, (first, last) in sorted(lives.items())
        if value not in reused
    ]
    buffers.sort(key=lambda buffer: (buffer.first, buffer.last))
    place(buffers)
    starts = {buffer.key: buffer.start for buffer in buffers}
    found = []
    for value in range(len(region.values)):
        root = reused.get(value, value)
        found.append(starts.get(root, 0))
    return found


def _prolong(lives: dict[int, Life], reused: dict[int, int]) -> None:
    """A buffer lives as long as the last value that is computed in it."""
    for value, root in reused.items():
        _, own_last = lives[value]
        first, last = lives[root]
        lives[root] = (first, max(last, own_last))


def _steps(region: Region) -> list[tuple[list[int], int]]:
    return [(_read(op), op.output) for op in region.ops]


def _read(op: Op) -> list[int]:
    return [value for value in (op.input, op.residual) if value >= 0]


def _made(region: Region) -> set[int]:
    made = {op.output for op in region.ops}
    return made | set(region.inputs.values())


def _size(region: Region, value: int) -> int:
    shape = region.values[value].shape
    return native.padded_size(shape)


def _computed_in_place(region: Region, lives: dict[int, Life], kept: set[int]) -> dict[int, int]:
    """Values computed in place: value -> the value whose buffer it reuses."""
    reused: dict[int, int] = {}
    for step, op in enumerate(region.ops):
        source = _replaceable(op)
        if source < 0 or kept & {source, op.output}:
            continue
        is_last_use = lives[source][1] == step
        if is_last_use and _size(region, source) == _size(region, op.output):
            reused[op.output] = reused.get(source, source)
    return reused


def _replaceable(op: Op) -> int:
    """The operand whose buffer the op may overwrite, element by element; -1 for none."""
    if op.residual >= 0:
        # a convolution reads its input around each output
        is_read_around = op.kind == native.CONV and op.residual == op.input
        if is_read_around:
            return -1
        return op.residual
    if op.kind in _IN_PLACE:
        return op.input
    return -1
