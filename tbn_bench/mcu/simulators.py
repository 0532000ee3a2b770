"""The simulators: which are here, and which runs the programs of a core."""

import importlib.metadata
import importlib.util
import shutil
import subprocess

from tbn_bench.mcu.cores import Family, find_core
from tbn_bench.mcu.outcome import SimulationError
from tbn_bench.mcu.toolchain import PIP_INSTALL

SIMULATORS: dict[Family, tuple[str, ...]] = {
    "host": ("host",),
    "arm": ("qemu", "unicorn"),
    "avr": ("simavr",),
}


_APT = {
    "qemu": ("qemu-system-arm", "apt-get install --no-install-recommends qemu-system-arm"),
    "simavr": ("simavr", "apt-get install --no-install-recommends simavr"),
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
