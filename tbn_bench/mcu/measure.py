"""Builds an exported folder, runs it on a simulator and records the counters.

Recorded are bytes of flash and RAM, the stack, and instructions or cycles.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tbn_bench.mcu import cores, simulate, simulators, toolchain
from tbn_bench.mcu.elf import Sizes
from tbn_bench.mcu.errors import ToolchainError
from tbn_bench.mcu.export import WHOLE
from tbn_bench.mcu.graph import McuError
from tbn_bench.mcu.outcome import Result, SimulationError
from tbn_bench.records.files import read_json
from tbn_bench.records.store import McuRecord

# Full-precision weights may use the hardware's fused multiply-add. The last bits of the outputs
# then differ, so the comparison has a tolerance.
FMA = ("-DTBN_FMA=1",)
FMA_TOLERANCE = 1e-5  # of the largest output
_WITHOUT_SELFTEST = "-DTEST_WITHOUT_SELFTEST"


def measure(
    folder: Path,
    core: str | None,
    cc: str,
    sim: str | None,
    optimize: str,
    provenance: dict[str, Any],
) -> McuRecord:
    """Builds the folder for a core, runs its vectors and reads the counters.

    Raises ToolchainError or SimulationError where a tool is missing or refuses, McuError where the
    program's outputs, or its self-test, are not what Python computed.
    """
    model = toolchain.describe(folder)
    core = core or cores.TARGETS[model["target"]].core
    setup = _Setup(folder, core, cc, sim, optimize)
    built = toolchain.build(folder, core, cc, optimize=optimize)
    result = simulate.run(built, sim)
    _check_passed(folder, result)
    samples = _whole_test_set(folder, built, sim)
    lean = setup.build("lean", (_WITHOUT_SELFTEST,)).sizes
    fused = _fused(setup, result.outputs, model)
    counted = fused or result
    counts = setup.count_layers(fused is not None)
    info = {
        **_of_model(folder, model),
        "layers": _counted(model.get("layers", ()), counts),
        "core": core,
        "compiler": built.version,
        "optimize": optimize,
        "simulator": result.version,
        "sim": result.sim,
        "fused_multiply_add": fused is not None,
        **_bytes(lean),
        "flash_with_selftest_bytes": built.sizes.library_flash,
        **_memory(counted, model["arena_bytes"]),
        "vectors": len(result.outputs),
        "samples_on_core": samples,
        **_cost(counted, core),
    }
    ram = info["ram_bytes"] or model["arena_bytes"]
    info["fits"] = _fits(core, lean.library_flash, ram)
    run_id = model.get("run_id", model["name"])
    return McuRecord(
        f"{run_id}-{model['activations']}-{model['target']}-{result.sim}",
        f"{core}-{cc}{optimize}",
        info,
        provenance,
    )


def _check_passed(folder: Path, result: Result) -> None:
    if not result.passed:
        raise McuError(
            f"{folder} on {result.core} ({result.sim}): status {result.status}, "
            f"self-test {result.selftest}, {result.mismatches} of its vectors with other outputs "
            "than Python's; nothing was recorded"
        )


@dataclass(frozen=True)
class _Setup:
    """What a folder is built for and run on."""

    folder: Path
    core: str
    cc: str
    sim: str | None
    optimize: str

    def build(self, name: str, flags: tuple[str, ...]) -> toolchain.Build:
        """A build of its own, beside that in FOLDER/build/CORE-CC."""
        return toolchain.build(
            self.folder,
            self.core,
            self.cc,
            out=self.folder / "build" / f"{self.core}-{self.cc}-{name}",
            extra_flags=flags,
            optimize=self.optimize,
        )

    def run(self, name: str, flags: tuple[str, ...]) -> Result:
        built = self.build(name, flags)
        return simulate.run(built, self.sim)

    def count_layers(self, fused: bool) -> tuple[int, ...]:
        """Instructions or cycles of each layer; () without a counter."""
        flags: tuple[str, ...] = (toolchain.LAYERS,)
        if fused:
            flags = (*FMA, *flags)
        result = self.run("layers", flags)
        return result.instructions or result.cycles or ()


def _of_model(folder: Path, model: dict[str, Any]) -> dict[str, Any]:
    """What the export says about the network, in report.json or in extras/model.json."""
    report = {}
    path = folder / "report.json"
    if path.exists():
        report = read_json(path)
    found = {}
    for key in _OF_MODEL:
        found[key] = report.get(key, model.get(key))
    return found


def _memory(counted: Result, arena: int) -> dict[str, int | None]:
    """RAM is arena and stack. Both are None where the simulator measures no stack."""
    stack = counted.stack
    ram = None if stack is None else arena + stack
    return {"stack_bytes": stack, "ram_bytes": ram}


def _bytes(sizes: Sizes) -> dict[str, int]:
    return {
        "code_bytes": sizes.code + sizes.helpers,
        "constant_bytes": sizes.constants,
        "data_bytes": sizes.data,
        "bss_bytes": sizes.bss,
        "flash_bytes": sizes.library_flash,
    }


def _cost(counted: Result, core: str) -> dict[str, Any]:
    """Instructions, or cycles, of one run, and the frames per second estimated from them."""
    clock = cores.find_core(core).clock_hz
    cost = counted.instructions or counted.cycles
    if cost is None:
        return {
            "unit": None,
            "count": None,
            "count_least": None,
            "count_most": None,
            "clock_hz": clock,
            "frames_per_s_estimate": None,
        }
    count = float(np.median(cost))
    return {
        "unit": "instructions" if counted.instructions else "cycles",
        "count": count,
        "count_least": min(cost),
        "count_most": max(cost),
        "clock_hz": clock,
        "frames_per_s_estimate": clock / count if clock else None,
    }


def _fits(core: str, flash: int, ram: int) -> list[dict[str, Any]]:
    """For each board with this core, whether it has enough memory."""
    rows = []
    for fit in cores.fits(core, flash, ram):
        row = {"board": fit.product.name, "fits": fit.fits}
        rows.append(row)
    return rows


def _counted(layers: Any, counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """The lines of the size table, each with its own instructions or cycles.

    Without a counter they stay as they are.
    """
    if not counts:
        return list(layers)
    rows = []
    for row, count in zip(layers, counts, strict=True):
        rows.append(row | {"count": count})
    return rows


_OF_MODEL = (
    "name",
    "run_id",
    "sweep",
    "data",
    "model",
    "binarizer",
    "activations",
    "target",
    "layout",
    "table_bytes",
    "arena_bytes",
    "test_samples",
    "computed_by",
    "top1_torch",
    "top1_c",
    "agreement",
    "model_sha256",
)


def _fused(setup: _Setup, outputs: Any, model: dict[str, Any]) -> Result | None:
    """The run with fused multiply-adds: the fastest form of float layers in full precision.

    None where fused multiply-adds change nothing.
    """
    plans = [layer.get("plan") for layer in model.get("layers", ())]
    if model["activations"] != "f32" or "full precision" not in plans:
        return None
    if not cores.find_core(setup.core).fma:
        return None
    result = setup.run("fma", (*FMA, _WITHOUT_SELFTEST))
    difference = np.abs(result.outputs - outputs).max()
    error = difference / np.abs(outputs).max()
    if not error <= FMA_TOLERANCE:
        raise McuError(
            f"{setup.folder}: fused multiply-adds change outputs by {error:.1e} of the largest "
            f"(allowed {FMA_TOLERANCE:.0e})"
        )
    return result


def _whole_test_set(folder: Path, built: toolchain.Build, sim: str | None) -> int | None:
    """Runs the whole test set on the simulator; its outputs must be those of the export.

    Returns the number of samples. None where the folder has no test set, or the core no files.
    Raises McuError where an output differs.
    """
    path = folder / WHOLE
    if not path.exists() or built.core == "uno":
        return None
    with np.load(path) as kept:
        inputs = kept["inputs"]
        outputs = kept["outputs"]
    found = simulate.run(built, sim, inputs, count=False, timeout=600).outputs
    if not np.array_equal(found, outputs):
        differs = (found != outputs).any(axis=1)
        wrong = int(differs.sum())
        raise McuError(
            f"{folder} on {built.core}: other outputs than on this machine for {wrong} of "
            f"{len(inputs)} test samples"
        )
    return len(inputs)


def missing_tools(core: str | None, cc: str, sim: str | None) -> str | None:
    """Which tool is missing here, with the command that installs it; None where all is present."""
    if core is None:
        return None
    reason = toolchain.missing(core, cc)
    if reason is not None:
        return reason
    try:
        return simulators.missing(core, sim or simulators.choose(core))
    except (ToolchainError, SimulationError) as error:
        return str(error)
