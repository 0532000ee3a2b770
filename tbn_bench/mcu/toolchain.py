"""Compilers for exported C folders: which are installed, how to install the others, and builds.

A folder has the library in src/ and the test program in test/. test/Makefile makes the same build
without Python. Two families:

gcc   the system's cc for the host, arm-none-eabi-gcc for Cortex-M, avr-gcc for the Arduino Uno; no
      C library is needed for Cortex-M
zig   clang from the pip package ziglang, for host and Cortex-M
"""

import importlib.util
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tbn_bench.records.store import RecordError, read_json

COMPILERS = ("gcc", "zig")
OPTIMIZE = ("-O2", "-Os")
PIP_INSTALL = "pip install 'tbn-bench[mcu]'"
LAYERS = "-DTEST_LAYERS"  # a test program that counts each operation by itself
COMPILE_SECONDS = 300  # zig builds its runtime once, at its first use for a target
_COMMON = ("-ffunction-sections", "-fdata-sections", "-ffp-contract=off")
_STRICT = ("-Wall", "-Wextra", "-Wconversion", "-Werror")


class ToolchainError(RuntimeError):
    """A tool is missing, or a compiler or linker refused.

    The message says what to do, or the first error of the tool.
    """


class DoesNotFit(ToolchainError):
    """The program is larger than the flash or RAM of the board."""


class Core(NamedTuple):
    """A processor that a model can be built for.

    board: QEMU's machine. ticks: of its SysTick in an instruction of 64 ns (-icount shift=6).
    """

    name: str
    kind: str  # host, arm, avr
    flags: tuple[str, ...] = ()  # gcc
    zig: tuple[str, ...] | None = None
    board: str | None = None
    ticks: float | None = None


_ZIG_FEATURES = {
    "m4": "+vfp4d16sp",
    "m7": "+fp_armv8d16sp",
    "m33": "+fp_armv8d16sp+dsp",
    "m55": "+mve_fp",
}


def _arm(name: str, cpu: str, fpu: str | None, board: str, megahertz: float) -> Core:
    """fpu: None for a core without one, "" for the one that the processor's name implies."""
    flags = ["-mthumb", f"-mcpu={cpu}"]
    if fpu is not None:
        flags.append("-mfloat-abi=hard")
    if fpu:
        flags.append(f"-mfpu={fpu}")
    abi = "eabi" if fpu is None else "eabihf"
    features = _ZIG_FEATURES.get(name, "")
    zig_cpu = cpu.replace("-", "_")
    return Core(
        name,
        kind="arm",
        flags=tuple(flags),
        zig=("-target", f"thumb-freestanding-{abi}", f"-mcpu={zig_cpu}{features}"),
        board=board,
        ticks=megahertz * 64 / 1000,
    )


_ALL = (
    Core("host", "host", (), ()),
    _arm("m0", "cortex-m0", None, "microbit", 16),
    _arm("m3", "cortex-m3", None, "mps2-an385", 25),
    _arm("m4", "cortex-m4", "fpv4-sp-d16", "mps2-an386", 25),
    _arm("m7", "cortex-m7", "fpv5-sp-d16", "mps2-an500", 25),
    _arm("m33", "cortex-m33", "fpv5-sp-d16", "mps2-an505", 20),
    _arm("m55", "cortex-m55", "", "mps3-an547", 32),
    Core("uno", "avr", ("-mmcu=atmega328p",)),
)
CORES: dict[str, Core] = {core.name: core for core in _ALL}


class Product(NamedTuple):
    """Memory that a program may use on a real board, bytes."""

    name: str
    flash: int
    ram: int


# From the boards' makers. The bootloader is subtracted on boards that load programs by one.
PRODUCTS: dict[str, tuple[Product, ...]] = {
    "m0": (
        Product("micro:bit v1 (nRF51822)", 256 * 1024, 16 * 1024),
        Product("Arduino Zero (SAMD21G18)", (256 - 8) * 1024, 32 * 1024),
    ),
    "m3": (Product("STM32VLDISCOVERY (STM32F100RB)", 128 * 1024, 8 * 1024),),
    "m4": (Product("Nano 33 BLE Sense (nRF52840)", (1024 - 64) * 1024, 256 * 1024),),
    "m7": (Product("NUCLEO-F767ZI (STM32F767ZI)", 2048 * 1024, 512 * 1024),),
    "m33": (Product("nRF5340 DK (nRF5340, application core)", 1024 * 1024, 512 * 1024),),
    "uno": (Product("Arduino Uno (ATmega328P)", 32 * 1024 - 512, 2 * 1024),),
}


class Fit(NamedTuple):
    product: Product
    fits: bool
    flash_left: int  # bytes; negative: missing
    ram_left: int


def fits(core: str, flash: int = 0, ram: int = 0) -> list[Fit]:
    """Whether `flash` and `ram` bytes fit each real board with this core.

    Without sizes, the bytes that are left are the boards' limits.
    """
    found = []
    for product in PRODUCTS.get(find_core(core).name, ()):
        flash_left = product.flash - flash
        ram_left = product.ram - ram
        has_room = flash_left >= 0 and ram_left >= 0
        found.append(Fit(product, has_room, flash_left, ram_left))
    return found


def find_core(name: str) -> Core:
    if name not in CORES:
        known = ", ".join(CORES)
        raise ValueError(f"core must be one of {known}, got {name!r}")
    return CORES[name]


def compiler(core: str, cc: str) -> list[str]:
    """The command of a compiler for a core, without flags.

    Raises ToolchainError with the command that installs it.
    """
    kind = find_core(core).kind
    if cc not in COMPILERS:
        known = ", ".join(COMPILERS)
        raise ValueError(f"cc must be one of {known}, got {cc!r}")
    return _zig(core, kind) if cc == "zig" else _gcc(kind)


def _zig(core: str, kind: str) -> list[str]:
    if kind == "avr":
        raise ToolchainError(f"zig does not build for {core}; use cc='gcc' ({_APT['avr']})")
    if importlib.util.find_spec("ziglang") is None:
        raise ToolchainError(f"zig is not installed; run: {PIP_INSTALL}")
    return [sys.executable, "-m", "ziglang", "cc"]


def _gcc(kind: str) -> list[str]:
    names = _GCC[kind]
    for name in names:
        path = shutil.which(name)
        if path:
            return [path]
    raise ToolchainError(f"{names[0]} is not installed; run: {_APT[kind]}")


_GCC = {"host": ("gcc", "cc"), "arm": ("arm-none-eabi-gcc",), "avr": ("avr-gcc",)}
_APT = {
    "host": "apt-get install gcc libc6-dev",
    "arm": "apt-get install --no-install-recommends gcc-arm-none-eabi",
    "avr": "apt-get install --no-install-recommends gcc-avr avr-libc",
}


def missing(core: str, cc: str) -> str | None:
    """Why a build is not possible here, with the install command; None where it is possible."""
    try:
        compiler(core, cc)
    except ToolchainError as error:
        return str(error)
    return None


def version(core: str, cc: str) -> str:
    """First line of the compiler's --version."""
    command = [*compiler(core, cc), "--version"]
    text = _run(command, f"{cc} --version")
    return text.splitlines()[0]


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


@dataclass(frozen=True)
class Build:
    folder: Path
    core: str
    cc: str
    optimize: str
    elf: Path
    sizes: Sizes
    version: str
    model: dict  # extras/model.json


def build(
    folder: Path | str,
    core: str,
    cc: str = "gcc",
    out: Path | str | None = None,
    extra_flags: Sequence[str] = (),
    optimize: str = "-O2",
) -> Build:
    """Compiles src/ (warnings are errors) and test/ of an exported folder, and links them.

    out: folder for objects and model.elf, FOLDER/build/CORE-CC if not given. extra_flags: for
    compiler and linker, e.g. sanitizers. Raises ToolchainError where the compiler is missing or
    refuses, ValueError for an unknown name or a folder that is no export.
    """
    folder = Path(folder).resolve()
    known = find_core(core)
    if optimize not in OPTIMIZE:
        choices = ", ".join(OPTIMIZE)
        raise ValueError(f"optimize must be one of {choices}, got {optimize!r}")
    test = folder / "test"
    sources = _sources(folder, extra_flags)
    command = [*compiler(core, cc), optimize, *_flags(known, cc), *extra_flags]
    out = folder / "build" / f"{core}-{cc}" if out is None else Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)

    library = []
    for source in sources:
        target = out / f"lib_{source.stem}.o"
        _compile(command, _STRICT, source, target, test, f"{cc} for {core}")
        library.append(target)
    program = []
    for name in ("main", _PORT[known.kind]):
        target = out / f"{name}.o"
        _compile(command, _STRICT[:2], test / f"{name}.c", target, test, f"{cc} for {core}")
        program.append(target)

    elf = out / "model.elf"
    objects = [str(path) for path in library + program]
    link = [*command, *objects, *_link(known, cc), "-o", str(elf)]
    _run(link, f"linking for {core} with {cc}", test)
    if known.kind == "avr":  # simavr and programmers load this
        hexadecimal = elf.with_suffix(".hex")
        _run(["avr-objcopy", "-O", "ihex", str(elf), str(hexadecimal)], "avr-objcopy")
    return Build(
        folder,
        core,
        cc,
        optimize,
        elf=elf,
        sizes=_sizes(elf, library, known.kind),
        version=version(core, cc),
        model=describe(folder),
    )


def _sources(folder: Path, extra_flags: Sequence[str]) -> list[Path]:
    """The library's C files. With LAYERS, test/main.c includes the model's source."""
    sources = sorted((folder / "src").glob("*.c"))
    if not sources or not (folder / "test" / "main.c").exists():
        raise ValueError(
            f"{folder} is not an exported C folder (src/*.c and test/main.c expected); "
            "make one with: tbn-bench mcu export"
        )
    if LAYERS in extra_flags:
        return [path for path in sources if path.name == "tbn_rt.c"]
    return sources


def _compile(
    command: list[str],
    warnings: Sequence[str],
    source: Path,
    target: Path,
    cwd: Path,
    what: str,
) -> None:
    _run([*command, *warnings, "-c", str(source), "-o", str(target)], what, cwd)


_PORT = {"host": "port_host", "arm": "port_cortex_m", "avr": "port_avr"}


def describe(folder: Path | str) -> dict:
    """extras/model.json of an exported folder. Raises ValueError where it cannot be read."""
    try:
        return read_json(Path(folder) / "extras" / "model.json")
    except RecordError as error:
        raise ValueError(f"{folder} is not an exported C folder: {error}") from error


def _flags(core: Core, cc: str) -> list[str]:
    # avr-gcc knows __flash in its own dialect only
    flags = [*_COMMON, "-std=gnu99" if core.kind == "avr" else "-std=c99"]
    if cc == "zig":
        flags += [*(core.zig or ()), "-fno-sanitize=undefined"]  # zig's default
    else:
        flags += core.flags
    if core.kind == "arm":
        flags.append("-ffreestanding")
    return flags


def _link(core: Core, cc: str) -> list[str]:
    if core.kind == "arm":
        # with -nostdlib zig leaves its compiler_rt out, and it has no other library to add
        script = ["-T", f"{core.name}.ld", "-Wl,--gc-sections"]
        return script if cc == "zig" else ["-nostdlib", *script, "-lgcc"]
    script = "uno.ld" if core.kind == "avr" else "host.ld"
    return ["-T", script, "-Wl,--gc-sections"]


def _run(command: list[str], what: str, cwd: Path | None = None) -> str:
    """The tool's stdout. what: its name in messages."""
    shown = " ".join(command)
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=os.environ | {"LC_ALL": "C"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMPILE_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolchainError(
            f"{what} took more than {COMPILE_SECONDS} s; run it by hand: {shown}"
        ) from error
    except OSError as error:
        raise ToolchainError(f"{what} could not be started: {error}") from error
    if done.returncode:
        by_hand = f"the command, run in {cwd or '.'}: {shown}"
        raise _refusal(what, done.stderr + done.stdout, by_hand)
    return done.stdout


def _refusal(what: str, text: str, by_hand: str) -> ToolchainError:
    """The error of a tool that failed. text: its output."""
    stripped = [line.strip() for line in text.splitlines()]
    lines = [line for line in stripped if line and "collect2:" not in line]
    full = [line for line in lines if _FULL.search(line)]
    if full:
        return DoesNotFit(
            f"{what}: the program does not fit the board's memory; a smaller network would: "
            f"{full[0]}\n{by_hand}"
        )
    errors = [line for line in lines if "error" in line.lower() or "undefined" in line]
    first, *_ = [*errors, *lines, "no message"]
    return ToolchainError(f"{what} failed: {first}\n{by_hand}")


# what GNU ld, lld, cortex_m.ld and avr-gcc say
_FULL = re.compile(
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
        found.append(Section(text, kind, flags, size))
    return found


class _Elf(NamedTuple):
    """Formats and places of an ELF header's fields."""

    offset: str  # of the table of sections
    table_at: int
    counts_at: int
    row: str  # name, kind, flags, address, offset, size


_NARROW = _Elf("<I", 32, 46, "<6I")
_WIDE = _Elf("<Q", 40, 58, "<2I4Q")
_NO_BYTES = 8  # kind of a section without bytes in the file


def _sizes(elf: Path, library: list[Path], kind: str) -> Sizes:
    linked = [section for section in sections(elf) if section.flags & 2]
    of = {section.name: section.size for section in linked}
    if kind == "arm":
        data = of.get(".lib_data", 0)
        bss = of.get(".lib_bss", 0)
    else:
        data, bss = _static(library, kind)
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


def _static(library: list[Path], kind: str) -> tuple[int, int]:
    """(data, bss) of the library's objects, before unused sections are removed: an upper bound.

    The linker scripts of host and AVR have no sections of their own for them.
    """
    data_names = (".data", ".rodata") if kind == "avr" else (".data",)
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
