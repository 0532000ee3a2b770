"""tbn-bench export RUN --format wasm: a trained run as a WebAssembly module with its loader."""

import tempfile
from pathlib import Path
from typing import Any

from tbn_bench.mcu import export, toolchain, web
from tbn_bench.records.files import replace, to_json
from tbn_bench.records.run import RunRecord


def export_web(
    record: RunRecord,
    activations: str = "u8",
    out: Path | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """Writes NAME.wasm, NAME.js and report.json into a folder and returns the report.

    The C code computes the whole test set first, as for an exported C library. Raises McuError as
    mcu.export does, and for a network that is too large for a browser. Raises ToolchainError where
    zig is missing.
    """
    toolchain.zig()
    job = export.prepare(record, activations, "generic", name)
    web.check_size(job.prog)
    own_name = web.js_name(job.name)
    with tempfile.TemporaryDirectory(prefix="tbn-web-") as made:
        report = job.write(Path(made) / job.name, keep_inputs=False)
    module = web.module(own_name, job.prog)
    folder = out or Path(own_name)
    folder.mkdir(parents=True, exist_ok=True)
    report |= {
        "name": own_name,
        "path": str(folder),
        "module_bytes": len(module),
        "zig": web.zig_version(),
    }
    files = {
        f"{own_name}.wasm": module,
        f"{own_name}.js": web.loader(own_name, job.prog).encode(),
        "report.json": (to_json(report, indent=1) + "\n").encode(),
    }
    for file, content in files.items():
        replace(folder / file, content)
    return report
