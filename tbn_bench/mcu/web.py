"""An exported C library as a WebAssembly module with its JavaScript loader, for browsers.

The module is the C code with one context. It imports nothing, exports its memory, and holds the
self-test, which the loader runs before the first input. zig compiles it; no C library is needed.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from tbn_bench.mcu import emit, toolchain
from tbn_bench.mcu.errors import ToolchainError
from tbn_bench.mcu.graph import McuError
from tbn_bench.mcu.program import Program
from tbn_bench.records.files import replace

# Chromium compiles at most this much while a page waits. In a page, base64 makes it 11.2 MB.
TABLE_BYTES = 8 * 2**20
# Browsers on phones end pages that use hundreds of megabytes.
ARENA_BYTES = 64 * 2**20

_WEB = emit.HERE / "web"
_STACK_BYTES = 16 * 1024
_COMPILE = (
    "-target",
    "wasm32-freestanding",
    "-std=c99",
    "-O3",
    "-ffp-contract=off",
    "-fno-sanitize=undefined",  # zig's default
    "-ffunction-sections",
    "-fdata-sections",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Werror",
)
_LINK = ("-Wl,--no-entry", "-Wl,--gc-sections", f"-Wl,--stack,{_STACK_BYTES}", "-s")


_JAVASCRIPT = """
await catch class const debugger delete eval export exports extends finally function import in
instanceof interface let module new null package private protected public require super this throw
try typeof undefined var with yield
"""
_TAKEN = set(_JAVASCRIPT.split())


def js_name(name: str) -> str:
    """A C name that is a name in JavaScript, too."""
    return f"net_{name}" if name in _TAKEN else name


def module(name: str, prog: Program) -> bytes:
    """The WebAssembly module of a program. The same bytes for the same program and zig version.

    Raises McuError for a network that is too large for a browser, ToolchainError without zig.
    """
    check_size(prog)
    command = toolchain.zig()
    with tempfile.TemporaryDirectory(prefix="tbn-web-") as made:
        folder = Path(made)
        _write_sources(folder, name, prog)
        sources = ["module.c", f"{name}.c", "tbn_rt.c"]
        target = folder / "module.wasm"
        whole = [*command, *_COMPILE, *sources, *_LINK, "-o", target.name]
        toolchain.run_tool(whole, "zig for WebAssembly", folder)
        return target.read_bytes()


def check_size(prog: Program) -> None:
    """Raises McuError for a program that is too large for a browser."""
    table_bytes = 4 * len(prog.table)
    limits = {
        "tables": (table_bytes, TABLE_BYTES),
        "working memory": (prog.arena_bytes, ARENA_BYTES),
    }
    for what, (needed, limit) in limits.items():
        if needed > limit:
            raise McuError(
                f"the network has {needed:,} bytes of {what}; a browser gets at most {limit:,} "
                "(tbn_bench/mcu/web.py says why); use fewer weights, binary ones, or a larger p"
            )


def _write_sources(folder: Path, name: str, prog: Program) -> None:
    upper = name.upper()
    glue = f"""#include "{name}.h"
#define NET(call) {name}_##call
#define NET_WORD {emit.arena_type(prog)}
#define NET_ARENA {upper}_ARENA_BYTES
{(_WEB / "module.c").read_text()}"""
    files = {
        f"{name}.h": emit.header(name, prog),
        f"{name}.c": emit.source(name, prog),
        "module.c": glue,
    }
    for runtime in emit.RUNTIME:
        files[runtime] = (emit.HERE / runtime).read_text()

    for file, text in files.items():
        replace(folder / file, text.encode())


def about(name: str, prog: Program) -> dict[str, Any]:
    """The entries that the loader needs."""
    return {
        "name": name,
        "activations": prog.activations,
        "input_shape": list(prog.graph.shapes[0]),
        "input_scale": prog.input.scale,
        "input_offset": prog.input.offset,
        "outputs": prog.output_len,
        "output_scale": prog.output_scale,
    }


def shared_loader() -> str:
    """The part of the loader that all networks share: the function tbnNetwork(about)."""
    return (_WEB / "loader.js").read_text()


def loader(name: str, prog: Program) -> str:
    """NAME.js: `const net = await NAME.load(fetch("NAME.wasm")); net.run(x)`."""
    numbers = json.dumps(about(name, prog), indent=2)
    return f"""/* {name}: a network exported by tbn_bench.
 * In a page:  <script src="{name}.js"></script>
 *             const net = await {name}.load(fetch("{name}.wasm"));
 * In node:    const net = await require("./{name}.js").load(fs.readFileSync("{name}.wasm"));
 * Then:       net.run(x), net.probabilities(x)
 * The real value of input u is input_scale * (u - input_offset). */
{shared_loader()}
const {name} = tbnNetwork({numbers});
if (typeof module !== "undefined") module.exports = {name};
"""


def zig_version() -> str | None:
    """The version of zig that is installed, or None."""
    try:
        command = toolchain.zig()
    except ToolchainError:
        return None
    return toolchain.run_tool([*command[:-1], "version"], "zig version").strip()
