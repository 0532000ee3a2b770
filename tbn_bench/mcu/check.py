"""The whole test set through the C code, compiled for this machine and loaded.

Without a C compiler, the emulation of the C code computes the outputs.
"""

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbn_bench.mcu import emulate
from tbn_bench.mcu.graph import McuError
from tbn_bench.mcu.program import Program

_FLAGS = (
    "-std=c99",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Werror",
    "-fPIC",
    "-shared",
    "-ffp-contract=off",
)
_COMPARED = 500  # outputs that must also equal the emulation's, bit for bit
Array = NDArray[Any]


def compiler() -> str | None:
    """Path of the first C compiler on PATH."""
    for name in ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found:
            return found
    return None


class Library:
    """A compiled folder: run(x), selftest(). Raises McuError where it does not compile."""

    def __init__(
        self,
        folder: Path,
        name: str,
        prog: Program,
        flags: tuple[str, ...] = _FLAGS,
    ):
        self.name = name
        self.prog = prog
        self.library = _compiled(folder, flags)
        self.arena = np.zeros(prog.arena_bytes // 4, np.uint32)
        self.context = (ctypes.c_uint64 * 4)()
        is_bytes = prog.activations == "u8"
        self.element = np.uint8 if is_bytes else np.float32
        self.result = np.int32 if is_bytes else np.float32
        for call in ("input", "output"):
            self._call(call).restype = ctypes.c_void_p
        self._init()

    def _init(self) -> None:
        arena = self.arena.ctypes.data_as(ctypes.c_void_p)
        size = ctypes.c_uint32(self.arena.nbytes)
        status = self._call("init")(self.context, arena, size)
        if status:
            raise McuError(f"{self.name}_init gave status {status}")

    def _call(self, function: str) -> Any:
        # getattr returns the same object each time, so that it keeps its restype
        return getattr(self.library, f"{self.name}_{function}")

    def run(self, x: Array) -> Array:
        """x: (B, input_len) -> (B, output_len)."""
        out = np.empty((len(x), self.prog.output_len), self.result)
        step = self._call("run")
        source = self._call("input")(self.context)
        target = self._call("output")(self.context)
        rows = np.ascontiguousarray(x, self.element)
        for row, outputs in zip(rows, out, strict=True):
            ctypes.memmove(source, row.ctypes.data, row.nbytes)
            if step(self.context):
                raise McuError(f"{self.name}_run failed")
            ctypes.memmove(outputs.ctypes.data, target, outputs.nbytes)
        return out

    def selftest(self) -> int:
        return int(self._call("selftest")(self.context))


def _compiled(folder: Path, flags: tuple[str, ...]) -> ctypes.CDLL:
    """The sources of a folder as a loaded library."""
    program = compiler()
    if program is None:
        raise McuError(
            "no C compiler (cc, gcc or clang) on PATH; install one, e.g. apt-get install gcc"
        )
    source = folder / "src"
    files = [str(path) for path in sorted(source.glob("*.c"))]
    with tempfile.TemporaryDirectory() as place:
        target = str(Path(place) / "model.so")
        command = [program, *flags, f"-I{source}", *files, "-o", target]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [program]
            errors = [line for line in lines if "error" in line]
            first = errors[0] if errors else lines[0]
            raise McuError(f"{folder} does not compile: {first}")
        return ctypes.CDLL(target)


def outputs(folder: Path, prog: Program, x: Array) -> tuple[str, Array]:
    """(name of what computed them, outputs of every input).

    Raises McuError where C and emulation differ, or the self-test fails.
    """
    if compiler() is None:
        return "emulated in numpy: no C compiler here", emulate.run(prog, x)
    sources = (folder / "src").glob("*.c")
    names = [path.stem for path in sources]
    name = next(stem for stem in names if stem != "tbn_rt")
    library = Library(folder, name, prog)
    status = library.selftest()
    if status:
        raise McuError(
            f"{name}_selftest gives status {status} on this machine; please report this network"
        )
    found = library.run(x)
    expected = emulate.run(prog, x[:_COMPARED])
    if not np.array_equal(found[:_COMPARED], expected):
        raise McuError(
            f"the C code of {name} does not give what its emulation gives; "
            "please report this network"
        )
    return "C on this machine", found
