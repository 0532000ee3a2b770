"""Sizes of a program, read from its object files."""

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tbn_bench.mcu.cores import BARE, Family
from tbn_bench.mcu.errors import ToolchainError


@dataclass(frozen=True)
class Sizes:
    """Bytes in the linked program, unused sections removed."""

    code: int  # the library's
    constants: int
    data: int  # 0 in a library without globals
    bss: int
    helpers: int  # the compiler's routines, e.g. for floating point; 0 on a host
    flash: int  # the whole program with test program and vectors
    ram: int  # static, without stack

    @property
    def library_flash(self) -> int:
        return self.code + self.constants + self.data + self.helpers


# what GNU ld, lld, bare.ld and avr-gcc say
FULL = re.compile(
    r"will not fit|overflowed by|not within region|RAM is full|size of array .* is too large"
)


class Section(NamedTuple):
    name: str
    kind: int  # 1 bytes in the file, 8 none (bss)
    flags: int  # 1 written, 2 in memory, 4 executed
    size: int


def sections(path: Path) -> list[Section]:
    """Sections of a little-endian ELF file of 32 or 64 bits. Raises ToolchainError for others."""
    data = path.read_bytes()
    if data[:4] != b"\x7fELF" or data[5] != 1:
        raise ToolchainError(f"{path} is not a little-endian ELF file")
    wide = data[4] == 2
    form = _WIDE if wide else _NARROW
    (start,) = struct.unpack_from(form.offset, data, form.table_at)
    entry, count, names = struct.unpack_from("<3H", data, form.counts_at)
    rows = []
    for i in range(count):
        name, kind, flags, _, offset, size = struct.unpack_from(form.row, data, start + i * entry)
        rows.append((name, kind, flags, offset, size))
    strings = rows[names][3]
    found = []
    for name, kind, flags, _, size in rows:
        first = strings + name
        text = data[first : data.index(b"\0", first)].decode()
        found.append(
            Section(
                text,
                kind,
                flags,
                size,
            )
        )
    return found


class _Elf(NamedTuple):
    """Formats and places of an ELF header's fields."""

    offset: str  # of the table of sections
    table_at: int
    counts_at: int
    row: str  # name, kind, flags, address, offset, size


_NARROW = _Elf(
    "<I",
    32,
    46,
    "<6I",
)


_WIDE = _Elf(
    "<Q",
    40,
    58,
    "<2I4Q",
)


_NO_BYTES = 8  # kind of a section without bytes in the file


def sizes_of(elf: Path, library: list[Path], family: Family) -> Sizes:
    linked = [section for section in sections(elf) if section.flags & 2]
    of = {section.name: section.size for section in linked}
    if family in BARE:
        data = of.get(".lib_data", 0)
        bss = of.get(".lib_bss", 0)
    else:
        data, bss = _static(library, family)
    flash = [section.size for section in linked if section.kind != _NO_BYTES]
    ram = [section.size for section in linked if section.flags & 1]
    return Sizes(
        code=of.get(".lib_text", 0),
        constants=of.get(".lib_rodata", 0),
        data=data,
        bss=bss,
        helpers=of.get(".helpers", 0),
        flash=sum(flash),
        ram=sum(ram),
    )


def _static(library: list[Path], family: Family) -> tuple[int, int]:
    """(data, bss) of the library's objects, before unused sections are removed: an upper bound.

    The linker scripts of host and AVR have no sections of their own for them.
    """
    data_names = (".data", ".rodata") if family == "avr" else (".data",)
    data = 0
    bss = 0
    for path in library:
        for section in sections(path):
            if not section.flags & 2:
                continue
            if section.kind == _NO_BYTES:
                bss += section.size
            elif section.name.startswith(data_names):
                data += section.size
    return data, bss
