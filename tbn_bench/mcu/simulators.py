"""The simulators: which are here, and which runs the programs of a core."""

import importlib.metadata
import importlib.util
import shutil
import subprocess
from typing import NamedTuple

from tbn_bench.mcu.cores import Family, find_core
from tbn_bench.mcu.outcome import SimulationError
from tbn_bench.mcu.toolchain import PIP_INSTALL

SIMULATORS: dict[Family, tuple[str, ...]] = {
    "host": ("host",),
    "arm": ("qemu", "unicorn"),
    "riscv": ("qemu",),
    "avr": ("simavr",),
}


class Emulator(NamedTuple):
    """program: its name. package: of Debian, in which it is."""

    program: str
    package: str

    @property
    def install(self) -> str:
        return f"apt-get install --no-install-recommends {self.package}"


# The program that runs a family's code, by (simulator, family).
EMULATORS: dict[tuple[str, Family], Emulator] = {
    ("qemu", "arm"): Emulator("qemu-system-arm", "qemu-system-arm"),
    ("qemu", "riscv"): Emulator("qemu-system-riscv32", "qemu-system-misc"),
    ("simavr", "avr"): Emulator("simavr", "simavr"),
}


def missing(core: str, sim: str) -> str | None:
    """Why a simulator cannot run a core's programs here, with the install command.

    None where it can.
    """
    family = find_core(core).family
    if sim not in SIMULATORS[family]:
        return f"{sim} does not run programs for {core}; use {' or '.join(SIMULATORS[family])}"
    if sim == "unicorn":
        if find_core(core).unicorn is None:
            install = EMULATORS["qemu", family].install
            return f"unicorn does not know the processor {core}; use qemu ({install})"
        if importlib.util.find_spec("unicorn"):
            return None
        return f"unicorn is not installed; run: {PIP_INSTALL}"
    if sim == "host":
        return None
    emulator = EMULATORS[sim, family]
    if shutil.which(emulator.program):
        return None
    return f"{emulator.program} is not installed; run: {emulator.install}"


def version(core: str, sim: str) -> str:
    """Name and version of a simulator that is installed; the name alone for some."""
    if sim == "qemu":
        emulator = EMULATORS[sim, find_core(core).family]
        command = [emulator.program, "--version"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=20,
        )
        return done.stdout.splitlines()[0]
    if sim == "unicorn":
        number = importlib.metadata.version("unicorn")
        return f"unicorn {number}"
    return sim


def choose(core: str) -> str:
    """The first simulator for a core that is here. Raises SimulationError with install commands."""
    reasons = []
    for sim in SIMULATORS[find_core(core).family]:
        reason = missing(core, sim)
        if reason is None:
            return sim
        reasons.append(reason)
    raise SimulationError(f"no simulator for {core}: {'; or: '.join(reasons)}")
