"""The test set through the C code itself: compiled for this machine and loaded, or, without a compiler, its emulation."""

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
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


class Library:
    """A compiled folder: run(x), selftest(). Raises McuError where it does not compile."""

    def __init__(self, folder: Path, name: str, prog: Program, flags: tuple[str, ...] = _FLAGS):
        self.name, self.prog = name, prog
        program = compiler()
        if program is None:
            raise McuError(
                "no C compiler (cc, gcc or clang) on PATH; install one, e.g. apt-get install gcc"
            )
        with tempfile.TemporaryDirectory() as place:
            target = Path(place) / "model.so"
            command = [
                program,
                *flags,
                f"-I{folder / 'src'}",
                *map(str, sorted((folder / "src").glob("*.c"))),
                "-o",
                str(target),
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [program]
                raise McuError(
                    f"{folder} does not compile: {next((line for line in lines if 'error' in line), lines[0])}"
                )
            self.library = ctypes.CDLL(str(target))
        self.arena = np.zeros(prog.arena_bytes // 4, np.uint32)
        self.context = (ctypes.c_uint64 * 4)()
        self.element = np.uint8 if prog.activations == "u8" else np.float32
        for call in ("input", "output"):
            self._call(call).restype = ctypes.c_void_p
        status = self._call("init")(
            self.context,
            self.arena.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_uint32(self.arena.nbytes),
        )
        if status:
            raise McuError(f"{name}_init gave status {status}")

    def _call(self, function: str) -> Any:
        return getattr(self.library, f"{self.name}_{function}")  # getattr keeps what is set on it

    def run(self, x: Array) -> Array:
        """x: (B, input_len) -> (B, output_len)."""
        prog, kind = self.prog, np.int32 if self.prog.activations == "u8" else np.float32
        out = np.empty((len(x), prog.output_len), kind)
        step, source, target = (
            self._call("run"),
            self._call("input")(self.context),
            self._call("output")(self.context),
        )
        rows = np.ascontiguousarray(x, self.element)
        for i, row in enumerate(rows):
            ctypes.memmove(source, row.ctypes.data, row.nbytes)
            if step(self.context):
                raise McuError(f"{self.name}_run failed")
            ctypes.memmove(out[i].ctypes.data, target, out[i].nbytes)
        return out

    def selftest(self) -> int:
        return int(self._call("selftest")(self.context))


def outputs(folder: Path, prog: Program, x: Array) -> tuple[str, Array]:
    """(what computed them, outputs of every input). Raises McuError where C and emulation differ, or the self-test fails."""
    if compiler() is None:
        return "emulated in numpy: no C compiler here", emulate.run(prog, x)
    name = next(p.stem for p in (folder / "src").glob("*.c") if p.stem != "tbn_rt")
    library = Library(folder, name, prog)
    if status := library.selftest():
        raise McuError(
            f"{name}_selftest gives status {status} on this machine; please report this network"
        )
    found = library.run(x)
    if not np.array_equal(found[:_COMPARED], emulate.run(prog, x[:_COMPARED])):
        raise McuError(
            f"the C code of {name} does not give what its emulation gives; please report this network"
        )
    return "C on this machine", found
