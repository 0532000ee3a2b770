"""The folder of an exported network.

It is an Arduino library, a PlatformIO library and a CMake target at once.
"""

import json
from pathlib import Path
from typing import Any

from tbn_bench import __version__
from tbn_bench.mcu import emit, emit_vectors, emulate
from tbn_bench.mcu.cores import TARGETS
from tbn_bench.mcu.emit import Array
from tbn_bench.mcu.program import Program
from tbn_bench.records.files import replace


def write(
    folder: Path,
    name: str,
    prog: Program,
    target: str,
    x: Array,
    about: dict[str, Any],
) -> None:
    """Writes the folder.

    x: (n, input_len) test vectors. about: what extras/model.json holds beside name and target.
    """
    model = {"name": name, "target": target, **about}
    outputs = emulate.run(prog, x)
    vectors = {"inputs": x.tolist(), "outputs": outputs.tolist()}
    files = {
        "src/tbn_rt.h": (emit.HERE / "tbn_rt.h").read_text(),
        "src/tbn_rt.c": (emit.HERE / "tbn_rt.c").read_text(),
        f"src/{name}.h": emit.header(name, prog),
        f"src/{name}.c": emit.source(name, prog),
        "test/model.h": emit_vectors.model_header(name, prog),
        "test/vectors.h": emit_vectors.vectors(prog, x),
        f"examples/{name}_demo/{name}_demo.ino": _sketch(name, prog),
        "library.properties": _arduino(name, target),
        "library.json": json.dumps(_platformio(name), indent=2) + "\n",
        "CMakeLists.txt": _cmake(name),
        "README.md": _readme(
            name,
            prog,
            target,
            about,
        ),
        "LICENSE": _license(),
        "extras/model.json": json.dumps(model, indent=1) + "\n",
        "extras/vectors.json": json.dumps(vectors) + "\n",
    }
    files |= _test_program()
    for path, text in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        replace(place, text.encode())


def _test_program() -> dict[str, str]:
    """Path in the folder -> text, of the test program that all networks share."""
    root = emit.HERE / "test"
    files = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            files[f"test/{path.relative_to(root)}"] = path.read_text()
    return files


def _license() -> str:
    return """MIT License, for the runtime (src/tbn_rt.*, test/). The tables of the network \
belong to whoever trained it.

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and \
associated documentation files (the
"Software"), to deal in the Software without restriction, including without limitation the rights \
to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the \
Software is furnished to do so, subject to the
following conditions:

The above copyright notice and this permission notice shall be included in all copies or \
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT \
NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE \
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY
CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING \
FROM, OUT OF OR IN CONNECTION WITH THE
SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def _arduino(name: str, target: str) -> str:
    architectures = "avr" if target == "avr" else "*"
    return f"""name={name}
version={__version__}
author=tbn_bench
maintainer=tbn_bench
sentence=A binary neural network as C, exported by tbn_bench.
paragraph=No malloc, no libc, no globals; weights stay in flash as bits.
category=Data Processing
url=https://arxiv.org/abs/2407.12075
architectures={architectures}
includes={name}.h
"""


def _platformio(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "version": __version__,
        "description": "A binary neural network as C, exported by tbn_bench",
        "frameworks": "*",
        "platforms": "*",
        "headers": f"{name}.h",
        "build": {"srcDir": "src", "includeDir": "src", "flags": ["-ffp-contract=off"]},
    }


def _cmake(name: str) -> str:
    return f"""cmake_minimum_required(VERSION 3.13)
project({name} C)
add_library({name} STATIC src/{name}.c src/tbn_rt.c)
target_include_directories({name} PUBLIC src)
set_target_properties({name} PROPERTIES C_STANDARD 99)
if(CMAKE_C_COMPILER_ID MATCHES "GNU|Clang")
  target_compile_options({name} PRIVATE -Wall -Wextra -Wconversion -ffp-contract=off \
-ffunction-sections -fdata-sections)
endif()
"""


def _sketch(name: str, prog: Program) -> str:
    upper = name.upper()
    arena = emit.arena_type(prog)
    zero = prog.input.zero if prog.activations == "u8" else 0
    return f"""// Runs {name} on an empty input and prints the class and the time of one run.
#include <{name}.h>

static {arena} arena[{upper}_ARENA_BYTES / 4];
static tbn_ctx ctx;

void setup() {{
  Serial.begin(115200);
  tbn_status status = {name}_init(&ctx, arena, sizeof arena);
  if (status == TBN_OK) status = {name}_selftest(&ctx);
  Serial.print("self-test: ");
  Serial.println((int)status);  // 0 is TBN_OK
}}

void loop() {{
  for (uint32_t i = 0; i < {upper}_INPUT_LEN; i++) \
{name}_input(&ctx)[i] = {zero};  // your sensor here
  const unsigned long start = micros();
  {name}_run(&ctx);
  const unsigned long end = micros();
  Serial.print("class ");
  Serial.print((unsigned long){name}_argmax(&ctx));
  Serial.print(", microseconds ");
  Serial.println(end - start);
  delay(1000);
}}
"""


def _readme(
    name: str,
    prog: Program,
    target: str,
    about: dict[str, Any],
) -> str:
    flags = ""
    if prog.activations == "f32":
        flags = "\nFloat results are the same on every target as long as `-ffast-math` is off."
    binarizer = about.get("binarizer", "")
    model = about.get("model", "")
    table_bytes = 4 * len(prog.table)
    return f"""# {name}

A network exported by tbn_bench {__version__} for {TARGETS[target].processors} ({prog.activations} \
activations): {binarizer} {model}.
{prog.input_len} inputs ({emit.shape_text(prog)}), {prog.output_len} outputs, \
{table_bytes:,} bytes of tables, {prog.arena_bytes:,} bytes of RAM.

- **Arduino**: put this folder into `libraries/`, open *Examples > {name}*.
- **PlatformIO**: put it into `lib/`.
- **CMake**: `add_subdirectory({name})`, `target_link_libraries(app {name})`.
- **Anything else**: compile `src/*.c` with `-Isrc`; link with `--gc-sections`.

The functions are in `src/{name}.h`. `{name}_selftest` checks the tables and what every layer \
computes on this very chip; it is not linked unless
it is called. `make -C test host` compares the code with the outputs that Python computed \
(`extras/vectors.json`).{flags}
"""
