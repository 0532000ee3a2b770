"""What a simulated program left behind, and what went wrong."""

from dataclasses import dataclass, field

import numpy as np

from tbn_bench.mcu.toolchain import Build


class SimulationError(RuntimeError):
    """A simulator is missing, a program crashed or hung, or its count cannot be trusted."""


@dataclass(frozen=True)
class Result:
    """The outcome of one program.

    passed: it ended well, the self-test too, and no embedded vector's outputs differ.
    """

    sim: str
    core: str
    version: str  # of the simulator
    status: int  # what the program ended with
    selftest: int  # tbn_status; 0 too where the program was built without
    outputs: np.ndarray  # (images, outputs) int32 or float32
    seconds: float
    # embedded vectors with other outputs than expected; None for given inputs
    mismatches: int | None = None
    argmax: tuple[int, ...] = ()  # of embedded vectors
    instructions: tuple[int, ...] | None = None  # of one run, for each embedded vector
    cycles: tuple[int, ...] | None = None  # simavr
    stack: int | None = None  # bytes of one run at its deepest
    text: str = field(default="", repr=False)

    @property
    def passed(self) -> bool:
        return self.status == 0 and self.selftest == 0 and not self.mismatches


@dataclass(frozen=True)
class Ended:
    """What a program left. written: its outputs.bin, empty if there is none."""

    status: int
    text: str
    written: bytes


def last_lines(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return "it printed nothing"
    return f"its last output: {' | '.join(lines[-5:])}"


def hang(
    build: Build,
    sim: str,
    timeout: float,
    text: str,
) -> str:
    return (
        f"{build.elf} did not end within {timeout:g} s in {sim} and was stopped; {last_lines(text)}"
    )
