"""A Cortex-M board on unicorn, a CPU emulator from pip."""

import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tbn_bench.mcu.cores import find_core
from tbn_bench.mcu.outcome import Ended, SimulationError, hang, last_lines
from tbn_bench.mcu.toolchain import Build

SYSTICK = 1 << 24  # ticks of a round


class Board:
    """Processor, memories, SysTick and semihosting for one program.

    SysTick ticks once per instruction.
    """

    def __init__(
        self,
        build: Build,
        raw: bytes | None,
        count: bool,
    ):
        import unicorn
        from unicorn import arm_const

        self.api = unicorn
        self.registers = arm_const
        self.build = build
        self.uc = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        processor = f"UC_CPU_ARM_CORTEX_{find_core(build.core).unicorn}"
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
        self.uc.mmio_map(
            0xE000E000,
            0x1000,
            self._read_register,
            None,
            self._write_register,
            None,
        )
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

    def _block(
        self,
        uc: Any,
        address: int,
        size: int,
        _: Any,
    ) -> None:
        key = (address, size)
        if key not in self.lengths:
            code = bytes(uc.mem_read(address, size))
            self.lengths[key] = _thumb_instructions(code)
        self.executed += self.lengths[key]

    def _read_register(
        self,
        uc: Any,
        offset: int,
        size: int,
        _: Any,
    ) -> int:
        if offset != 0x18:
            return 0
        elapsed = self.executed - self.started
        self.long |= elapsed >= SYSTICK
        return -elapsed % SYSTICK

    def _write_register(
        self,
        uc: Any,
        offset: int,
        size: int,
        value: int,
        _: Any,
    ) -> None:
        if offset == 0x10 and value & 1:
            self.started = self.executed

    def _interrupt(
        self,
        uc: Any,
        number: int,
        _: Any,
    ) -> None:
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


def run_on_unicorn(
    build: Build,
    raw: bytes | None,
    count: bool,
    timeout: float,
) -> Ended:
    board = Board(build, raw, count)
    board.start(timeout)
    if board.failure:
        raise SimulationError(f"{build.elf} on unicorn: {board.failure}; {last_lines(board.text)}")
    if board.status is None:
        raise SimulationError(
            hang(
                build,
                "unicorn",
                timeout,
                board.text,
            )
        )
    if board.long:
        raise SimulationError(
            f"{build.elf} runs more than {SYSTICK - 1} instructions, "
            "more than unicorn's SysTick counts; use qemu"
        )
    return Ended(board.status, board.text, bytes(board.written))


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
