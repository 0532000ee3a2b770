"""An exported network as C text: its header, its tables and functions, all of it in one file, and the test vectors."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbn_bench import __version__
from tbn_bench.mcu import emulate, layout
from tbn_bench.mcu.program import Op, Program

Array = NDArray[Any]
HERE = Path(__file__).parent / "c"
RUNTIME = ("tbn_rt.h", "tbn_rt.c")
_LINE = 8


def crc(table: Array) -> int:
    """CRC-32 of the little-endian words."""
    return zlib.crc32(table.astype("<u4").tobytes())


def _array(kind: str, name: str, values: Any, text: Any, comment: str = "") -> str:
    items = [text(v) for v in values]
    lines = ",\n".join(
        "    " + ", ".join(items[i : i + _LINE]) for i in range(0, len(items), _LINE)
    )
    return f"{comment}static const TBN_ROM {kind} {name}[{len(items)}] = {{\n{lines}}};\n"


def _hex(v: Any) -> str:
    return f"0x{int(v):08X}u"


def float_text(v: float) -> str:
    """A C float literal that gives exactly this float32."""
    text = f"{np.float32(v):.9g}"
    return f"{text if any(ch in text for ch in '.en') else text + '.0'}f"


def header(name: str, prog: Program) -> str:
    upper, kind, arena = name.upper(), _types(prog), arena_type(prog)
    return f"""/* {name}: a network exported by tbn_bench {__version__}. Copy nothing by hand: the tables and this header belong together.
 *
 * {prog.input_len} inputs ({shape_text(prog)}), {kind[0]}; {prog.output_len} outputs, {kind[1]}.
 * Real value of input u: {upper}_INPUT_SCALE * (u - {upper}_INPUT_OFFSET); of output v: {upper}_OUTPUT_SCALE * v.
 *
 *     static {arena} arena[{upper}_ARENA_BYTES / 4];
 *     tbn_ctx ctx;
 *     if ({name}_init(&ctx, arena, sizeof arena) != TBN_OK) ...
 *     fill {name}_input(&ctx)[0 .. {prog.input_len - 1}]      before every run: a run overwrites its input
 *     {name}_run(&ctx);
 *     use {name}_argmax(&ctx), {name}_output(&ctx)
 *
 * Any number of contexts may be in use at once, each with an arena of its own. */
#ifndef {upper}_H
#define {upper}_H

#include "tbn_rt.h"

#if TBN_RT_VERSION != 1
#error "{name} was exported for version 1 of tbn_rt; export it again, or use the tbn_rt.h and tbn_rt.c beside it"
#endif

#define {upper}_ARENA_BYTES {prog.arena_bytes}u
#define {upper}_INPUT_LEN {prog.input_len}u
#define {upper}_OUTPUT_LEN {prog.output_len}u
#define {upper}_INPUT_SCALE {float_text(prog.input.scale)}
#define {upper}_INPUT_OFFSET {float_text(prog.input.offset)}
#define {upper}_OUTPUT_SCALE {float_text(prog.output_scale)}
#define {upper}_CRC32 {_hex(crc(prog.table))}
#define {upper}_LAYOUT {layout.LAYOUTS[prog.layout]} /* {prog.layout}, version {layout.VERSION} */

#ifdef __cplusplus
extern "C" {{
#endif

/* arena: {upper}_ARENA_BYTES bytes, beginning at a multiple of 4; nothing is copied or allocated. */
tbn_status {name}_init(tbn_ctx *c, void *arena, uint32_t bytes);
/* Where inputs go: {upper}_INPUT_LEN values{_order(prog)}. */
{kind[0]} *{name}_input(tbn_ctx *c);
tbn_status {name}_run(tbn_ctx *c);
/* {upper}_OUTPUT_LEN values, valid until the next run. */
const {kind[1]} *{name}_output(const tbn_ctx *c);
/* The largest output; of equal ones the first. */
uint32_t {name}_argmax(const tbn_ctx *c);
/* Checks the tables and what every layer computes; overwrites the arena. Not linked unless called. */
tbn_status {name}_selftest(tbn_ctx *c);
void {name}_info(tbn_info *info);

#ifdef __cplusplus
}}
#endif

#endif
"""


def _types(prog: Program) -> tuple[str, str]:
    return ("uint8_t", "int32_t") if prog.activations == "u8" else ("float", "float")


def arena_type(prog: Program) -> str:
    """The type of the arena: what lies in it, so that a compiler may reason by types."""
    return "uint32_t" if prog.activations == "u8" else "float"


def shape_text(prog: Program) -> str:
    return " x ".join(str(n) for n in prog.graph.shapes[0])


def _order(prog: Program) -> str:
    return ", (height, width, channels)" if prog.graph.shapes[0][0] > 1 else ""


def source(name: str, prog: Program) -> str:
    parts = [f'/* {name}: tables and functions; see {name}.h. */\n#include "{name}.h"\n']
    if prog.activations == "f32":
        parts.append(_STRICT_FLOAT)
    parts.append(
        _array(
            "uint32_t",
            f"{name}_table",
            prog.table,
            _hex,
            "/* Weights, scales and biases of all layers. */\n",
        )
    )
    at, layers, windows, ops = 0, [], [], []
    for i, op in enumerate(prog.ops):
        layers.append(_layer(name, op, at))
        at += len(op.table)
        if op.function == "tbn_window_op":
            ops.append((op, i, len(windows)))
            windows.append(_window(prog, op))
        else:
            ops.append((op, i, -1))
    parts.append(
        f"static const TBN_ROM tbn_layer {name}_layers[] = {{\n" + ",\n".join(layers) + "};\n"
    )
    if windows:
        parts.append(
            f"static const TBN_ROM tbn_window {name}_windows[] = {{\n"
            + ",\n".join(windows)
            + "};\n"
        )
    parts.append(
        f"static const TBN_ROM tbn_op {name}_ops[] = {{\n"
        + ",\n".join(_op(name, *o) for o in ops)
        + "};\n"
    )
    parts.append(_functions(name, prog))
    return "\n".join(parts)


_STRICT_FLOAT = """#if defined(__FAST_MATH__) || (defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0 && __FLT_EVAL_METHOD__ != 16)
#error "float results are the same on every target without -ffast-math and with float arithmetic in float; for i386 add -msse2 -mfpmath=sse"
#endif
"""


def _pointer(name: str, length: int, at: int) -> str:
    return f"{name}_table + {at}" if length else "0"


def _layer(name: str, op: Op, at: int) -> str:
    node = op.node
    sizes = [len(op.weights), len(op.scales), 0 if op.biases is None else len(op.biases)]
    where = [_pointer(name, n, at + sum(sizes[:i])) for i, n in enumerate(sizes)]
    tiled = node.kind == "tiled"
    numbers = [
        op.run,
        op.bias_unit,
        node.columns,
        node.rows,
        node.segment if tiled else 0,
        node.per_input if tiled else 1,
        node.per_tile if tiled else 0,
    ]
    if node.kind == "add":
        numbers[2:4] = [0, 0]
    flags = [int(op.per_row), int(op.wide), int(node.relu)]
    return f"    /* {node.name}, {node.kind} */\n    {{{', '.join(where)}, {', '.join(map(str, numbers + flags))}}}"


def _window(prog: Program, op: Op) -> str:
    w = op.node.window
    assert w is not None
    pixel = op.out_bytes // (w.out[0] * w.out[1])
    numbers = [
        *w.shape,
        *w.out,
        *w.kernel,
        *w.stride,
        *w.dilation,
        *w.padding,
        pixel,
        prog.element,
        int(w.channels_first),
        op.pad,
        op.patch_at,
    ]
    return f"    /* {op.node.name} */\n    {{{', '.join(f'{n}u' for n in numbers)}}}"


def _op(name: str, op: Op, layer: int, window: int) -> str:
    row, place = op.row or "0", f"{name}_windows + {window}" if window >= 0 else "0"
    offsets = ", ".join(
        f"{n}u" for n in (op.in_at, op.out_at, op.scratch_at, op.in_bytes, op.out_bytes)
    )
    return f"    {{{op.function}, {row}, {name}_layers + {layer}, {place}, {offsets}}}"


def _functions(name: str, prog: Program) -> str:
    upper, kind = name.upper(), _types(prog)
    out, short = prog.output_op, "i32" if prog.activations == "u8" else "f32"
    return f"""static const TBN_ROM tbn_model {name}_model = {{{name}_ops, {name}_table, {len(prog.table)}u, {upper}_CRC32, {upper}_ARENA_BYTES, {out.out_at}u, {out.out_bytes}u, {len(prog.ops)}u, {int(prog.activations == "f32")}u}};

tbn_status {name}_init(tbn_ctx *c, void *arena, uint32_t bytes)
{{
    return tbn_init(c, &{name}_model, arena, bytes);
}}

{kind[0]} *{name}_input(tbn_ctx *c)
{{
    return ({kind[0]} *)(void *)(c->arena + {prog.ops[0].in_at}u);
}}

tbn_status {name}_run(tbn_ctx *c)
{{
    return tbn_run(c, &{name}_model);
}}

const {kind[1]} *{name}_output(const tbn_ctx *c)
{{
    return (const {kind[1]} *)(const void *)(c->arena + {out.out_at}u);
}}

uint32_t {name}_argmax(const tbn_ctx *c)
{{
    return tbn_argmax_{short}({name}_output(c), {upper}_OUTPUT_LEN);
}}

void {name}_info(tbn_info *info)
{{
    info->rt_version = TBN_RT_VERSION;
    info->layout = {upper}_LAYOUT;
    info->crc32 = {upper}_CRC32;
    info->arena_bytes = {upper}_ARENA_BYTES;
    info->input_len = {upper}_INPUT_LEN;
    info->output_len = {upper}_OUTPUT_LEN;
    info->input_scale = {upper}_INPUT_SCALE;
    info->input_offset = {upper}_INPUT_OFFSET;
    info->output_scale = {upper}_OUTPUT_SCALE;
}}

/* Here and not in a file of its own: the tables are static. Checksums of what each operation computes. */
static const TBN_ROM uint32_t {name}_expected[{len(prog.ops) + 1}] = {{{", ".join(_hex(v) for v in emulate.checksums(prog))}}};

tbn_status {name}_selftest(tbn_ctx *c)
{{
    return tbn_selftest(c, &{name}_model, {name}_expected);
}}
"""


def single(name: str, prog: Program) -> str:
    """All of a library in one header: to be included anywhere, and in one C file with NAME_IMPLEMENTATION defined before it."""
    upper = name.upper()
    runtime = [(HERE / file).read_text() for file in RUNTIME]
    parts = [
        _without_includes(text)
        for text in (runtime[0], header(name, prog), runtime[1], source(name, prog))
    ]
    return (
        f'/* {name} in one file. In exactly one C file:\n *     #define {upper}_IMPLEMENTATION\n *     #include "{name}_single.h" */\n'
        f"{parts[0]}\n{parts[1]}\n#ifdef {upper}_IMPLEMENTATION\n#ifndef TBN_RT_IMPLEMENTED\n#define TBN_RT_IMPLEMENTED\n{parts[2]}\n#endif\n"
        f"{parts[3]}\n#endif\n"
    )


def _without_includes(text: str) -> str:
    return "".join(
        line for line in text.splitlines(keepends=True) if not line.startswith('#include "')
    )


def vectors(prog: Program, x: Array) -> str:
    """The harness's test vectors: inputs and the outputs that Python computes for them."""
    y = emulate.run(prog, x)
    ints = prog.activations == "u8"
    kinds = ("MODEL_INPUT_T", "int32_t") if ints else ("MODEL_INPUT_T", "uint32_t")

    def rows(values: Array, text: Any) -> str:
        return ",\n".join("    {" + ", ".join(text(v) for v in row) + "}" for row in values)

    inputs = rows(x, str if ints else float_text)
    outputs = rows(y, _int32) if ints else rows(y.view(np.uint32), _hex)
    return (
        f"/* Test vectors and the outputs they must give{'' if ints else ', as bits'}. */\n#define VECTORS {len(x)}\n"
        f"static const TBN_ROM {kinds[0]} vectors[VECTORS][MODEL_INPUT_LEN] = {{\n{inputs}}};\n"
        f"static const TBN_ROM {kinds[1]} expected[VECTORS][MODEL_OUTPUT_LEN] = {{\n{outputs}}};\n"
    )


def _int32(v: Any) -> str:
    return "-2147483647 - 1" if int(v) == -(2**31) else str(int(v))


def model_header(name: str, prog: Program) -> str:
    upper, kind = name.upper(), _types(prog)
    return f"""/* What test/main.c calls. */
#include "../src/{name}.h"
#define MODEL(function) {name}_##function
#define MODEL_ARENA_BYTES {upper}_ARENA_BYTES
#define MODEL_INPUT_LEN {upper}_INPUT_LEN
#define MODEL_OUTPUT_LEN {upper}_OUTPUT_LEN
#define MODEL_INPUT_T {kind[0]}
#define MODEL_OUTPUT_T {kind[1]}
#define MODEL_F32 {int(prog.activations == "f32")}
#define MODEL_SOURCE "../src/{name}.c"
#define MODEL_OPS {name}_ops
"""
