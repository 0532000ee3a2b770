"""An exported folder built and run on a simulator -> a record: bytes of flash and RAM, stack, instructions or cycles."""

from pathlib import Path
from typing import Any

import numpy as np

from tbn_bench.mcu import simulate, toolchain
from tbn_bench.mcu.export import WHOLE
from tbn_bench.mcu.graph import McuError
from tbn_bench.mcu.toolchain import ToolchainError
from tbn_bench.records.store import McuRecord, read_json

CLOCK = {
    "m0": 16e6,
    "m3": 64e6,
    "m4": 64e6,
    "m7": 64e6,
    "m33": 64e6,
    "m55": 64e6,
    "uno": 16e6,
}  # Hz, of the estimate
DEFAULT_CORE = {"m4": "m4", "generic": "m3", "m55": "m55", "avr": "uno"}  # target -> core
# Weights kept in full precision may use the hardware's fused multiply-add; the last bits then differ, which the comparison allows for.
FMA = ("-DTBN_FMA=1",)
FMA_TOLERANCE = 1e-5  # of the largest output


def measure(
    folder: Path,
    core: str | None,
    cc: str,
    sim: str | None,
    optimize: str,
    provenance: dict[str, Any],
) -> McuRecord:
    """Builds the folder for a core, runs its vectors and reads the counters.

    Raises ToolchainError or SimulationError where a tool is missing or refuses, McuError where the program's outputs, or its self-test, are
    not what Python computed.
    """
    model = toolchain.describe(folder)
    core = core or DEFAULT_CORE[model["target"]]
    built = toolchain.build(folder, core, cc, optimize=optimize)
    result = simulate.run(built, sim)
    if not result.passed:
        raise McuError(
            f"{folder} on {core} ({result.sim}): status {result.status}, self-test {result.selftest}, {result.mismatches} of its vectors with "
            "other outputs than Python's; nothing was recorded"
        )
    samples = _whole_test_set(folder, built, sim)
    lean = toolchain.build(
        folder,
        core,
        cc,
        folder / "build" / f"{core}-{cc}-lean",
        ("-DTEST_WITHOUT_SELFTEST",),
        optimize,
    )
    fused = _fused(folder, core, cc, sim, optimize, result.outputs, model)
    counted = fused or result
    flags = (*FMA, toolchain.LAYERS) if fused else (toolchain.LAYERS,)
    per_layer = _per_layer(
        simulate.run(
            toolchain.build(
                folder, core, cc, folder / "build" / f"{core}-{cc}-layers", flags, optimize
            ),
            sim,
        )
    )
    report = read_json(folder / "report.json") if (folder / "report.json").exists() else {}
    cost = counted.instructions or counted.cycles
    unit = "instructions" if counted.instructions else "cycles" if counted.cycles else None
    info = {
        **{k: report.get(k, model.get(k)) for k in _OF_MODEL}, "layers": _counted(model.get("layers", ()), per_layer), "core": core, "compiler": built.version, "optimize": optimize,
        "simulator": result.version, "sim": result.sim, "fused_multiply_add": fused is not None,
        "code_bytes": lean.sizes.code + lean.sizes.helpers, "constant_bytes": lean.sizes.constants, "data_bytes": lean.sizes.data,
        "bss_bytes": lean.sizes.bss, "flash_bytes": lean.sizes.library_flash, "flash_with_selftest_bytes": built.sizes.library_flash,
        "stack_bytes": counted.stack, "ram_bytes": None if counted.stack is None else model["arena_bytes"] + counted.stack,
        "vectors": len(result.outputs), "samples_on_core": samples, "unit": unit, "count": None if cost is None else float(np.median(cost)),
        "count_least": None if cost is None else min(cost), "count_most": None if cost is None else max(cost),
        "clock_hz": CLOCK.get(core), "frames_per_s_estimate": None if cost is None else CLOCK[core] / float(np.median(cost)),
        "fits": [{"board": f.product.name, "fits": f.fits} for f in toolchain.fits(core, lean.sizes.library_flash, model["arena_bytes"] + (counted.stack or 0))],
    }  # fmt: skip
    return McuRecord(
        f"{model.get('run_id', model['name'])}-{model['activations']}-{model['target']}-{result.sim}",
        f"{core}-{cc}{optimize}",
        info,
        provenance,
    )


def _per_layer(result: simulate.Result) -> tuple[int, ...]:
    return result.instructions or result.cycles or ()


def _counted(layers: Any, counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """The lines of the size table, each with its own instructions or cycles; without a counter as they are."""
    return (
        [row | {"count": n} for row, n in zip(layers, counts, strict=True)]
        if counts
        else list(layers)
    )


_OF_MODEL = (
    "name", "run_id", "sweep", "data", "model", "binarizer", "activations", "target", "layout", "table_bytes", "arena_bytes", "test_samples",
    "computed_by", "top1_torch", "top1_c", "agreement", "model_sha256",
)  # fmt: skip


def _fused(
    folder: Path,
    core: str,
    cc: str,
    sim: str | None,
    optimize: str,
    outputs: Any,
    model: dict[str, Any],
) -> Any:
    """The run of a float network kept in full precision with fused multiply-adds, its quickest form; None where that changes nothing."""
    kept = any(layer.get("plan") == "full precision" for layer in model.get("layers", ()))
    if model["activations"] != "f32" or not kept or core not in ("m4", "m7", "m33", "m55"):
        return None
    place = folder / "build" / f"{core}-{cc}-fma"
    result = simulate.run(
        toolchain.build(folder, core, cc, place, (*FMA, "-DTEST_WITHOUT_SELFTEST"), optimize), sim
    )
    error = np.abs(result.outputs - outputs).max() / np.abs(outputs).max()
    if not error <= FMA_TOLERANCE:
        raise McuError(
            f"{folder}: fused multiply-adds change outputs by {error:.1e} of the largest (allowed {FMA_TOLERANCE:.0e})"
        )
    return result


def _whole_test_set(folder: Path, built: toolchain.Build, sim: str | None) -> int | None:
    """How many test samples the program on the simulator gave the very outputs for that the C code gave at export; None where the folder has
    no test set, or the core no files. Raises McuError where an output differs."""
    path = folder / WHOLE
    if not path.exists() or built.core == "uno":
        return None
    with np.load(path) as kept:
        inputs, outputs = kept["inputs"], kept["outputs"]
    found = simulate.run(built, sim, inputs, count=False, timeout=600).outputs
    if not np.array_equal(found, outputs):
        wrong = int((found != outputs).any(axis=1).sum())
        raise McuError(
            f"{folder} on {built.core}: other outputs than on this machine for {wrong} of {len(inputs)} test samples"
        )
    return len(inputs)


def missing_tools(core: str | None, cc: str, sim: str | None) -> str | None:
    """What cannot be done here, with the command that installs it; None where all is present."""
    if core is None:
        return None
    if (reason := toolchain.missing(core, cc)) is not None:
        return reason
    try:
        return simulate.missing(core, sim or simulate.choose(core))
    except (ToolchainError, simulate.SimulationError) as error:
        return str(error)
