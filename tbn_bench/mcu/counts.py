"""Instructions and cycles of a run, from the readings that a program prints."""

from tbn_bench.mcu.cores import Core
from tbn_bench.mcu.outcome import SimulationError

# instructions or cycles of the call and the return, in addition to work of known length
_SLACK = 30
# ticks: readings are rounded down, and two runs may differ by an instruction outside the work
_JITTER = 3


def counts_of(said: dict[str, list[list[str]]], core: Core, sim: str) -> tuple[int, ...]:
    """Instructions (simavr: cycles) of each vector's run.

    Raises SimulationError where calibration or repetition disagree.
    """
    empty = [int(v) for v in said["empty"][0]]
    length, *known = (int(v) for v in said["calibration"][0])
    rows = []
    for _, *texts in said["ticks"]:
        rows.append([int(text) for text in texts])
    if sim == "simavr":
        return _cycles(
            empty[0],
            length,
            known,
            rows,
        )
    scale = 1.0 if sim == "unicorn" else float(core.ticks or 0)
    for ticks, nothing in zip(known, empty, strict=True):
        excess = (ticks - nothing) / scale - length
        if not -_JITTER <= excess <= _SLACK:
            raise SimulationError(
                f"{sim} shows {known[0]} and {known[1]} ticks for {length} instructions of "
                f"{core.board}, expected {length * scale:.0f}: its clock does not follow the "
                "instructions, so counts would depend on this computer; "
                "QEMU must run with -icount shift=6"
            )
    for i, (first, second) in enumerate(rows):
        if abs(first - second) > _JITTER:
            raise SimulationError(
                f"{sim} shows {first} and then {second} ticks for the same run of vector {i}; "
                "expected the same"
            )
    return tuple(round((first - empty[0]) / scale) for first, _ in rows)


def _cycles(
    empty: int,
    length: int,
    known: list[int],
    rows: list[list[int]],
) -> tuple[int, ...]:
    """simavr's cycles of each row. known: the reading for work of `length` cycles."""
    if any(coarse == 0xFFFFFFFF for _, coarse in rows):
        raise SimulationError(
            "a run takes more than 67 million cycles, more than Timer1 counts; run with count=False"
        )
    fine, coarse = known
    found = _two_clocks(fine, coarse) - empty
    if not 0 <= found - length <= _SLACK:
        raise SimulationError(
            f"simavr counts {found} cycles for work of {length}; "
            "this version of simavr cannot be trusted"
        )
    return tuple(_two_clocks(fine, coarse) - empty for fine, coarse in rows)


def _two_clocks(fine: int, coarse: int) -> int:
    """Cycles from a count modulo 65536 and one in units of 1024 cycles, below 2^26."""
    rest = coarse * 1024 + 512 - fine
    rounds = max(0, round(rest / 65536))
    return fine + 65536 * rounds
