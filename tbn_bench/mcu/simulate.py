"""Runs a built model without a board and reads what its test program says.

qemu     qemu-system-arm; instructions are exact under -icount (one takes 64 ns of the board's
         time), cycles are not modelled
unicorn  a CPU emulator from pip, for where QEMU cannot be installed; Cortex-M0 to M33
simavr   ATmega328P with its cycles
host     the program itself; outputs only

The same program also does work of known length. A count is refused unless this work is counted
right.
"""

import importlib.metadata
import importlib.util
import re
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tbn_bench.mcu.toolchain import PIP_INSTALL, Build, Core, find_core

SIMULATORS = {"host": ("host",), "arm": ("qemu", "unicorn"), "avr": ("simavr",)}
SECONDS = 120.0
_ICOUNT = ("-icount", "shift=6")
_SLACK = 30  # instructions or cycles of a call and its return around the work of known length
# ticks: each reading is cut off, and the way into and out of a run may differ by an instruction
_JITTER = 3
_SYSTICK = 1 << 24  # ticks of a round
_APT = {
    "qemu": ("qemu-system-arm", "apt-get install --no-install-recommends qemu-system-arm"),
    "simavr": ("simavr", "apt-get install --no-install-recommends simavr"),
}
_UNICORN_CORES = {"m0": "M0", "m3": "M3", "m4": "M4", "m7": "M7", "m33": "M33"}


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


def missing(core: str, sim: str) -> str | None:
    """Why a simulator cannot run a core's programs here, with the install command.

    None where it can.
    """
    kind = find_core(core).kind
    if sim not in SIMULATORS[kind]:
        return f"{sim} does not run programs for {core}; use {' or '.join(SIMULATORS[kind])}"
    if sim == "unicorn":
        if core not in _UNICORN_CORES:
            return f"unicorn does not know the processor {core}; use qemu ({_APT['qemu'][1]})"
        if importlib.util.find_spec("unicorn"):
            return None
        return f"unicorn is not installed; run: {PIP_INSTALL}"
    if sim == "host":
        return None
    program, install = _APT[sim]
    if shutil.which(program):
        return None
    return f"{program} is not installed; run: {install}"


def version(sim: str) -> str:
    """Name and version of a simulator that is installed; the name alone for some."""
    if sim == "qemu":
        command = ["qemu-system-arm", "--version"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        return done.stdout.splitlines()[0]
    if sim == "unicorn":
        number = importlib.metadata.version("unicorn")
        return f"unicorn {number}"
    return sim


def choose(core: str) -> str:
    """The first simulator for a core that is here. Raises SimulationError with install commands."""
    reasons = []
    for sim in SIMULATORS[find_core(core).kind]:
        reason = missing(core, sim)
        if reason is None:
            return sim
        reasons.append(reason)
    raise SimulationError(f"no simulator for {core}: {'; or: '.join(reasons)}")


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
    if raw is not None and core.kind == "avr":
        raise SimulationError(
            "the Uno has no files to read inputs from; "
            "export with these images as vectors and run without inputs"
        )
    start = time.perf_counter()
    ended = _execute(build, sim, raw, count and raw is None, timeout)
    seconds = time.perf_counter() - start
    return _result(build, sim, ended, seconds, count)


def program_output(build: Build, sim: str, timeout: float = SECONDS) -> tuple[int, str]:
    """(exit status, text) of a build whose test program is another than ours.

    Raises SimulationError.
    """
    reason = missing(build.core, sim)
    if reason is not None:
        raise SimulationError(reason)
    ended = _execute(build, sim, None, False, timeout)
    return ended.status, ended.text


@dataclass(frozen=True)
class _Ended:
    """What a program left. written: its outputs.bin, empty if there is none."""

    status: int
    text: str
    written: bytes


def _execute(build: Build, sim: str, raw: bytes | None, count: bool, timeout: float) -> _Ended:
    """raw: the content of inputs.bin, or None for the embedded vectors."""
    if sim == "unicorn":
        return _unicorn(build, raw, count, timeout)
    with tempfile.TemporaryDirectory() as folder:
        return _program(build, sim, raw, count, timeout, Path(folder))


def _is_f32(build: Build) -> bool:
    return build.model["activations"] == "f32"


def _raw(build: Build, inputs: np.ndarray) -> bytes:
    kind = np.dtype("<f4" if _is_f32(build) else "u1")
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


def _command(build: Build, core: Core, sim: str, raw: bytes | None, count: bool) -> list[str]:
    program = str(build.elf)
    if sim == "host":
        files = [] if raw is None else ["inputs.bin", "outputs.bin"]
        return [program, *files]
    if sim == "simavr":
        image = str(build.elf.with_suffix(".hex"))
        return ["simavr", "-m", "atmega328p", "-f", "16000000", image]
    clock = _ICOUNT if count else ()
    return [
        "qemu-system-arm",
        *("-M", str(core.board)),
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
) -> _Ended:
    """Runs a program in `folder`. The program is gone afterwards in any case."""
    if raw is not None:
        (folder / "inputs.bin").write_bytes(raw)
    command = _command(build, find_core(build.core), sim, raw, count)
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
        raise SimulationError(_hang(build, sim, timeout, text)) from error
    except OSError as error:
        raise SimulationError(f"{command[0]} could not be started: {error}") from error
    text = done.stdout.decode(errors="replace")
    status = done.returncode
    if sim == "simavr":
        text = _uart(text)
        status = _exit_status(text, status or 1)
    path = folder / "outputs.bin"
    written = path.read_bytes() if path.exists() else b""
    return _Ended(status, text, written)


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


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return "it printed nothing"
    return f"its last output: {' | '.join(lines[-5:])}"


def _hang(build: Build, sim: str, timeout: float, text: str) -> str:
    return f"{build.elf} did not end within {timeout:g} s in {sim} and was stopped; {_last(text)}"


def _result(build: Build, sim: str, ended: _Ended, seconds: float, count: bool) -> Result:
    said = _lines(ended.text)
    _check_end(build, sim, ended, said)
    is_f32 = _is_f32(build)
    common: dict[str, Any] = {
        "sim": sim,
        "core": build.core,
        "version": version(sim),
        "status": ended.status,
        "selftest": _number(said, "selftest", 0),
        "seconds": seconds,
        "text": ended.text,
    }
    images = _number(said, "images")
    if images is not None:
        values = np.frombuffer(ended.written, "<f4" if is_f32 else "<i4")
        return Result(outputs=values.reshape(images, -1), **common)
    counts = None
    if count and "ticks" in said:
        counts = _counts(said, find_core(build.core), sim)
    return Result(
        outputs=_outputs(said["output"], is_f32),
        argmax=tuple(int(row[1]) for row in said["argmax"]),
        mismatches=int(said["mismatch"][0][0]),
        stack=_number(said, "stack"),
        cycles=counts if sim == "simavr" else None,
        instructions=None if sim == "simavr" else counts,
        **common,
    )


def _check_end(build: Build, sim: str, ended: _Ended, said: dict[str, list[list[str]]]) -> None:
    """Raises SimulationError where a program did not run to its end."""
    init = _number(said, "init", 0)
    if init:
        raise SimulationError(
            f"{build.elf} on {sim}: init returned {init} (tbn_status in src/tbn_rt.h); "
            "nothing was run"
        )
    last = _last(ended.text)
    if "error" in said:
        reason = said["error"][0][0].replace("_", " ")
        raise SimulationError(f"{build.elf} on {sim}: {reason}; {last}")
    if "done" not in said:
        raise SimulationError(
            f"{build.elf} on {sim} ended with status {ended.status} before it was done; {last}"
        )


def _number(
    said: dict[str, list[list[str]]],
    key: str,
    otherwise: int | None = None,
) -> int | None:
    """The first value behind a key of a program's text."""
    if key not in said:
        return otherwise
    return int(said[key][0][0])


def _lines(text: str) -> dict[str, list[list[str]]]:
    said: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        if re.fullmatch(r"[a-z]+( \S+)+", line):
            key, *values = line.split()
            said.setdefault(key, []).append(values)
    return said


def _outputs(said: list[list[str]], f32: bool) -> np.ndarray:
    """The values behind the number of the vector; floats are printed by their bits."""
    base = 16 if f32 else 10
    rows = []
    for _, *values in said:
        rows.append([int(value, base) for value in values])
    if f32:
        return np.array(rows, np.uint32).view(np.float32)
    return np.array(rows, np.int32)


def _counts(said: dict[str, list[list[str]]], core: Core, sim: str) -> tuple[int, ...]:
    """Instructions (simavr: cycles) of each vector's run.

    Raises SimulationError where calibration or repetition disagree.
    """
    empty = [int(v) for v in said["empty"][0]]
    length, *known = (int(v) for v in said["calibration"][0])
    rows = []
    for _, *ticks in said["ticks"]:
        rows.append([int(v) for v in ticks])
    if sim == "simavr":
        return _cycles(empty[0], length, known, rows)
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


def _cycles(empty: int, length: int, known: list[int], rows: list[list[int]]) -> tuple[int, ...]:
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


# ---- unicorn ----


class _Board:
    """Processor, memories, SysTick and semihosting for one program.

    SysTick ticks once per instruction.
    """

    def __init__(self, build: Build, raw: bytes | None, count: bool):
        import unicorn
        from unicorn import arm_const

        self.api = unicorn
        self.registers = arm_const
        self.build = build
        self.uc = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        processor = f"UC_CPU_ARM_CORTEX_{_UNICORN_CORES[build.core]}"
        self.uc.ctl_set_cpu_model(getattr(arm_const, processor))
        self.unread = memoryview(raw or b"")
        self.given = raw is not None
        self.written = bytearray()
        self.text = ""
        self.status: int | None = None
        self.failure: str | None = None
        self.executed = 0
        self.started = 0
        self.long = False
        self.lengths: dict[tuple[int, int], int] = {}
        self._load(build)
        self.uc.mmio_map(0xE000E000, 0x1000, self._read_register, None, self._write_register, None)
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupt)
        if count:
            self.uc.hook_add(unicorn.UC_HOOK_BLOCK, self._block)

    def _load(self, build: Build) -> None:
        script = (build.folder / "test" / f"{build.core}.ld").read_text()
        memories = re.findall(r"R[OA]M \(\w+\) : ORIGIN = (\w+), LENGTH = (\d+)([KM])", script)
        for origin, length, unit in memories:
            unit_bytes = 1024 if unit == "K" else 1024 * 1024
            self.uc.mem_map(int(origin, 16), int(length) * unit_bytes)
        for address, content in _segments(build.elf):
            self.uc.mem_write(address, content)
        self.table = int(memories[0][0], 16)

    def start(self, timeout: float) -> None:
        stack, entry = struct.unpack("<2I", self.uc.mem_read(self.table, 8))
        self.uc.reg_write(self.registers.UC_ARM_REG_SP, stack)
        try:
            self.uc.emu_start(entry | 1, 0xFFFFFFF0, timeout=int(timeout * 1e6))
        except self.api.UcError as error:
            where = self.uc.reg_read(self.registers.UC_ARM_REG_PC)
            self.failure = self.failure or f"stopped at {where:#x}: {error}"

    def _block(self, uc: Any, address: int, size: int, _: Any) -> None:
        key = (address, size)
        if key not in self.lengths:
            code = bytes(uc.mem_read(address, size))
            self.lengths[key] = _thumb_instructions(code)
        self.executed += self.lengths[key]

    def _read_register(self, uc: Any, offset: int, size: int, _: Any) -> int:
        if offset != 0x18:
            return 0
        elapsed = self.executed - self.started
        self.long |= elapsed >= _SYSTICK
        return -elapsed % _SYSTICK

    def _write_register(self, uc: Any, offset: int, size: int, value: int, _: Any) -> None:
        if offset == 0x10 and value & 1:
            self.started = self.executed

    def _interrupt(self, uc: Any, number: int, _: Any) -> None:
        pc = uc.reg_read(self.registers.UC_ARM_REG_PC)
        if bytes(uc.mem_read(pc, 2)) != b"\xab\xbe":
            self.failure = f"processor exception {number} at {pc:#x}"
            uc.emu_stop()
            return
        operation = uc.reg_read(self.registers.UC_ARM_REG_R0)
        argument = uc.reg_read(self.registers.UC_ARM_REG_R1)
        answer = self._call(operation, argument)
        uc.reg_write(self.registers.UC_ARM_REG_R0, answer & 0xFFFFFFFF)
        uc.reg_write(self.registers.UC_ARM_REG_PC, (pc + 2) | 1)

    def _string(self, address: int) -> str:
        content = bytearray()
        while byte := self.uc.mem_read(address + len(content), 1)[0]:
            content.append(byte)
        return content.decode(errors="replace")

    def _call(self, operation: int, argument: int) -> int:
        """The answer to one semihosting operation."""
        if operation == 0x04:  # SYS_WRITE0
            self.text += self._string(argument)
            return 0
        first, second, third = struct.unpack("<3I", self.uc.mem_read(argument, 12))
        if operation == 0x01:  # SYS_OPEN
            return self._open(self._string(first))
        if operation == 0x05:  # SYS_WRITE
            self.written += self.uc.mem_read(second, third)
            return 0
        if operation == 0x06:  # SYS_READ
            chunk = bytes(self.unread[:third])
            self.unread = self.unread[third:]
            self.uc.mem_write(second, chunk)
            return third - len(chunk)
        self.status = second
        if operation != 0x20:  # SYS_EXIT_EXTENDED
            self.failure = (
                f"semihosting operation {operation:#x} is not one that the test program uses"
            )
        self.uc.emu_stop()
        return 0

    def _open(self, name: str) -> int:
        """The handle of a file, or -1."""
        if name == "inputs.bin" and self.given:
            return 1
        return 2 if name == "outputs.bin" else -1


def _unicorn(build: Build, raw: bytes | None, count: bool, timeout: float) -> _Ended:
    board = _Board(build, raw, count)
    board.start(timeout)
    if board.failure:
        raise SimulationError(f"{build.elf} on unicorn: {board.failure}; {_last(board.text)}")
    if board.status is None:
        raise SimulationError(_hang(build, "unicorn", timeout, board.text))
    if board.long:
        raise SimulationError(
            f"{build.elf} runs more than {_SYSTICK - 1} instructions, "
            "more than unicorn's SysTick counts; use qemu"
        )
    return _Ended(board.status, board.text, bytes(board.written))


def _thumb_instructions(code: bytes) -> int:
    """Number of instructions in Thumb code.

    One has two halfwords if its first begins with 0b11101, 0b11110 or 0b11111.
    """
    halves: Sequence[int] = struct.unpack(f"<{len(code) // 2}H", code)
    count = 0
    i = 0
    while i < len(halves):
        i += 2 if halves[i] >= 0xE800 else 1
        count += 1
    return count


def _segments(elf: Path) -> list[tuple[int, bytes]]:
    """Load address and content of each loaded segment of a 32-bit ELF file."""
    data = elf.read_bytes()
    start = struct.unpack_from("<I", data, 28)[0]
    entry, count = struct.unpack_from("<2H", data, 42)
    found = []
    for i in range(count):
        header = struct.unpack_from("<8I", data, start + i * entry)
        kind, offset, _, address, size, *_ = header
        if kind == 1 and size:
            found.append((address, data[offset : offset + size]))
    return found
