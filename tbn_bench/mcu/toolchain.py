"""Compilers for exported C folders: which are here, how to get the others, and a build with the sizes that matter.

A folder holds the library in src/ and the test program in test/ (test/Makefile does the same without Python). Two families:

gcc   the system's cc for the host, arm-none-eabi-gcc for Cortex-M, avr-gcc for the Arduino Uno; no C library is needed for Cortex-M
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
    """A tool is missing, or a compiler or linker refused; says what to do or what the tool said first."""


class DoesNotFit(ToolchainError):
    """The program is larger than the flash or RAM of the board."""


class Core(NamedTuple):
    """A processor that a model can be built for. board: QEMU's machine, ticks: of its SysTick in a 64 ns instruction (-icount shift=6)."""

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
    hard = () if fpu is None else ("-mfloat-abi=hard", *((f"-mfpu={fpu}",) if fpu else ()))
    target = f"thumb-freestanding-{'eabi' if fpu is None else 'eabihf'}"
    zig = ("-target", target, f"-mcpu={cpu.replace('-', '_')}{_ZIG_FEATURES.get(name, '')}")
    return Core(name, "arm", ("-mthumb", f"-mcpu={cpu}", *hard), zig, board, megahertz * 64 / 1000)


CORES: dict[str, Core] = {
    core.name: core
    for core in (
        Core("host", "host", (), ()),
        _arm("m0", "cortex-m0", None, "microbit", 16),
        _arm("m3", "cortex-m3", None, "mps2-an385", 25),
        _arm("m4", "cortex-m4", "fpv4-sp-d16", "mps2-an386", 25),
        _arm("m7", "cortex-m7", "fpv5-sp-d16", "mps2-an500", 25),
        _arm("m33", "cortex-m33", "fpv5-sp-d16", "mps2-an505", 20),
        _arm("m55", "cortex-m55", "", "mps3-an547", 32),
        Core("uno", "avr", ("-mmcu=atmega328p",)),
    )
}


class Product(NamedTuple):
    """Memory that a program may use on a real board, bytes."""

    name: str
    flash: int
    ram: int


# What the boards' makers state; the bootloader subtracted where programs arrive by one.
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
    """Whether `flash` and `ram` bytes fit each real board with this core; without sizes, the boards' limits."""
    products = PRODUCTS.get(find_core(core).name, ())
    return [
        Fit(p, flash <= p.flash and ram <= p.ram, p.flash - flash, p.ram - ram) for p in products
    ]


def find_core(name: str) -> Core:
    if name not in CORES:
        raise ValueError(f"core must be one of {', '.join(CORES)}, got {name!r}")
    return CORES[name]


def compiler(core: str, cc: str) -> list[str]:
    """The command of a compiler for a core, without flags. Raises ToolchainError with the command that installs it."""
    kind = find_core(core).kind
    if cc not in COMPILERS:
        raise ValueError(f"cc must be one of {', '.join(COMPILERS)}, got {cc!r}")
    if cc == "zig":
        if kind == "avr":
            raise ToolchainError(f"zig does not build for {core}; use cc='gcc' ({_APT['avr']})")
        if importlib.util.find_spec("ziglang") is None:
            raise ToolchainError(f"zig is not installed; run: {PIP_INSTALL}")
        return [sys.executable, "-m", "ziglang", "cc"]
    for name in _GCC[kind]:
        if path := shutil.which(name):
            return [path]
    raise ToolchainError(f"{_GCC[kind][0]} is not installed; run: {_APT[kind]}")


_GCC = {"host": ("gcc", "cc"), "arm": ("arm-none-eabi-gcc",), "avr": ("avr-gcc",)}
_APT = {
    "host": "apt-get install gcc libc6-dev",
    "arm": "apt-get install --no-install-recommends gcc-arm-none-eabi",
    "avr": "apt-get install --no-install-recommends gcc-avr avr-libc",
}


def missing(core: str, cc: str) -> str | None:
    """Why a build is not possible here, with the install command; None where it is."""
    try:
        compiler(core, cc)
    except ToolchainError as error:
        return str(error)
    return None


def version(core: str, cc: str) -> str:
    """First line of what the compiler says of itself."""
    return _run([*compiler(core, cc), "--version"], f"{cc} --version").splitlines()[0]


@dataclass(frozen=True)
class Sizes:
    """Bytes in the linked program, unused sections removed."""

    code: int  # the library's
    constants: int
    data: int  # 0 in a library without globals
    bss: int
    helpers: int  # the compiler's routines that it calls, e.g. floating point on cores without; 0 on a host
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
    """Compiles src/ (warnings are errors) and test/ of an exported folder and links them for a core.

    out: folder for objects and model.elf, FOLDER/build/CORE-CC if not given. extra_flags: for compiler and linker, e.g. sanitizers.
    Raises ToolchainError where the compiler is missing or refuses, ValueError for an unknown name or a folder that is no export.
    """
    folder, known = Path(folder).resolve(), find_core(core)
    if optimize not in OPTIMIZE:
        raise ValueError(f"optimize must be one of {', '.join(OPTIMIZE)}, got {optimize!r}")
    sources = sorted((folder / "src").glob("*.c"))
    if not sources or not (folder / "test" / "main.c").exists():
        raise ValueError(
            f"{folder} is not an exported C folder (src/*.c and test/main.c expected); make one with: tbn-bench mcu export"
        )
    if LAYERS in extra_flags:  # test/main.c includes the model's source
        sources = [path for path in sources if path.name == "tbn_rt.c"]
    command = compiler(core, cc)
    flags = [optimize, *_flags(known, cc), *extra_flags]
    out = Path(out).resolve() if out is not None else folder / "build" / f"{core}-{cc}"
    out.mkdir(parents=True, exist_ok=True)
    test = folder / "test"
    units = [(path, out / f"lib_{path.stem}.o", _STRICT) for path in sources]
    units += [
        (test / f"{name}.c", out / f"{name}.o", _STRICT[:2]) for name in ("main", _PORT[known.kind])
    ]
    for source, target, warnings in units:
        _run(
            [*command, *flags, *warnings, "-c", str(source), "-o", str(target)],
            f"{cc} for {core}",
            test,
        )
    elf = out / "model.elf"
    objects = [str(target) for _, target, _ in units]
    _run(
        [*command, *flags, *objects, *_link(known, cc), "-o", str(elf)],
        f"linking for {core} with {cc}",
        test,
    )
    if known.kind == "avr":  # simavr and programmers load this
        _run(["avr-objcopy", "-O", "ihex", str(elf), str(elf.with_suffix(".hex"))], "avr-objcopy")
    library = [target for source, target, _ in units if source in sources]
    return Build(
        folder,
        core,
        cc,
        optimize,
        elf,
        _sizes(elf, library, known.kind),
        version(core, cc),
        describe(folder),
    )


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
    return [*flags, *(["-ffreestanding"] if core.kind == "arm" else [])]


def _link(core: Core, cc: str) -> list[str]:
    if core.kind == "arm":
        # zig leaves its compiler_rt out with -nostdlib, and has no other library to add for these targets
        script = ["-T", f"{core.name}.ld", "-Wl,--gc-sections"]
        return script if cc == "zig" else ["-nostdlib", *script, "-lgcc"]
    return ["-T", "uno.ld" if core.kind == "avr" else "host.ld", "-Wl,--gc-sections"]


def _run(command: list[str], what: str, cwd: Path | None = None) -> str:
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
            f"{what} took more than {COMPILE_SECONDS} s; run it by hand: {' '.join(command)}"
        ) from error
    except OSError as error:
        raise ToolchainError(f"{what} could not be started: {error}") from error
    if done.returncode:
        lines = [
            line.strip()
            for line in (done.stderr + done.stdout).splitlines()
            if line.strip() and "collect2:" not in line
        ]
        by_hand = f"the command, run in {cwd or '.'}: {' '.join(command)}"
        if full := next((line for line in lines if _FULL.search(line)), None):
            raise DoesNotFit(
                f"{what}: the program does not fit the board's memory; a smaller network would: {full}\n{by_hand}"
            )
        first = next(
            (line for line in lines if "error" in line.lower() or "undefined" in line),
            lines[0] if lines else "no message",
        )
        raise ToolchainError(f"{what} failed: {first}\n{by_hand}")
    return done.stdout


_FULL = re.compile(
    r"will not fit|overflowed by|not within region|RAM is full|size of array .* is too large"
)  # what GNU ld, lld, cortex_m.ld and avr-gcc say


class Section(NamedTuple):
    name: str
    kind: int  # 1 bytes in the file, 8 none (bss)
    flags: int  # 1 written, 2 in memory, 4 executed
    size: int


def sections(path: Path) -> list[Section]:
    """Sections of an ELF file of either width, little-endian. Raises ToolchainError where it is none."""
    data = path.read_bytes()
    if data[:4] != b"\x7fELF" or data[5] != 1:
        raise ToolchainError(f"{path} is not a little-endian ELF file")
    wide = data[4] == 2
    start = struct.unpack_from("<Q" if wide else "<I", data, 40 if wide else 32)[0]
    entry, count, names = struct.unpack_from("<3H", data, 58 if wide else 46)
    rows = []
    for i in range(count):
        name, kind, flags, _, offset, size = struct.unpack_from(
            "<2I4Q" if wide else "<6I", data, start + i * entry
        )
        rows.append((name, kind, flags, offset, size))
    strings = rows[names][3]
    return [
        Section(
            data[strings + name : data.index(b"\0", strings + name)].decode(), kind, flags, size
        )
        for name, kind, flags, _, size in rows
    ]


def _sizes(elf: Path, library: list[Path], kind: str) -> Sizes:
    linked = [s for s in sections(elf) if s.flags & 2]
    of = {s.name: s.size for s in linked}
    data, bss = of.get(".lib_data", 0), of.get(".lib_bss", 0)
    if (
        kind != "arm"
    ):  # these linker scripts leave data where it belongs; counted before unused ones are removed: an upper bound
        own = [s for path in library for s in sections(path) if s.flags & 2]
        bss = sum(s.size for s in own if s.kind == 8)
        data = sum(
            s.size
            for s in own
            if s.kind != 8
            and s.name.startswith((".data", *((".rodata",) if kind == "avr" else ())))
        )
    return Sizes(
        code=of.get(".lib_text", 0), constants=of.get(".lib_rodata", 0), data=data, bss=bss, helpers=of.get(".helpers", 0),
        flash=sum(s.size for s in linked if s.kind != 8), ram=sum(s.size for s in linked if s.flags & 1),
    )  # fmt: skip
