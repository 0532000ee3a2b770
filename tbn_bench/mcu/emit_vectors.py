"""The C text of the test program: vectors and the names of the model."""

import numpy as np

from tbn_bench.mcu import emulate
from tbn_bench.mcu.c_text import float_text, hex_text, int32_text, rows, types_of
from tbn_bench.mcu.graph import Array
from tbn_bench.mcu.program import Program


def vectors(prog: Program, x: Array) -> str:
    """The harness's test vectors: inputs and the outputs that Python computes for them."""
    y = emulate.run(prog, x)
    if prog.activations == "u8":
        note = ""
        output_type = "int32_t"
        inputs = rows(x, str)
        outputs = rows(y, int32_text)
    else:
        note = ", as bits"
        output_type = "uint32_t"
        inputs = rows(x, float_text)
        outputs = rows(y.view(np.uint32), hex_text)
    return f"""/* Test vectors and the outputs they must give{note}. */
#define VECTORS {len(x)}
static const TBN_ROM MODEL_INPUT_T vectors[VECTORS][MODEL_INPUT_LEN] = {{
{inputs}}};
static const TBN_ROM {output_type} expected[VECTORS][MODEL_OUTPUT_LEN] = {{
{outputs}}};
"""


def model_header(name: str, prog: Program) -> str:
    upper = name.upper()
    input_type, output_type = types_of(prog)
    is_float = int(prog.activations == "f32")
    return f"""/* What test/main.c calls. */
#include "../src/{name}.h"
#define MODEL(function) {name}_##function
#define MODEL_ARENA_BYTES {upper}_ARENA_BYTES
#define MODEL_INPUT_LEN {upper}_INPUT_LEN
#define MODEL_OUTPUT_LEN {upper}_OUTPUT_LEN
#define MODEL_INPUT_T {input_type}
#define MODEL_OUTPUT_T {output_type}
#define MODEL_F32 {is_float}
#define MODEL_SOURCE "../src/{name}.c"
#define MODEL_OPS {name}_ops
"""
