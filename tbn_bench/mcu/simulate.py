"""Runs a built model without a board and reads what its test program says.

qemu     Cortex-M and RISC-V; instructions are exact under -icount (one takes 64 ns of the board's
         time), cycles are not modelled
unicorn  a CPU emulator from pip, for where QEMU cannot be installed; Cortex-M0 to M33
simavr   ATmega328P with its cycles
host     the program itself; outputs only

The same program also does work of known length. A count is refused unless this work is counted
right.
"""

import re
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from tbn_bench.mcu.cores import Core, find_core
from tbn_bench.mcu.outcome import Ended, Result, SimulationError, hang
from tbn_bench.mcu.printed import result_of
from tbn_bench.mcu.simulators import EMULATORS, choose, missing
from tbn_bench.mcu.toolchain import Build
from tbn_bench.mcu.unicorn_board import run_on_unicorn

SECONDS = 120.0
_ICOUNT = ("-icount", "shift=6")


def run(
    build: Build,
    sim: str | None = None,
    inputs: np.ndarray | None = None,
    count: bool = True,
    timeout: float = SECONDS,
) -> Result:
    """Runs a program on its embedded vectors, or on `inputs`.

    inputs: (images, input_len), uint8 or float32 as the model takes them; nothing is counted then.
    count: False is faster and leaves instructions and cycles out. timeout: seconds. Raises
    SimulationError. A failed self-test or wrong outputs do not raise, see passed.
    """
    core = find_core(build.core)
    sim = choose(build.core) if sim is None else sim
    reason = missing(build.core, sim)
    if reason is not None:
        raise SimulationError(reason)
    raw = None if inputs is None else _raw(build, inputs)
    if raw is not None and core.family == "avr":
        raise SimulationError(
            "the Uno has no files to read inputs from; "
            "export with these images as vectors and run without inputs"
        )
    start = time.perf_counter()
    ended = _execute(
        build,
        sim,
        raw,
        count and raw is None,
        timeout,
    )
    seconds = time.perf_counter() - start
    return result_of(
        build,
        sim,
        ended,
        seconds,
        count,
    )


def program_output(build: Build, sim: str, timeout: float = SECONDS) -> tuple[int, str]:
    """(exit status, text) of a build whose test program is another than ours.

    Raises SimulationError.
    """
    reason = missing(build.core, sim)
    if reason is not None:
        raise SimulationError(reason)
    ended = _execute(
        build,
        sim,
        None,
        False,
        timeout,
    )
    return ended.status, ended.text


def _execute(
    build: Build,
    sim: str,
    raw: bytes | None,
    count: bool,
    timeout: float,
) -> Ended:
    """raw: the content of inputs.bin, or None for the embedded vectors."""
    if sim == "unicorn":
        return run_on_unicorn(
            build,
            raw,
            count,
            timeout,
        )
    with tempfile.TemporaryDirectory() as folder:
        return _program(
            build,
            sim,
            raw,
            count,
            timeout,
            Path(folder),
        )


def _raw(build: Build, inputs: np.ndarray) -> bytes:
    kind = np.dtype("<f4" if build.is_f32 else "u1")
    if inputs.dtype != kind or inputs.ndim != 2 or not len(inputs):
        raise ValueError(
            f"inputs must be (images, input_len) of {kind.name}, "
            f"got {inputs.shape} of {inputs.dtype}"
        )
    given = inputs.shape[1]
    length = build.model.get("input_len", given)
    if given != length:
        raise ValueError(
            f"the model takes inputs of input_len {length}, got {given}; "
            "the shape is flattened in the model's order"
        )
    return np.ascontiguousarray(inputs).tobytes()


def _command(
    build: Build,
    core: Core,
    sim: str,
    raw: bytes | None,
    count: bool,
) -> list[str]:
    program = str(build.elf)
    if sim == "host":
        files = [] if raw is None else ["inputs.bin", "outputs.bin"]
        return [program, *files]
    if sim == "simavr":
        image = str(build.elf.with_suffix(".hex"))
        return ["simavr", "-m", "atmega328p", "-f", "16000000", image]
    clock = _ICOUNT if count else ()
    bios = ("-bios", "none") if core.family == "riscv" else ()
    return [
        EMULATORS[sim, core.family].program,
        *("-M", str(core.board)),
        *bios,
        "-nographic",
        *("-monitor", "none"),
        *("-serial", "none"),
        *clock,
        *("-semihosting-config", "enable=on,target=native"),
        *("-kernel", program),
    ]


def _program(
    build: Build,
    sim: str,
    raw: bytes | None,
    count: bool,
    timeout: float,
    folder: Path,
) -> Ended:
    """Runs a program in `folder`. The program is gone afterwards in any case."""
    if raw is not None:
        (folder / "inputs.bin").write_bytes(raw)
    command = _command(
        build,
        find_core(build.core),
        sim,
        raw,
        count,
    )
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        text = (error.stdout or b"").decode(errors="replace")
        if sim == "simavr":
            text = _uart(text)
        raise SimulationError(
            hang(
                build,
                sim,
                timeout,
                text,
            )
        ) from error
    except OSError as error:
        raise SimulationError(f"{command[0]} could not be started: {error}") from error
    text = done.stdout.decode(errors="replace")
    status = done.returncode
    if sim == "simavr":
        text = _uart(text)
        status = _exit_status(text, status or 1)
    path = folder / "outputs.bin"
    written = path.read_bytes() if path.exists() else b""
    return Ended(status, text, written)


def _exit_status(text: str, otherwise: int) -> int:
    """The status that a program on simavr prints."""
    for line in text.splitlines():
        if line.startswith("exit "):
            return int(line.split()[1])
    return otherwise


def _uart(text: str) -> str:
    """The program's lines out of simavr's output: in green, with a dot for the line's end."""
    plain = re.sub(r"\x1b\[\d*m", "", text)
    lines = [line.removesuffix(".") + "\n" for line in plain.splitlines()]
    return "".join(lines)


# ---- unicorn ----
