"""Compilers for exported C folders: which are installed, how to install the others, and builds.

A folder has the library in src/ and the test program in test/. test/Makefile makes the same build
without Python. Two families:

gcc   the system's cc for the host, arm-none-eabi-gcc for Cortex-M, riscv64-unknown-elf-gcc for
      RISC-V, avr-gcc for the Arduino Uno; no C library is needed for Cortex-M and RISC-V
zig   clang from the pip package ziglang, for host, Cortex-M and RV32IMC
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbn_bench.mcu.cores import BARE, Core, Family, find_core
from tbn_bench.mcu.elf import FULL, Sizes, sizes_of
from tbn_bench.mcu.errors import DoesNotFit, ToolchainError
from tbn_bench.records.files import RecordError, read_json

COMPILERS = ("gcc", "zig")
OPTIMIZE = ("-O2", "-Os")
PIP_INSTALL = "pip install 'tbn-bench[mcu]'"
LAYERS = "-DTEST_LAYERS"  # a test program that counts each operation by itself
COMPILE_SECONDS = 300  # zig builds its runtime once, at its first use for a target
_COMMON = ("-ffunction-sections", "-fdata-sections", "-ffp-contract=off")
_STRICT = ("-Wall", "-Wextra", "-Wconversion", "-Werror")


def compiler(core: str, cc: str) -> list[str]:
    """The command of a compiler for a core, without flags.

    Raises ToolchainError with the command that installs it.
    """
    family = find_core(core).family
    if cc not in COMPILERS:
        known = ", ".join(COMPILERS)
        raise ValueError(f"cc must be one of {known}, got {cc!r}")
    if cc == "zig":
        return _zig(find_core(core))
    return _gcc(family)


def _zig(core: Core) -> list[str]:
    if core.zig is None:
        install = _APT[core.family]
        raise ToolchainError(f"zig does not build for {core.name}; use cc='gcc' ({install})")
    return zig()


def zig() -> list[str]:
    """zig's C compiler, for any target. Raises ToolchainError where it is not installed."""
    if importlib.util.find_spec("ziglang") is None:
        raise ToolchainError(f"zig is not installed; run: {PIP_INSTALL}")
    return [sys.executable, "-m", "ziglang", "cc"]


def _gcc(family: Family) -> list[str]:
    names = _GCC[family]
    for name in names:
        path = shutil.which(name)
        if path:
            return [path]
    rootless = ""
    if family in BARE:
        rootless = f" (without root: {PIP_INSTALL}, then --cc zig)"
    raise ToolchainError(f"{names[0]} is not installed; run: {_APT[family]}{rootless}")


_GCC: dict[Family, tuple[str, ...]] = {
    "host": ("gcc", "cc"),
    "arm": ("arm-none-eabi-gcc",),
    "riscv": ("riscv64-unknown-elf-gcc",),
    "avr": ("avr-gcc",),
}
_APT: dict[Family, str] = {
    "host": "apt-get install gcc libc6-dev",
    "arm": "apt-get install --no-install-recommends gcc-arm-none-eabi",
    "riscv": "apt-get install --no-install-recommends gcc-riscv64-unknown-elf",
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
    text = run_tool(command, f"{cc} --version")
    return text.splitlines()[0]


@dataclass(frozen=True)
class Build:
    folder: Path
    core: str
    cc: str
    optimize: str
    elf: Path
    sizes: Sizes
    version: str
    model: dict[str, Any]  # extras/model.json

    @property
    def is_f32(self) -> bool:
        """True for float activations."""
        return bool(self.model["activations"] == "f32")


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
    sources = _sources(folder, extra_flags)
    command = [*compiler(core, cc), optimize, *_flags(known, cc), *extra_flags]
    out = folder / "build" / f"{core}-{cc}" if out is None else Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    tools = _Tools(known, cc, command, folder / "test", out)
    library = tools.compile_library(sources)
    program = tools.compile_program()
    elf = tools.link(library + program)
    return Build(
        folder,
        core,
        cc,
        optimize,
        elf=elf,
        sizes=sizes_of(elf, library, known.family),
        version=version(core, cc),
        model=describe(folder),
    )


def _sources(folder: Path, extra_flags: Sequence[str]) -> list[Path]:
    """The library's C files. With LAYERS, test/main.c includes the model's source."""
    sources = sorted((folder / "src").glob("*.c"))
    if not sources or not (folder / "test" / "main.c").exists():
        raise ValueError(
            f"{folder} is not an exported C folder (src/*.c and test/main.c expected); "
            "make one with: tbn-bench export --format c"
        )
    if LAYERS in extra_flags:
        return [path for path in sources if path.name == "tbn_rt.c"]
    return sources


@dataclass(frozen=True)
class _Tools:
    """A compiler with its flags.

    test: the folder of the test program, in which the compiler runs. out: the folder for objects.
    """

    core: Core
    cc: str
    command: list[str]
    test: Path
    out: Path

    def compile_library(self, sources: Sequence[Path]) -> list[Path]:
        objects = []
        for source in sources:
            target = self.out / f"lib_{source.stem}.o"
            self._compile(_STRICT, source, target)
            objects.append(target)
        return objects

    def compile_program(self) -> list[Path]:
        objects = []
        for name in ("main", _PORT[self.core.family]):
            source = self.test / f"{name}.c"
            target = self.out / f"{name}.o"
            self._compile(_STRICT[:2], source, target)
            objects.append(target)
        return objects

    def _compile(self, warnings: Sequence[str], source: Path, target: Path) -> None:
        command = [*self.command, *warnings, "-c", str(source), "-o", str(target)]
        run_tool(command, f"{self.cc} for {self.core.name}", self.test)

    def link(self, objects: list[Path]) -> Path:
        elf = self.out / "model.elf"
        paths = [str(path) for path in objects]
        command = [*self.command, *paths, *_link(self.core, self.cc), "-o", str(elf)]
        run_tool(command, f"linking for {self.core.name} with {self.cc}", self.test)
        if self.core.family == "avr":  # simavr and programmers load this
            hexadecimal = elf.with_suffix(".hex")
            copy = ["avr-objcopy", "-O", "ihex", str(elf), str(hexadecimal)]
            run_tool(copy, "avr-objcopy")
        return elf


_PORT: dict[Family, str] = {
    "host": "port_host",
    "arm": "port_bare",
    "riscv": "port_bare",
    "avr": "port_avr",
}


def describe(folder: Path | str) -> dict[str, Any]:
    """extras/model.json of an exported folder. Raises ValueError where it cannot be read."""
    try:
        return read_json(Path(folder) / "extras" / "model.json")
    except RecordError as error:
        raise ValueError(f"{folder} is not an exported C folder: {error}") from error


def _flags(core: Core, cc: str) -> list[str]:
    # __flash is no standard C: avr-gcc accepts it only in GNU's dialect
    flags = [*_COMMON, "-std=gnu99" if core.family == "avr" else "-std=c99"]
    if cc == "zig":
        flags += [*(core.zig or ()), "-fno-sanitize=undefined"]  # zig's default
    else:
        flags += core.flags
    if core.family in BARE:
        flags.append("-ffreestanding")
    return flags


def _link(core: Core, cc: str) -> list[str]:
    if core.family in BARE:
        # with -nostdlib zig leaves its compiler_rt out, and it has no other library to add
        script = ["-T", f"{core.name}.ld", "-Wl,--gc-sections"]
        return script if cc == "zig" else ["-nostdlib", *script, "-lgcc"]

    linker_script = "uno.ld" if core.family == "avr" else "host.ld"
    return ["-T", linker_script, "-Wl,--gc-sections"]


def run_tool(command: list[str], what: str, cwd: Path | None = None) -> str:
    """The tool's stdout. what: its name in messages. Raises ToolchainError where it fails."""
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
    full = [line for line in lines if FULL.search(line)]
    if full:
        return DoesNotFit(
            f"{what}: the program does not fit the board's memory; a smaller network would: "
            f"{full[0]}\n{by_hand}"
        )
    errors = [line for line in lines if _is_error(line)]
    first, *_ = [*errors, *lines, "no message"]
    return ToolchainError(f"{what} failed: {first}\n{by_hand}")


def _is_error(line: str) -> bool:
    return "error" in line.lower() or "undefined" in line
